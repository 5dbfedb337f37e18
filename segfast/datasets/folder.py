"""Anyone's own pictures, however the folders are named."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segfast.classes import Names, Palette
from segfast.datasets import class_list, endings, foreign, mapping
from segfast.datasets.class_list import ClassList
from segfast.datasets.decoding import Decoding
from segfast.datasets.masks import LOSSY
from segfast.datasets.masks import SUFFIXES as MASKS
from segfast.datasets.options import Reading
from segfast.datasets.pairs import Pair
from segfast.datasets.places import MASK_ENDINGS, Place, Places
from segfast.datasets.tree import Tree, pair
from segfast.errors import BadData, BadOption
from segfast.pictures.formats import SUFFIXES

SHAPE = (
    "images/train/a.jpg, masks/train/a.png, the same for val, and classes.txt with a class a line (docs/data.md shows "
    "what else is read)"
)


class Folder(NamedTuple):
    """What a folder holds of a split.

    Attributes:
        decoding: how its masks become labels.
        notes: what was found and how it was understood, a line each.
    """

    root: Path
    classes: Names
    palette: Palette
    pairs: tuple[Pair, ...]
    stray: tuple[str, ...]
    decoding: Decoding
    notes: tuple[str, ...] = ()


def open_folder(root: Path, split: str, reading: Reading) -> Folder:
    """A split of one's own pictures.

    images/{train,val}/a.jpg      any format, any depth of folders
    masks/{train,val}/a.png       grey, palette or colours: the class of every pixel, 255 for none
    classes.txt                   a class a line, in the order of the indices, with a colour if you like

    Other usual names and nestings are found as well (`datasets.places`), other class lists are read
    (`datasets.class_list`), and names may differ in an ending (`datasets.endings`).

    Raises:
        BadData: there is no folder, no class list, or no picture.
        BadOption: there is no such split.
    """
    listed = find_class_list(root)
    if listed is None:
        raise BadData(f"{root} is no folder of pictures with classes: it lacks classes.txt; {_advice(root)}")
    classes, palette, decoding, notes = read_classes(listed, reading)
    tree = Tree(root.resolve(), follow=reading.follow_links)
    pictures, masks, more = _files(tree, split, reading)
    found = endings.match(pictures, masks)
    notes = (*notes, *more, *([found.how] if found.how else []))
    pairs = pair(found.pictures, found.masks, "own")
    if found.pictures and not found.masks and (told := foreign.of_other_tools(tree.root)):
        raise BadData(f"{split} of {tree.root} has no masks: {told}")
    if not pairs:
        raise BadData(f"{tree.root} has no pictures of {split}; add some", tree.stray)
    return Folder(tree.root, classes, palette, pairs, (*_unpaired(pairs, found), *tree.stray), decoding, notes)


def find_class_list(root: Path) -> Path | None:
    """The file that lists the classes, if there is one."""
    there = {path.name.lower(): path for path in sorted(root.glob("*")) if path.is_file()} if root.is_dir() else {}
    return next((there[name] for name in class_list.FILES if name in there), None)


def read_classes(path: Path, reading: Reading) -> tuple[Names, Palette, Decoding, tuple[str, ...]]:
    """Names, palette, how masks are read, and what to tell of it."""
    listed = class_list.read_class_list(path)
    decoding = Decoding.of(listed, reading.ignore_index, reduce_zero=reading.reduce_zero_label)
    told = (f"{path.name}:", *listed.lines())
    if reading.map is None:
        return listed.names, listed.palette, decoding, told
    mapped = mapping.read_mapping(Path(reading.map), listed.names, listed.palette)
    new = ClassList(mapped.names, mapped.palette, tuple(range(len(mapped.names))))
    told = (*told, f"as {reading.map} maps them:", *new.lines())
    return mapped.names, mapped.palette, decoding.mapped(mapped.targets), told


def _files(tree: Tree, split: str, reading: Reading) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Pictures and masks of a split by key, and what to tell of where they are."""
    places = Places(tree.root)
    if not re.fullmatch(r"\w[\w .-]*", split):
        raise _no_split(tree, places, split)
    place = places.of(split)
    if place is not None:
        if reading.val_fraction is not None and split == "val":
            raise BadOption(f"{tree.root} has {place.pictures} to evaluate on; leave --val-fraction out")
        usual = (place.pictures, place.masks) == (f"images/{split}", f"masks/{split}")
        told = () if usual else (f"{split}: pictures in {place.pictures}, masks in {place.masks}",)
        pictures, masks = _found(tree, place)
        if reading.val_fraction is not None and split == "train" and places.of("val") is None:
            return *_share(pictures, masks, split, reading.val_fraction), told
        return pictures, masks, told
    place = places.flat()
    listing = places.listing(split)
    if place is not None and listing is not None:
        pictures, masks = _found(tree, place)
        told = (f"{split}: as {listing.name} lists, pictures in {place.pictures}, masks in {place.masks}",)
        return *_listed(pictures, masks, listing), told
    place = place or (places.of("train") if split == "val" else None)
    if place is not None and split in ("train", "val") and reading.val_fraction is not None:
        told = (f"{split}: a share of {place.pictures} and {place.masks}",)
        return *_share(*_found(tree, place), split, reading.val_fraction), told
    raise _no_split(tree, places, split)


def _found(tree: Tree, place: Place) -> tuple[dict[str, str], dict[str, str]]:
    if place.pictures != place.masks:
        return tree.find(place.pictures, SUFFIXES), tree.find(place.masks, MASKS | LOSSY)
    every = tree.find(place.pictures, SUFFIXES)
    masks = {key: path for key, path in every.items() if MASK_ENDINGS.search(key)}
    return {key: path for key, path in every.items() if key not in masks}, masks


def _share(
    pictures: dict[str, str], masks: dict[str, str], split: str, fraction: float
) -> tuple[dict[str, str], dict[str, str]]:
    """The pictures of a split that is a share of all, drawn by chance and always the same, and the masks of these."""
    found = endings.match(pictures, masks)
    keys = sorted(found.pictures.keys() | found.masks.keys())
    count = min(max(1, round(fraction * len(keys))), max(1, len(keys) - 1))
    drawn = {keys[index] for index in np.random.default_rng(0).permutation(len(keys))[:count]}
    kept = drawn if split == "val" else set(keys) - drawn
    return (
        {key: path for key, path in found.pictures.items() if key in kept},
        {key: path for key, path in found.masks.items() if key in kept},
    )


def _listed(pictures: dict[str, str], masks: dict[str, str], listing: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What a list names: a name, or paths of a picture and its mask, a line."""
    found = endings.match(pictures, masks)
    names = {os.path.basename(key): key for key in found.pictures}
    chosen, odd = [], []
    for line in listing.read_text(encoding="utf-8-sig").splitlines():
        word = re.split(r"[\s,;]+", line.strip())[0].replace("\\", "/")
        if not word or word.startswith("#"):
            continue
        stem = os.path.splitext(word)[0] if os.path.splitext(word)[1].lower() in SUFFIXES else word
        key = next((key for key in (stem, names.get(os.path.basename(stem))) if key in found.pictures), None)
        chosen.append(key) if key is not None else odd.append(f"{word!r} is no picture of this folder")
    if odd or not chosen:
        raise BadData(f"{listing} must list pictures, one a line:", odd)
    return (
        {key: found.pictures[key] for key in chosen if key is not None},
        {key: found.masks[key] for key in chosen if key in found.masks},
    )


def _unpaired(pairs: tuple[Pair, ...], found: endings.Match) -> list[str]:
    """Where no picture has its mask: what there is, and what would fit."""
    if any(one.image and one.mask for one in pairs) or not found.pictures or not found.masks:
        return []
    picture, mask = next(iter(found.pictures.values())), next(iter(found.masks.values()))
    return [
        f"no picture has a mask of its name: pictures are named like {picture}, masks like {mask}; give them one name, or "
        "names with one ending for all masks, such as a.jpg and a_mask.png"
    ]


def _no_split(tree: Tree, places: Places, split: str) -> BadOption | BadData:
    there = ", ".join(places.splits()) or ("one without a name" if places.flat() else "none")
    if there == "none":
        return BadData(f"{tree.root} has no pictures and masks that are found; {_advice(tree.root)}")
    place = places.flat()
    if place is not None and not _found(tree, place)[1] and (told := foreign.of_other_tools(tree.root)):
        return BadData(f"{tree.root} has no masks: {told}")
    words = f"{tree.root} has no split {split!r}; there are {there}"
    if split in ("train", "val"):
        words += (
            f": add images/{split} and masks/{split}, list the pictures in train.txt and val.txt, or let a share of "
            "them be val with --val-fraction 0.1"
        )
    return BadOption(words)


def _advice(root: Path) -> str:
    """What is there, and what would fit."""
    there = sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.glob("*"))[:12]
    listed = ", ".join(there) or "nothing"
    told = foreign.of_other_tools(root)
    return f"it holds {listed}; {told or f'it should look like {SHAPE}'}"
