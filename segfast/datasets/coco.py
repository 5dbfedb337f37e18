"""COCO's JSON: polygons and run lengths, drawn as masks when they are asked for."""

from __future__ import annotations

import json
import os
import re
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from segfast.classes import generated_palette
from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.content import Content, Look, survey
from segfast.datasets.decoding import UNKNOWN
from segfast.datasets.mapping import read_mapping
from segfast.datasets.options import Reading
from segfast.datasets.pairs import measure, subset
from segfast.datasets.places import ALIASES, names_of
from segfast.datasets.tree import Tree
from segfast.dependencies.imports import load, need
from segfast.errors import BadData, BadImage, BadOption
from segfast.image import read_image
from segfast.pictures.formats import SUFFIXES

BACKGROUND = "background"
# Files of COCO's other tasks.
_OTHERS = re.compile(r"caption|keypoint|panoptic|image_info", re.I)
# Filters of warnings are of all threads: one at a time changes them.
_QUIET = threading.Lock()
_HEAD = 1 << 16  # bytes in which a COCO file names one of its sections


class Region(NamedTuple):
    """A labelled part of a picture: polygons [[x, y, x, y, …], …], or run lengths as COCO writes them."""

    label: int
    shape: Any


class Annotated(NamedTuple):
    """A picture, relative to the root, its (H, W), and its regions, the largest first; later ones lie on top."""

    key: str
    image: str | None
    size: tuple[int, int]
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class CocoDataset(Dataset):
    """A split whose truth is COCO's JSON.

    Pixels of no region are `background`, class 0; the categories follow in the order of their ids. Crowds are ignored.

    Attributes:
        table: label of every category, by its place in the order; IGNORE for none.
    """

    root: Path
    samples: tuple[Annotated, ...]
    table: tuple[int, ...]
    stray: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, index: int) -> str:
        """The picture's file name without its ending."""
        return self.samples[index].key

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [H, W, 3]."""
        return read_image(self._path(index))

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Labels, uint8 [H, W]."""
        need("coco", "pycocotools")
        sample, table = self.samples[index], np.array([*self.table, *[IGNORE] * (256 - len(self.table))], np.uint16)
        labels = np.zeros(sample.size, np.uint8)
        for region in sample.regions:
            labels[_inside(region.shape, sample)] = region.label
        found = table[labels]
        if (found == UNKNOWN).any():
            raise BadData(f"{sample.key} has pixels of a class that was dropped")
        return found.astype(np.uint8)

    def source(self, index: int) -> Path | None:
        """The picture's file."""
        return self._path(index)

    def take(self, indices: Iterable[int]) -> Self:
        """These samples only."""
        return replace(self, samples=tuple(self.samples[index] for index in indices), stray=())

    def check(self, *, progress: bool = False) -> Content:
        """See that every picture is there, of the size that is said, and that its regions can be drawn."""
        return survey(self, self._look, progress=progress).whole(self.root, self.stray).checked()

    def _path(self, index: int) -> Path:
        sample = self.samples[index]
        if sample.image is None:
            raise BadData(f"the picture {sample.key} of {self.split} is nowhere in {self.root}; add it")
        return self.root / sample.image

    def _look(self, index: int) -> Look:
        sample = self.samples[index]
        try:
            size, orientation, dim = measure(self._path(index))
            if size != sample.size:
                return Look(
                    fault=f"{sample.image} has {size[0]}×{size[1]} pixels, but the JSON says {sample.size[0]}×{sample.size[1]}"
                    + ("; it is turned by EXIF, and was annotated unturned" if size == sample.size[::-1] else "")
                )
            counts = np.bincount(self.labels(index).ravel(), minlength=256)
            return Look(counts=counts, size=size, turned=orientation > 1, dim=dim)
        except (BadData, BadImage) as error:
            return Look(fault=str(error))


def find_coco(root: Path) -> list[Path]:
    """Files of COCO's kind at most two levels below the root."""
    found = [path for level in ("*.json", "*/*.json", "*/*/*.json") for path in sorted(root.glob(level))]
    return [path for path in found if not _OTHERS.search(path.name) and _is_coco(path)]


def open_coco(root: Path, split: str, fraction: float, reading: Reading) -> CocoDataset:
    """A split of COCO's JSON.

    Raises:
        BadData: the file cannot be read, or a picture or category is missing.
        BadOption: there is no such split.
        MissingRuntime: pycocotools is not installed.
    """
    need("coco", "pycocotools")
    files, tree = find_coco(root), Tree(root.resolve(), follow=reading.follow_links)
    path, share = _choose(files, split, root, reading)
    data = _load(path)
    names, labels, ignored = _categories(data, path)
    palette = (
        ((0, 0, 0), *generated_palette(len(names) - 1)) if names[0] == BACKGROUND else generated_palette(len(names))
    )
    table: tuple[int, ...] = tuple(range(len(names)))
    if reading.map is not None:
        mapped = read_mapping(Path(reading.map), names, palette)
        table, names, palette = mapped.targets, mapped.names, mapped.palette
    samples = _samples(data, labels, path, tree)
    if share is not None:
        drawn = {one.key for one in subset(samples, share)}
        samples = [one for one in samples if (one.key in drawn) == (split == "val")]
    told = [f"{split}: {path.relative_to(root)}, categories by their ids"]
    told += [
        f"{index:>4}  {name}  #{bytes(c).hex()}" for index, (name, c) in enumerate(zip(names, palette, strict=True))
    ]
    told += [f"left out: {', '.join(ignored)}, of which nothing is annotated"] if ignored else []
    stray = tuple(tree.stray)
    if not samples:
        raise BadData(f"{path} has no pictures; add some")
    return CocoDataset("folder", split, names, palette, tree.root, subset(samples, fraction), table, stray, tuple(told))


def _is_coco(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, path.stat().st_size - _HEAD))
            text = head + file.read()
    except OSError:
        return False
    return any(word in text for word in (b'"annotations"', b'"categories"')) and b'"images"' in text + b""


def _choose(files: Sequence[Path], split: str, root: Path, reading: Reading) -> tuple[Path, float | None]:
    """The file of a split; or the one of all, with the share of it that is val."""
    mine = [path for path in files if _names(path, root, names_of(split))]
    if mine:
        return min(mine, key=lambda path: ("instances" not in path.name, len(path.parts))), None
    others = {name for words in ALIASES.values() for name in (*words, "test")}
    rest = [path for path in files if not _names(path, root, tuple(others))] or (
        [path for path in files if _names(path, root, ALIASES["train"])] if split == "val" else []
    )
    if rest and split in ALIASES and reading.val_fraction is not None:
        return rest[0], reading.val_fraction
    there = ", ".join(str(path.relative_to(root)) for path in files)
    raise BadOption(
        f"{root} has no annotations of a split {split!r}; there are {there}: name one after the split, such as "
        f"annotations/instances_{split}.json, or let a share of the pictures be val with --val-fraction 0.1"
    )


def _names(path: Path, root: Path, words: Sequence[str]) -> bool:
    """Whether a path names one of the splits."""
    text = path.relative_to(root).as_posix().lower()
    return any(re.search(rf"(?<![a-z]){word}(?![a-z])", text) for word in words)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        if not all(isinstance(data[key], list) for key in ("images", "annotations", "categories")):
            raise TypeError("images, annotations and categories are no lists")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadData(f"{path} is no COCO file ({error!r}); export it again") from None
    return data


def _categories(data: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], dict[int, int], list[str]]:
    """Names in the order of their ids behind the background, the label of every id, and names left out.

    Roboflow writes a category 0 that stands above the others and has no annotations.
    """
    try:
        found = sorted((int(one["id"]), str(one["name"]), one.get("supercategory")) for one in data["categories"])
        used = {int(one["category_id"]) for one in data["annotations"]}
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"{path} has a category or annotation without its fields ({error!r}); export it again") from None
    above = {parent for _, _, parent in found}
    out = [(number, name) for number, name, _ in found if name in above and number not in used and len(found) > 1]
    kept = [(number, name) for number, name, _ in found if (number, name) not in out]
    own = [number for number, name in kept if name.casefold() == BACKGROUND]
    kept = [(number, name) for number, name in kept if number not in own]
    names = (BACKGROUND, *(name for _, name in kept))
    if len(set(names)) < len(names) or len(names) > IGNORE:
        raise BadData(f"{path} must name 1 to {IGNORE - 1} categories, each once; there are {len(names) - 1}")
    labels = {number: index for index, (number, _) in enumerate(kept, 1)}
    return names, labels | dict.fromkeys(own, 0), [name for _, name in out]


def _samples(data: Mapping[str, Any], labels: Mapping[int, int], path: Path, tree: Tree) -> list[Annotated]:
    """Every picture with its regions.

    Raises:
        BadData: an annotation is of no picture or category, or fields are missing.
    """
    regions: dict[Any, list[tuple[float, Region]]] = {image.get("id"): [] for image in data["images"]}
    faults = []
    for one in data["annotations"]:
        owner, number, shape = one.get("image_id"), one.get("category_id"), one.get("segmentation")
        if owner not in regions or number not in labels:
            faults.append(
                f"annotation {one.get('id')} is of picture {owner!r} and category {number!r}, which are not both there"
            )
        elif shape:
            label = IGNORE if one.get("iscrowd") else labels[number]
            regions[owner].append((float(one.get("area") or 0), Region(label, shape)))
        elif one.get("bbox"):
            faults.append(f"annotation {one.get('id')} has a box and no segmentation; draw its outline, or remove it")
    if faults:
        raise BadData(f"{path} has {len(faults)} faults; mend these:", faults)
    places = _places(path, tree)
    samples = []
    for image in data["images"]:
        try:
            name, size = str(image["file_name"]), (int(image["height"]), int(image["width"]))
        except (KeyError, TypeError, ValueError):
            raise BadData(f"{path}: {image!r} lacks file_name, height or width; export it again") from None
        ordered = sorted(regions[image.get("id")], key=lambda pair: -pair[0])
        where = places.get(name.replace("\\", "/").lstrip("./")) or places.get(
            os.path.basename(name.replace("\\", "/"))
        )
        samples.append(Annotated(os.path.splitext(name)[0], where, size, tuple(region for _, region in ordered)))
    samples.sort(key=lambda sample: sample.key)
    double = sorted({one.key for one, other in pairwise(samples) if one.key == other.key})
    if double:
        raise BadData(
            f"{path} names pictures that differ in nothing, or in their endings only; name each once:", double
        )
    return samples


def _places(path: Path, tree: Tree) -> dict[str, str]:
    """Where pictures are, by their names and by their paths below any folder; those beside the file, or of its split, first."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", path.relative_to(path.parents[1]).as_posix().lower()) if word]
    found: dict[str, str] = {}
    ranked = sorted(tree.find(".", SUFFIXES, whole=True).values(), key=lambda name: -_affinity(name, words))
    for name in ranked:
        parts = name.split("/")
        for start in range(len(parts)):
            found.setdefault("/".join(parts[start:]), name)
    return found


def _affinity(name: str, words: Sequence[str]) -> int:
    folders = name.lower().split("/")[:-1]
    return sum(folder in words for folder in folders)


def _inside(shape: Any, sample: Annotated) -> NDArray[np.bool_]:
    """Whether pixels are inside a region, bool [H, W]."""
    mask = load("pycocotools.mask", "pycocotools", "pycocotools")
    H, W = sample.size
    try:
        runs = (
            mask.frPyObjects(shape, H, W) if isinstance(shape, list) or isinstance(shape.get("counts"), list) else shape
        )
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' arrays know no `copy` of NumPy 2
            drawn = mask.decode(mask.merge(runs) if isinstance(runs, list) else runs)
        if drawn.shape != (H, W):
            raise ValueError(f"it is of {drawn.shape[0]}×{drawn.shape[1]} pixels")
    except Exception as error:  # a compiled library, on anything that a file may hold
        raise BadData(f"{sample.key} has a region that cannot be drawn ({error}); draw it again") from None
    return drawn.astype(bool)
