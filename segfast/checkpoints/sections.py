"""A part of somebody else's settings: what it says is honoured, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segfast.checkpoints.literals import Opaque
from segfast.errors import BadModel
from segfast.protocol import Size
from segfast.values import is_number, is_whole

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

    def __init__(self, name: str, values: Mapping[str, object], source: str, based: bool = False):
        self.name, self.values, self.source = name, values, source
        self.complete = "type" in values and not based

    def __bool__(self) -> bool:
        return bool(self.values)

    def get(self, key: str, default: object = None) -> Any:
        """A value; the default holds for sections that are whole."""
        value = self.values.get(key, default if self.complete else None)
        if isinstance(value, Opaque):
            raise self.refusal(key, value)
        return value

    def only(self, key: str, *allowed: object, kind: bool = False) -> None:
        """See that a value, if there is one, is among those that can be honoured."""
        value = self.get(key)
        if key in self.values and (str(value).rpartition(".")[2] if kind else value) not in allowed:
            raise self.refusal(key, value)

    def whole(self, key: str, default: int | None = None) -> int | None:
        """A whole number from 1."""
        value = self.get(key, default)
        if value is not None and not (is_whole(value) and value >= 1):
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

    def part(self, key: str) -> Section:
        """A section within this one, which is no whole one even where it names its type."""
        return Section(f"{self.name}.{key}", mapping(self.get(key), key, self.source), self.source)

    def refusal(self, key: str, value: object, remedy: str = "run it in MMSegmentation") -> BadModel:
        """The error for a value that cannot be honoured."""
        what = f"{self.name}.{key}".strip(".")
        return BadModel(
            f"{self.source} says {what} = {repr(value)[:80]}, which segfast cannot do; {remedy}, or, if what it says is "
            "wrong, change checkpoint['meta']['cfg'] and save it again"
        )


def mapping(value: object, name: str, source: str) -> Mapping[str, object]:
    """A part of the settings as a mapping, empty for None.

    Raises:
        BadModel: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Section("", {}, source).refusal(name, value)
    return value


def size_of(value: object) -> Size | None:
    """(height, width) of a size, or of a side; None for what is neither."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    match sides * 2 if len(sides) == 1 else sides:
        case [int(height), int(width)] if is_whole(height) and is_whole(width) and height > 0 and width > 0:
            return height, width
    return None
