"""What a folder holds in place of what is read: annotations of other tools, with the way from there, and masks' values."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

import numpy as np

from segfast.datasets.masks import SUFFIXES, read_raw
from segfast.errors import BadData

# How many files of a kind are looked at.
_SOME = 20
_POLYGON = re.compile(rb"\d+(?:\s+[-+.\deE]+){4,}\s*")
# Where the way from each is described: a page and its heading.
WAYS = {name: f"see “{name}” in docs/data.md" for name in ("CVAT", "Ultralytics", "LabelMe")}


def of_other_tools(root: Path) -> str | None:
    """Annotations of other tools that are no masks, and how they become some; None where there are none that are known."""
    for path in _first(root, "*.xml"):
        if b"<annotations" in _head(path) and b"<image" in path.read_bytes():
            return f"{path} is CVAT's own XML, which is not read; export “Segmentation mask 1.1” or COCO there ({WAYS['CVAT']})"
        if b"<annotation>" in _head(path):
            return f"{path} holds boxes of Pascal VOC, which are no masks; draw the outlines of what they hold"
    for path in _first(root, "*.txt"):
        lines = path.read_bytes().splitlines() if path.parent != root else []
        if lines and all(map(_POLYGON.fullmatch, filter(None, lines))):
            if all(len(line.split()) == 5 for line in filter(None, lines)):
                return f"{path} holds boxes of Ultralytics, which are no masks; draw the outlines of what they hold"
            return f"{path} holds polygons of Ultralytics; turn them into masks ({WAYS['Ultralytics']})"
    for path in _first(root, "*.json"):
        if b'"shapes"' in path.read_bytes() and _is_labelme(path):
            return f"{path} is LabelMe's JSON, which is not read; convert it with labelme2voc.py ({WAYS['LabelMe']})"
    return None


def values(root: Path, folder: str) -> str:
    """What the first masks below a folder hold, in words; empty where none can be read."""
    numbers, colours = set[int](), set[tuple[int, ...]]()
    for path in islice((path for path in sorted((root / folder).rglob("*")) if path.suffix.lower() in SUFFIXES), _SOME):
        try:
            raw = read_raw(path).values
        except BadData:
            continue
        if raw.ndim == 3 and (raw != raw[..., :1]).any():
            colours.update(map(tuple, np.unique(raw.reshape(-1, 3), axis=0)[:_SOME].tolist()))
        else:
            numbers.update(np.unique(raw if raw.ndim == 2 else raw[..., 0])[: 10 * _SOME].tolist())
    words = [_listed("values", [str(value) for value in sorted(numbers)])] if numbers else []
    words += [_listed("colours", [str(colour) for colour in sorted(colours)])] if colours else []
    return " and ".join(words)


def _listed(kind: str, found: list[str]) -> str:
    return f"the {kind} {', '.join(found[:_SOME])}" + (", …" if len(found) > _SOME else "")


def _first(root: Path, pattern: str) -> list[Path]:
    return [path for path in islice(root.rglob(pattern), _SOME) if path.is_file()]


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def _is_labelme(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"shapes", "imagePath"} <= found.keys()
