"""Checks of what callers give, the same for every operation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex

from .quota import cpus as cpus  # told to users by this path
from .reference import Size

# Kernels and loops count in 32 bits, a last tile beyond the end.
MOST = (1 << 31) - 1024


def check_size(size: Iterable[SupportsIndex], name: str, least: int = 1) -> Size:
    """`size` as a pair of ints of at least `least`. Raises TypeError for what is no pair, ValueError for less."""
    try:
        height, width = (int(value.__index__()) for value in size)
    except (TypeError, AttributeError, ValueError):  # no pair, or no whole numbers
        raise TypeError(f"{name} must be two whole numbers; got {size!r}") from None
    if min(height, width) < least:
        raise ValueError(f"{name} must be at least {least}; got {size!r}")
    return height, width


def check_threads(threads: int | None) -> int:
    """How many threads to use, by default one per CPU. Raises TypeError for no whole number, ValueError below 1."""
    if threads is None:
        return cpus()
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be a whole number; got {threads!r}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1; got {threads}")
    return threads


def check_count(count: int, name: str) -> None:
    """Raises ValueError for more than MOST."""
    if count > MOST:
        raise ValueError(f"{count} {name} are more than 2^31 - 1024")
