"""Predictions of a whole split as PNG: class indices, or what the servers of ADE20K and Cityscapes take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfast import files
from segfast.datasets import Dataset
from segfast.errors import BadOption
from segfast.evaluation.metrics import Labels

# labelIds of Cityscapes' 19 trainIds, in their order (cityscapesScripts, helpers/labels.py).
CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def _index(labels: Labels) -> NDArray[np.uint8]:
    return labels.astype(np.uint8)


def _ade20k(labels: Labels) -> NDArray[np.uint8]:
    return (labels + 1).astype(np.uint8)


def _cityscapes(labels: Labels) -> NDArray[np.uint8]:
    return np.array(CITYSCAPES, np.uint8)[labels]


# How a class index is written; ADE20K's files hold 1 … 150, and 0 is no class.
STYLES: Mapping[str, Callable[[Labels], NDArray[np.uint8]]] = MappingProxyType(
    {"index": _index, "ade20k": _ade20k, "cityscapes": _cityscapes}
)
_CLASSES = {"ade20k": 150, "cityscapes": 19}


@dataclass(frozen=True)
class Predictions:
    """Where the predictions of a dataset go: one PNG a picture, by its key.

    Attributes:
        folder: made if missing; pictures in folders of the split are written into the same ones, but those of
            Cityscapes into one folder, as its server takes them.
        style: a key of STYLES.
    """

    dataset: Dataset
    folder: Path
    style: str = "index"

    def check(self) -> Predictions:
        """Itself, if the dataset's classes can be written so.

        Raises:
            BadOption: the style is unknown, or of other classes.
        """
        if self.style not in STYLES:
            raise BadOption(f"predictions are written as {', '.join(STYLES)}; got {self.style!r}")
        wanted, K = _CLASSES.get(self.style), len(self.dataset.classes)
        if wanted not in (None, K):
            raise BadOption(f"{self.style}'s files are of its {wanted} classes, and there are {K}; write them as index")
        return self

    def __call__(self, index: int, labels: Labels) -> None:
        """Write the labels [H, W] of a picture.

        Raises:
            CannotWrite: the folder is full, read-only or cannot be made.
        """
        path = self.path(index)
        files.make_folder(path.parent)
        files.write_png(Image.fromarray(STYLES[self.style](labels)), path)

    def path(self, index: int) -> Path:
        """The file of a picture."""
        key = PurePosixPath(self.dataset.key(index))
        if self.style == "cityscapes":
            return self.folder / f"{key.name.removesuffix('_leftImg8bit')}_pred_labelIds.png"
        return self.folder / f"{key}.png"
