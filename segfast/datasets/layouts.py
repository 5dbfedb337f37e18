"""Where each dataset keeps its pictures and masks, as its owner distributes it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from segfast import classes as labels
from segfast.classes import Names, Palette
from segfast.datasets.base import IGNORE
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


def folder(root: Path, split: str) -> Layout:
    """Anyone's own pictures.

    images/{train,val}/a.jpg      any format, any depth of folders
    masks/{train,val}/a.png       grey or palette: the index of the class, 255 for none
    classes.txt                   a class a line, in the order of the indices, with a colour if you like:
                                  sky, traffic light #ff0000, or road 128 64 128
    """
    tree = _tree(root, "folder", "classes.txt")
    if not re.fullmatch(r"\w[\w .-]*", split) or not (tree.root / "images" / split).is_dir():
        there = sorted(path.name for path in (tree.root / "images").glob("*/"))
        raise BadOption(f"{tree.root / 'images'} has no split {split!r}; there are {', '.join(there) or 'none'}")
    names, palette = read_classes(tree)
    pictures, masks = tree.find(f"images/{split}", SUFFIXES), tree.find(f"masks/{split}", {".png"})
    return _layout(tree, "folder", pair(pictures, masks, "index"), names, palette)


# A name, and a colour as #rrggbb or as three numbers.
_CLASS = re.compile(r"(.*?\S)[\s,:;]+(?:#([0-9a-fA-F]{6})|(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3}))")


def read_classes(tree: Tree) -> tuple[Names, Palette]:
    """Names and colours in `classes.txt`; a class without a colour is given one.

    Raises:
        BadData: there is no class, there are too many, one is named twice, or a colour is none.
    """
    path, lines = tree.root / "classes.txt", _lines(tree, "classes.txt")
    if not 1 <= len(lines) <= IGNORE:
        raise BadData(f"{path} names {len(lines)} classes; write 1 to {IGNORE} of them, one a line")
    names, palette = [], list(labels.generated_palette(len(lines)))
    for index, line in enumerate(lines):
        match = _CLASS.fullmatch(line)
        names.append(match[1] if match else line)
        if match:
            colour = bytes.fromhex(match[2]) if match[2] else [int(channel) for channel in match.groups()[2:]]
            palette[index] = (colour[0], colour[1], colour[2])
    faults = [f"{name!r} is named twice" for name in sorted({name for name in names if names.count(name) > 1})]
    faults += [
        f"{name!r} has the colour {c}; its numbers go up to 255"
        for name, c in zip(names, palette, strict=True)
        if max(c) > 255
    ]
    if faults:
        raise BadData(f"{path} must give every class a name of its own:", faults)
    return tuple(names), tuple(palette)


LAYOUTS: Mapping[str, Callable[[Path, str], Layout]] = MappingProxyType(
    {"ade20k": ade20k, "pascal_context": pascal_context, "cityscapes": cityscapes, "folder": folder}
)

# Where a dataset may lie below the folder that is named, and what is there of it whatever the split.
_PLACES = {
    "ade20k": (("", "ADEChallengeData2016", "ade/ADEChallengeData2016", "ade20k/ADEChallengeData2016"), "annotations"),
    "pascal_context": (
        ("", "VOC2010", "VOCdevkit/VOC2010", "pcontext/VOCdevkit/VOC2010"),
        "ImageSets/SegmentationContext",
    ),
    "cityscapes": (("", "cityscapes"), "leftImg8bit"),
    "folder": (("",), "classes.txt"),
}


def detect_dataset(root: str | os.PathLike[str]) -> str:
    """Which dataset a folder holds, by its layout.

    Raises:
        BadData: it is none that is read here.
    """
    top = Path(root)
    found = [name for name, (places, sign) in _PLACES.items() if any((top / place / sign).exists() for place in places)]
    if not found:
        if not top.is_dir():
            raise BadData(f"there is no folder {top}; check the path")
        raise BadData(
            f"{top} holds no dataset that is known: for your own pictures it needs images/train, images/val, masks/train, "
            "masks/val and classes.txt; for ADE20K, Pascal Context or Cityscapes name the folder it was unpacked to"
        )
    return "folder" if "folder" in found else found[0]


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
        "folder": "write the classes to it, one a line in the order of the masks' values",
    }
    raise BadData(
        f"{root} is no folder of {name}: it lacks {needed}; {steps.get(name, 'name the one it was unpacked to')}"
    )


def _part(split: str, parts: Mapping[str, str]) -> str:
    if split not in parts:
        raise BadOption(f"there is no labelled split {split!r}; there are {', '.join(parts)}")
    return parts[split]


def _layout(tree: Tree, name: str, pairs: tuple[Pair, ...], names: Names = (), palette: Palette = ()) -> Layout:
    """What was found, with the classes of the dataset or those given.

    Raises:
        BadData: it is nothing.
    """
    if not pairs:
        raise BadData(f"{tree.root} has no pictures of this split; add some", tree.stray)
    if not names:
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
