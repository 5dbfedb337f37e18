"""The pictures of a run: a split with masks, a folder without any, or the shipped photos."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfast import files
from segfast.artifacts.golden import PHOTOS, photo
from segfast.datasets import Dataset, detect_dataset
from segfast.datasets.content import tell
from segfast.datasets.options import Reading
from segfast.errors import BadData, BadOption
from segfast.evaluation.opening import open_split
from segfast.image import read_image
from segfast.pictures.selection import find_pictures

# So many pictures are timed, evenly from all; so many judged where there are no masks.
TIMED, COMPARED = 6, 24
# Of a shipped photo, where none are given.
SIDE = 640


@dataclass(frozen=True)
class Pictures:
    """What candidates are judged and timed on.

    Attributes:
        dataset: the split with masks, checked; None without masks.
        images: [H, W, 3] each: to compare labels on, where there are no masks.
        timed: [H, W, 3] each.
        words: what they are, for people.
    """

    dataset: Dataset | None
    images: list[NDArray[np.uint8]]
    timed: list[NDArray[np.uint8]]
    words: str

    def save(self, path: Path) -> Path:
        """Write those that are timed for the processes that time, as `.npz`.

        Raises:
            CannotWrite: the destination is full, read-only or missing.
        """
        with files.publish(path) as temporary:
            np.savez(temporary, *self.timed)
        return path

    def at_size(self, height: int, width: int) -> Pictures:
        """Those that are timed stretched to a size, the only one that a file of labels takes."""
        timed = [np.array(Image.fromarray(image).resize((width, height))) for image in self.timed]
        return replace(self, timed=timed, words=f"{self.words}, stretched to {height}×{width}")


def open_pictures(data: str | None, dataset: str | None, split: str, reading: Reading, limit: int | None) -> Pictures:
    """The pictures that the command line names.

    Raises:
        BadData: the split, or its masks, cannot be used.
        BadOption: there is no such folder, split or picture.
    """
    if data is None:
        photos = [photo((SIDE, SIDE), name) for name in PHOTOS]
        return Pictures(None, photos, photos, "three photos of segfast's own, as no --data was given")
    if not Path(data).is_dir():
        raise BadOption(f"--data takes a folder of pictures, and {data} is none; check the path")
    if dataset is None:
        try:
            dataset = detect_dataset(data)
        except BadData:
            return _alone(data, limit)
    opened = open_split(dataset, data, split, reading, predicting=False)
    opened = opened if limit is None else opened.take(_evenly(len(opened), limit))
    tell([opened.check(progress=True)])
    timed = [opened.image(index) for index in _evenly(len(opened), TIMED)]
    return Pictures(opened, [], timed, f"{opened.name} {opened.split}, {len(opened)} pictures with masks")


def _alone(data: str, limit: int | None) -> Pictures:
    """Pictures of a folder that holds no dataset."""
    found = [path for path, _ in find_pictures([data], Path(data) / "out").pictures]
    images = [read_image(found[index]) for index in _evenly(len(found), limit or COMPARED)]
    timed = [images[index] for index in _evenly(len(images), TIMED)]
    return Pictures(None, images, timed, f"{len(images)} pictures of {data}, which has no classes.txt and no masks")


def _evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, evenly."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, wanted)).round()})
