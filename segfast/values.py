"""What plain values are, as JSON and other people's settings give them."""

from __future__ import annotations

from typing import TypeGuard


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number, and neither infinite nor of at least 1e300."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300
