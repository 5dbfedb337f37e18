"""Class names and palettes of the paper's three datasets, in the order of their labels."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

Names = tuple[str, ...]
Palette = tuple[tuple[int, int, int], ...]

DATASETS = ("ade20k", "cityscapes", "pascal_context")


@cache
def dataset(name: str) -> tuple[Names, Palette]:
    """Names and palette of `ade20k` (150), `cityscapes` (19) or `pascal_context` (60)."""
    rows = json.loads(resources.files("segfast").joinpath("data", f"{name}.json").read_text(encoding="utf-8"))
    return tuple(row["name"] for row in rows), tuple(tuple(row["color"]) for row in rows)


def of_dataset(name: str, count: int) -> tuple[Names, Palette]:
    """Names and palette of a dataset if it is known and has that many classes; of another one, numbers.

    Without a name, as `for_count`.
    """
    if not name:
        return for_count(count)
    if name in DATASETS and len(dataset(name)[0]) == count:
        return dataset(name)
    return numbered(count)


def for_count(count: int) -> tuple[Names, Palette]:
    """Names and palette for K classes: those of the dataset with that many, else numbers and generated colours."""
    for name in DATASETS:
        names, palette = dataset(name)
        if len(names) == count:
            return names, palette
    return numbered(count)


def numbered(count: int) -> tuple[Names, Palette]:
    """Numbers for names, and generated colours."""
    return tuple(f"class {index}" for index in range(count)), generated_palette(count)


def unique(names: Names) -> Names:
    """The names, those that an earlier class has already with a number behind them: `road`, `road (2)`."""
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        return names  # damaged, which Config.check says
    if len(set(names)) == len(names):
        return names
    taken, numbers, told = set(names), dict[str, int](), list[str]()
    for name in names:
        own = name
        while name in numbers and own in taken:
            numbers[name] += 1
            own = f"{name} ({numbers[name]})"
        numbers.setdefault(name, 1)
        taken.add(own)
        told.append(own)
    return tuple(told)


def generated_palette(count: int) -> Palette:
    """Distinct colours for K classes: the bits of the number spread over the channels, as in Pascal VOC."""
    return tuple(_spread(index + 1) for index in range(count))


def _spread(index: int) -> tuple[int, int, int]:
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]
