"""Labelled pictures: the paper's datasets, anyone's own folder, and a set that draws itself.

    open_dataset("ade20k", "data/ADEChallengeData2016", "val")
    open_dataset("folder", "data/mine", "train", fraction=0.5)
    open_dataset("shapes")

Nothing here needs the trainer or PyTorch.
"""

from __future__ import annotations

import os
from pathlib import Path

from segfast.datasets import foreign
from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.coco import open_coco
from segfast.datasets.coco_splits import find_coco
from segfast.datasets.folder import SHAPE, find_class_list, open_folder
from segfast.datasets.layouts import LAYOUTS, detect_layout
from segfast.datasets.options import Reading
from segfast.datasets.pairs import PairsDataset, subset
from segfast.datasets.places import Places
from segfast.datasets.shapes import ShapesDataset
from segfast.errors import BadData, BadOption

__all__ = ["IGNORE", "NAMES", "Dataset", "Reading", "detect_dataset", "open_dataset"]

NAMES = (*LAYOUTS, "folder", "shapes")


def open_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "val",
    *,
    fraction: float = 1.0,
    reading: Reading | None = None,
) -> Dataset:
    """One split of a dataset, listed but not yet read; `check` reads it.

    Args:
        name: `ade20k`, `pascal_context`, `cityscapes`, `folder`, or `shapes`, which needs no root.
        root: the folder its owner distributes, or one above it.
        split: `train` or `val`; of a folder, any it has.
        fraction: take that share of the samples, at least one; a smaller share is a part of a larger
            one (paper, Table 5).
        reading: how a folder of one's own is read, where its files do not say it.

    Raises:
        BadData: the folder, its layout or its class list is not what it should be.
        BadOption: the name, split or fraction is impossible.
    """
    if not 0 < fraction <= 1:
        raise BadOption(f"fraction must be over 0 and at most 1; got {fraction!r}")
    reading = (reading or Reading()).check()
    if name != "folder" and reading != Reading():
        raise BadOption(f"{name} is read as its owner says; the options of reading are for a folder of your own")
    if name == "shapes":
        return ShapesDataset.of(split, fraction)
    if name not in NAMES:
        raise BadOption(f"no dataset is named {name!r}; there are {', '.join(NAMES)}")
    if root is None:
        raise BadOption(f"where is {name}? name its folder")
    if name == "folder":
        return _own(Path(root), split, fraction, reading)
    found = LAYOUTS[name](Path(root), split)
    pairs = subset(found.pairs, fraction)
    return PairsDataset(name, split, found.classes, found.palette, found.root, pairs, found.stray)


def _own(root: Path, split: str, fraction: float, reading: Reading) -> Dataset:
    """A folder of one's own: masks, or COCO's JSON where there is no class list beside masks."""
    if not root.is_dir():
        raise BadData(f"there is no folder {root}; check the path")
    if _is_coco(root):
        return open_coco(root, split, fraction, reading)
    found = open_folder(root, split, reading)
    pairs = subset(found.pairs, fraction)
    return PairsDataset(
        "folder", split, found.classes, found.palette, found.root, pairs, found.stray, found.decoding, found.notes
    )


def _is_coco(root: Path) -> bool:
    return find_class_list(root) is None and find_coco(root) != []


def detect_dataset(root: str | os.PathLike[str]) -> str:
    """Which dataset a folder holds, by its layout.

    Raises:
        BadData: it is none that is read here.
    """
    top = Path(root)
    if not top.is_dir():
        raise BadData(f"there is no folder {top}; check the path")
    if find_class_list(top) is not None:
        return "folder"
    found = detect_layout(top)
    if found is None and not _is_coco(top):
        told = _without_list(top) or foreign.of_other_tools(top)
        if told:
            raise BadData(f"{top} holds no dataset: {told}")
        if below := [path.name for path in sorted(top.glob("*/")) if find_class_list(path) is not None]:
            raise BadData(f"{top} is no dataset itself, but folders in it may be; name one: {', '.join(below[:8])}")
        raise BadData(
            f"{top} holds no dataset: it is none that is known; for your own pictures it should look like {SHAPE}, with images/train, "
            "images/val, masks/train and masks/val; for ADE20K, Pascal Context or Cityscapes name the folder it was unpacked to"
        )
    return found or "folder"


def _without_list(root: Path) -> str | None:
    """What pictures with masks lack where no file lists the classes; None where there are none."""
    places = Places(root)
    found = [places.of(split) for split in places.splits()] or [places.flat()]
    held = [foreign.values(root, place.masks) for place in found if place is not None]
    if not any(held):
        return None
    return (
        f"its pictures are found, but no classes.txt; its masks hold {next(filter(None, held))}: name every class there, one "
        "a line, in the order of the values, or with its colour (car 255 0 0)"
    )
