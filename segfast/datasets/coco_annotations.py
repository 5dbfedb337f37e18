"""What a file of COCO's kind says: its categories, and every picture with its regions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from segfast.classes import Names
from segfast.datasets.base import IGNORE
from segfast.datasets.coco_pictures import Pictures
from segfast.datasets.coco_regions import Region, area
from segfast.errors import BadData

BACKGROUND = "background"
# Regions by picture; each with the area that the file says, if it does.
_Regions = dict[Any, list[tuple[object, Region]]]


class Annotated(NamedTuple):
    """A picture, relative to the root, its (H, W), and its regions, the largest first; later ones lie on top."""

    key: str
    image: str | None
    size: tuple[int, int]
    regions: tuple[Region, ...]


class Categories(NamedTuple):
    """Categories as classes: names behind the background, the label of every id, and names that are left out."""

    names: Names
    labels: dict[int, int]
    ignored: list[str]


def read_file(path: Path) -> Mapping[str, Any]:
    """The JSON, with its three lists.

    Raises:
        BadData: it is none, or lacks one.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        for key in ("images", "annotations", "categories"):
            if not isinstance(data[key], list) or not all(isinstance(one, dict) for one in data[key]):
                raise TypeError(f"{key} is no list of objects")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadData(f"{path} is no COCO file ({error!r}); export it again") from None
    return data


def categories(data: Mapping[str, Any], path: Path) -> Categories:
    """Categories in the order of their ids behind the background.

    Roboflow writes a category 0 that stands above the others and has no annotations; it is left out.

    Raises:
        BadData: fields are missing, or there are too few, too many, or two of one name.
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
    return Categories(names, labels | dict.fromkeys(own, 0), [name for _, name in out])


def annotated(
    data: Mapping[str, Any], labels: Mapping[int, int], path: Path, pictures: Pictures
) -> tuple[Annotated, ...]:
    """Every picture with its regions, by their keys.

    Raises:
        BadData: an annotation is of no picture or category, fields are missing, or a picture is named twice or may be several.
    """
    regions = _regions(data, labels, path)
    samples = [_sample(image, regions[image.get("id")], path, pictures) for image in data["images"]]
    if pictures.faults:
        raise BadData(
            f"{path} names pictures that are in several folders; write the folder into file_name:", pictures.faults
        )
    samples.sort(key=lambda sample: sample.key)
    double = sorted({one.key for one, other in pairwise(samples) if one.key == other.key})
    if double:
        raise BadData(
            f"{path} names pictures that differ in nothing, or in their endings only; name each once:", double
        )
    shared = sorted((one.image, one.key) for one in samples if one.image is not None)
    twice = [f"{a[0]} would be both {a[1]} and {b[1]}" for a, b in pairwise(shared) if a[0] == b[0]]
    if twice:
        raise BadData(f"{path} names pictures that are not all there; add those that are missing:", twice)
    return tuple(samples)


def _regions(data: Mapping[str, Any], labels: Mapping[int, int], path: Path) -> _Regions:
    regions: _Regions = {image.get("id"): [] for image in data["images"]}
    faults = []
    for one in data["annotations"]:
        owner, number, shape = one.get("image_id"), one.get("category_id"), one.get("segmentation")
        if owner not in regions or number not in labels:
            faults.append(
                f"annotation {one.get('id')} is of picture {owner!r} and category {number!r}, which are not both there"
            )
        elif shape:
            label = IGNORE if one.get("iscrowd") else labels[number]
            regions[owner].append((one.get("area"), Region(label, shape)))
        elif one.get("bbox"):
            faults.append(f"annotation {one.get('id')} has a box and no segmentation; draw its outline, or remove it")
    if faults:
        raise BadData(f"{path} has {len(faults)} faults; mend these:", faults)
    return regions


def _sample(
    image: Mapping[str, Any], regions: Sequence[tuple[object, Region]], path: Path, pictures: Pictures
) -> Annotated:
    """A picture with its regions by their areas; those of one area in the order of the file."""
    try:
        name, size = str(image["file_name"]), (int(image["height"]), int(image["width"]))
    except (KeyError, TypeError, ValueError):
        raise BadData(f"{path}: {image!r} lacks file_name, height or width; export it again") from None
    if len(regions) > 1:
        regions = sorted(regions, key=lambda pair: -area(pair[0], pair[1].shape, size))
    return Annotated(os.path.splitext(name)[0], pictures.of(name), size, tuple(region for _, region in regions))
