"""Compiling the kernels before and after the network, so that no image has to wait for it."""

from __future__ import annotations

import numpy as np

from segfast import kernels
from segfast.kernels.merge import Windows, merge_scores, merge_windows, upsample_argmax
from segfast.protocol import Size
from segfast.runtimes import Lane

_SMALL = 8, 8


def warm_up_kernels(lane: Lane, window: Size, padded: Size, threads: int | None) -> None:
    """Run everything that may follow a network of logits once, on logits of its own.

    Args:
        lane: held by the caller.
        window, padded: the window's size, and the size that its logits stand for.
    """
    given = lane.run([np.zeros((*window, 3), np.uint8)])
    views = [Windows(given, [(0, 0)], window, padded, window, mirrored) for mirrored in (False, True)]
    for count in (1, 2):
        lane.fetch(merge_windows, views[:count], _SMALL, threads=threads)
        lane.fetch(merge_scores, views[:count], _SMALL, threads=threads)
    lane.fetch(upsample_argmax, given, _SMALL, threads=threads)


def warm_up_resize(threads: int | None) -> None:
    """Run the resizing of bytes, and of what resizing made of them, once."""
    for dtype in (np.uint8, np.float32):
        kernels.resize(np.zeros((2, 2, 3), dtype), _SMALL, threads=threads)
