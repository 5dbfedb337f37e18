"""Where each dataset keeps its pictures and masks, as its owner distributes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from segfast import classes as labels
from segfast.classes import Names, Palette
from segfast.datasets.pairs import Pair
from segfast.datasets.tree import Tree, pair
from segfast.errors import BadData, BadOption
from segfast.pictures.formats import SUFFIXES


class Layout(NamedTuple):
    """What a folder holds: K names and colours, its samples, and what was found and cannot be used."""

    root: Path
    classes: Names
    palette: Palette
    pairs: tuple[Pair, ...]
    stray: tuple[str, ...]


def ade20k(root: Path, split: str) -> Layout:
    """ADE20K of the scene parsing challenge, 150 classes.

        ADEChallengeData2016/images/{training,validation}/ADE_val_00000001.jpg
        ADEChallengeData2016/annotations/{training,validation}/ADE_val_00000001.png

    In the masks 0 is ignored, and 1 … 150 are the classes.
    """
    part = _part(split, {"train": "training", "val": "validation"})
    tree = _tree(root, "ade20k", f"images/{part}")
    pictures, masks = tree.find(f"images/{part}", SUFFIXES), tree.find(f"annotations/{part}", {".png"})
    return _layout(tree, "ade20k", pair(pictures, masks, "one-based"))


def pascal_context(root: Path, split: str) -> Layout:
    """Pascal Context, 59 classes and the background, as the original's and MMSegmentation's scripts lay it out.

        VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg
        VOCdevkit/VOC2010/SegmentationClassContext/2008_000002.png
        VOCdevkit/VOC2010/ImageSets/SegmentationContext/{train,val}.txt         one name a line

    In the masks 0 is the background, which is a class.
    """
    listing = f"ImageSets/SegmentationContext/{_part(split, {'train': 'train', 'val': 'val'})}.txt"
    tree = _tree(root, "pascal_context", listing)
    names = _lines(tree, listing)
    odd = [f"{name!r} is no file's name" for name in names if not re.fullmatch(r"\w[\w-]*", name)]
    if odd:
        raise BadData(f"{tree.root / listing} must list names, one a line and without ending:", odd)
    pictures = {name: tree.file(f"JPEGImages/{name}.jpg") for name in names}
    masks = {name: tree.file(f"SegmentationClassContext/{name}.png") for name in names}
    return _layout(tree, "pascal_context", pair(pictures, masks, "index"))


def cityscapes(root: Path, split: str) -> Layout:
    """Cityscapes with fine annotations, 19 classes.

        leftImg8bit/{train,val}/aachen/aachen_000000_000019_leftImg8bit.png
        gtFine/{train,val}/aachen/aachen_000000_000019_gtFine_labelTrainIds.png   or …_labelIds.png

    The trainIds are made of the labelIds by cityscapesScripts; where they were not, they are here.
    """
    part = _part(split, {"train": "train", "val": "val"})
    tree = _tree(root, "cityscapes", f"leftImg8bit/{part}")
    pictures = tree.find(f"leftImg8bit/{part}", {".png"}, "_leftImg8bit")
    ready = tree.find(f"gtFine/{part}", {".png"}, "_gtFine_labelTrainIds")
    ids = tree.find(f"gtFine/{part}", {".png"}, "_gtFine_labelIds")
    rest = {key: path for key, path in ids.items() if key not in ready}
    tabled = {**dict.fromkeys(ready, "index"), **dict.fromkeys(rest, "cityscapes-ids")}
    pairs = pair(pictures, {**ready, **rest}, "index")
    return _layout(tree, "cityscapes", tuple(one._replace(table=tabled.get(one.key, "index")) for one in pairs))


LAYOUTS: Mapping[str, Callable[[Path, str], Layout]] = MappingProxyType(
    {"ade20k": ade20k, "pascal_context": pascal_context, "cityscapes": cityscapes}
)

# Where a dataset may lie below the folder that is named, and what is there of it whatever the split.
_PLACES = {
    "ade20k": (
        ("", "ADEChallengeData2016", "ade/ADEChallengeData2016", "ade20k/ADEChallengeData2016"),
        ("annotations/training", "annotations/validation"),
    ),
    "pascal_context": (
        ("", "VOC2010", "VOCdevkit/VOC2010", "pcontext/VOCdevkit/VOC2010"),
        ("ImageSets/SegmentationContext",),
    ),
    "cityscapes": (("", "cityscapes"), ("leftImg8bit",)),
}


def detect_layout(top: Path) -> str | None:
    """Which of the paper's datasets a folder holds, if one."""
    return next(
        (
            name
            for name, (places, signs) in _PLACES.items()
            if any((top / place / sign).exists() for place in places for sign in signs)
        ),
        None,
    )


def _tree(root: Path, name: str, needed: str) -> Tree:
    """The tree of a dataset at or below the folder that is named.

    Raises:
        BadData: what is needed of it is not there.
    """
    for place in _PLACES[name][0]:
        if (root / place / needed).exists():
            return Tree((root / place).resolve())
    if not root.is_dir():
        raise BadData(f"there is no folder {root}; check the path")
    steps = {
        "pascal_context": "convert the annotations with MMSegmentation's tools/dataset_converters/pascal_context.py",
    }
    raise BadData(
        f"{root} is no folder of {name}: it lacks {needed}; {steps.get(name, 'name the one it was unpacked to')}"
    )


def _part(split: str, parts: Mapping[str, str]) -> str:
    if split not in parts:
        raise BadOption(f"there is no labelled split {split!r}; there are {', '.join(parts)}")
    return parts[split]


def _layout(tree: Tree, name: str, pairs: tuple[Pair, ...]) -> Layout:
    """What was found, with the classes of the dataset.

    Raises:
        BadData: it is nothing.
    """
    if not pairs:
        raise BadData(f"{tree.root} has no pictures of this split; add some", tree.stray)
    names, palette = labels.dataset(name)
    return Layout(tree.root, names, palette, pairs, tuple(tree.stray))


def _lines(tree: Tree, path: str) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        if tree.file(path) is None:
            raise FileNotFoundError("it is no file in this folder")
        text = (tree.root / path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{tree.root / path} cannot be read as UTF-8 text ({error}); write it again") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
