"""A part of somebody else's settings: what it says is honoured, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from segfast.checkpoints.literals import Opaque
from segfast.errors import BadModel
from segfast.protocol import Size

Triple = tuple[float, float, float]


class Section:
    """A part of the settings of a checkpoint.

    Args:
        name: of the part.
        values: that it says.
        source: the file, for messages.
        based: it is an excerpt, whose other values are in another file.

    Attributes:
        complete: it names its type, so that what it leaves out has the default of that type.
    """

    def __init__(self, name: str, values: Mapping[str, Any], source: str, based: bool = False):
        self.name, self.values, self.source = name, values, source
        self.complete = "type" in values and not based

    def __bool__(self) -> bool:
        return bool(self.values)

    def get(self, key: str, default: Any = None) -> Any:
        """A value; the default holds for sections that are whole."""
        value = self.values.get(key, default if self.complete else None)
        if isinstance(value, Opaque):
            raise self.refusal(key, value)
        return value

    def only(self, key: str, *allowed: Any, kind: bool = False) -> None:
        """See that a value, if there is one, is among those that can be honoured."""
        value = self.get(key)
        if key in self.values and (str(value).rpartition(".")[2] if kind else value) not in allowed:
            raise self.refusal(key, value)

    def whole(self, key: str, default: int | None = None) -> int | None:
        """A whole number from 1."""
        value = self.get(key, default)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise self.refusal(key, value)
        return value

    def size(self, key: str, default: int | None = None) -> Size | None:
        """(height, width) of a size, or of a side."""
        value = self.get(key, default)
        size = size_of(value)
        if value is not None and size is None:
            raise self.refusal(key, value)
        return size

    def triple(self, key: str) -> Triple | None:
        """One number per channel, in 0 … 255, as a share of 255."""
        value = self.get(key)
        numbers = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
        numbers = numbers * 3 if len(numbers) == 1 else numbers
        if value is not None and (len(numbers) != 3 or not all(is_number(number) for number in numbers)):
            raise self.refusal(key, value)
        return None if value is None else (numbers[0] / 255, numbers[1] / 255, numbers[2] / 255)

    def refusal(self, key: str, value: Any, remedy: str = "run it in MMSegmentation") -> BadModel:
        """The error for a value that cannot be honoured."""
        what = f"{self.name}.{key}".strip(".")
        return BadModel(
            f"{self.source} says {what} = {repr(value)[:80]}, which segfast cannot do; {remedy}, or, if what it says is "
            "wrong, change checkpoint['meta']['cfg'] and save it again"
        )


def mapping(value: Any, name: str, source: str) -> Mapping[str, Any]:
    """A part of the settings as a mapping, empty for None.

    Raises:
        BadModel: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Section("", {}, source).refusal(name, value)
    return value


def size_of(value: Any) -> Size | None:
    """(height, width) of a size, or of a side; None for what is neither."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
