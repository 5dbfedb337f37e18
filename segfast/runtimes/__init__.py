"""What runs the network: one class per runtime, all with the same three words (`Runtime`)."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """A compiled network.

    Attributes:
        name, device, precision: what runs it, where and in which arithmetic, for people.
        notes: every fall-back that was taken, for people.
        batch: how many windows one call takes at most.
    """

    name: str
    device: str
    precision: str
    notes: list[str]
    batch: int

    def run(self, windows: NDArray[Any]) -> NDArray[Any]:
        """Logits [n, K, h, w] or labels [n, H, W] of RGB windows [n, H, W, 3].

        Args:
            windows: uint8, or float32 in 0 … 255 where resizing made them so; runtimes of files
                with uint8 inputs round those.
        """
        ...

    def widen(self) -> None:
        """Get ready for many calls of `batch` windows, where that costs something."""


def to_bytes(windows: NDArray[Any]) -> NDArray[np.uint8]:
    """Windows as uint8 and contiguous: resized ones are rounded to the nearest value."""
    if windows.dtype != np.uint8:
        windows = np.rint(windows).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(windows)
