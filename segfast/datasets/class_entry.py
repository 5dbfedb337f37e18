"""A line of a class list, whatever its form."""

from __future__ import annotations

import re
from typing import NamedTuple

Colour = tuple[int, int, int]

_HEX = re.compile(r"(?:#|0x)([0-9a-fA-F]{6})")


class Entry(NamedTuple):
    """A line of a list: a name, the value that stands for it in masks if that is said, and its colour if it has one."""

    name: str
    value: int | None = None
    colour: Colour | None = None


def colour_of(text: str) -> Colour | None:
    """A colour as #rrggbb or three numbers; None for nothing.

    Raises:
        ValueError: it is neither.
    """
    if not text:
        return None
    match = _HEX.fullmatch(text)
    numbers = list(bytes.fromhex(match[1])) if match else [int(number) for number in re.findall(r"-?\d+", text)]
    if len(numbers) != 3:
        raise ValueError(text)
    return numbers[0], numbers[1], numbers[2]
