"""Labelled pictures: the paper's datasets, anyone's own folder, and a set that draws itself.

    open_dataset("ade20k", "data/ADEChallengeData2016", "val")
    open_dataset("folder", "data/mine", "train", fraction=0.5)
    open_dataset("shapes")

Nothing here needs the trainer or PyTorch.
"""

from __future__ import annotations

import os
from pathlib import Path

from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.layouts import LAYOUTS, detect_dataset
from segfast.datasets.pairs import PairsDataset, subset
from segfast.datasets.shapes import ShapesDataset
from segfast.errors import BadOption

__all__ = ["IGNORE", "NAMES", "Dataset", "detect_dataset", "open_dataset"]

NAMES = (*LAYOUTS, "shapes")


def open_dataset(
    name: str, root: str | os.PathLike[str] | None = None, split: str = "val", *, fraction: float = 1.0
) -> Dataset:
    """One split of a dataset, listed but not yet read; `check` reads it.

    Args:
        name: `ade20k`, `pascal_context`, `cityscapes`, `folder`, or `shapes`, which needs no root.
        root: the folder its owner distributes, or one above it.
        split: `train` or `val`; of a folder, any it has.
        fraction: take that share of the samples, at least one; a smaller share is a part of a larger
            one (paper, Table 5).

    Raises:
        BadData: the folder, its layout or its class list is not what it should be.
        BadOption: the name, split or fraction is impossible.
    """
    if not 0 < fraction <= 1:
        raise BadOption(f"fraction must be over 0 and at most 1; got {fraction!r}")
    if name == "shapes":
        return ShapesDataset.of(split, fraction)
    if name not in LAYOUTS:
        raise BadOption(f"no dataset is named {name!r}; there are {', '.join(NAMES)}")
    if root is None:
        raise BadOption(f"where is {name}? name its folder")
    found = LAYOUTS[name](Path(root), split)
    pairs = subset(found.pairs, fraction)
    return PairsDataset(name, split, found.classes, found.palette, found.root, pairs, found.stray)
