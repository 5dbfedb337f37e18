"""How many bytes a pipeline holds: a few large pictures take what many small ones do."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from segfast.errors import SegfastError


class Room:
    """The bytes of what is between the source and the answers, whose order is the same.

    The source's thread alone adds, and who takes the answers alone lets go, so that no lock is needed.

    Args:
        most: bytes; with so many held the source is not asked for more. It may be passed by one item.
        weigh: the bytes that an item takes, until its answer is taken, once the first stage is done with it.
    """

    def __init__(self, most: float = math.inf, weigh: Callable[[Any], int] = lambda _: 0):
        self._most, self._weigh = most, weigh
        self._weights: deque[int] = deque()
        self._added = self._gone = 0

    @property
    def full(self) -> bool:
        """Whether nothing more is to come for now."""
        return self._added - self._gone >= self._most

    def add(self, item: Any) -> None:
        """Count an item; an error weighs nothing."""
        weight = 0 if isinstance(item, SegfastError) else self._weigh(item)
        self._weights.append(weight)
        self._added += weight

    def let_go(self) -> None:
        """Of the oldest item."""
        self._gone += self._weights.popleft()
