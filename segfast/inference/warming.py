"""Compiling the kernels before and after the network, so that no image has to wait for it."""

from __future__ import annotations

import numpy as np

from segfast import kernels
from segfast.kernels.merge import warm_up
from segfast.protocol import Size
from segfast.runtimes import Lane


def warm_up_kernels(lane: Lane, window: Size, threads: int | None) -> None:
    """Compile all that resizes images and merges a network's logits, whatever their sizes.

    Args:
        lane: held by the caller.
    """
    for dtype in (np.uint8, np.float32):
        kernels.resize(np.zeros((2, 2, 3), dtype), (8, 8), threads=threads)
    lane.fetch(warm_up, lane.run([np.zeros((*window, 3), np.uint8)]), threads=threads)
