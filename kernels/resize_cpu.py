"""Images resized on a CPU: every row of the image is widened once, and two of them blended into each row.

To the twin's last bit, `reference.upsample`: the same weights, the same products and sums in the same
order, no multiplication fused with an addition. Memory: two rows a thread.
"""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .cpu import SMALL, compiled, run
from .reference import Pixels, Size, _taps

Floats = NDArray[np.float32]
Taps = tuple[NDArray[np.intp], NDArray[np.intp], Floats]

ONE = np.float32(1)


@compiled
def _widen(row: Pixels, columns: Taps, out: Floats) -> None:
    """A row of an image [w, C] → out [W, C]."""
    left, right, weight = columns
    w, C = row.shape
    if w == len(out):
        out[:] = row
        return
    for x in range(len(out)):
        b = weight[x]
        for c in range(C):
            out[x, c] = np.float32(row[left[x], c]) * (ONE - b) + np.float32(row[right[x], c]) * b


@compiled
def _resize(image: Pixels, rows: Taps, columns: Taps, start: int, stop: int, out: Floats) -> None:
    """Rows start … stop of an image [h, w, C] resized to out [H, W, C]."""
    top, bottom, weight = rows
    upper, lower = np.empty(out.shape[1:], np.float32), np.empty(out.shape[1:], np.float32)
    above = below = -1
    for y in range(start, stop):
        if len(image) == len(out):
            _widen(image[y], columns, out[y])
            continue
        if top[y] == below:
            upper, lower = lower, upper
            above, below = below, above
        if top[y] != above:
            _widen(image[top[y]], columns, upper)
        if bottom[y] != below:
            _widen(image[bottom[y]], columns, lower)
        above, below = top[y], bottom[y]
        b = weight[y]
        for x in range(out.shape[1]):
            for c in range(out.shape[2]):
                out[y, x, c] = upper[x, c] * (ONE - b) + lower[x, c] * b


def resize(image: Pixels, size: Size, threads: int) -> Floats:
    """[h, w, C] → float32 [*size, C] in bands of rows."""
    out = np.empty((*size, image.shape[2]), np.float32)
    rows, columns = _taps(image.shape[0], size[0]), _taps(image.shape[1], size[1])
    bands = 1 if threads == 1 else min(size[0], max(1, size[0] * size[1] // SMALL), 3 * threads)
    edges = [size[0] * band // bands for band in range(bands + 1)]
    run([partial(_resize, image, rows, columns, *band, out) for band in itertools.pairwise(edges)], threads)
    return out


def trial() -> None:
    """A smallest call, which fails where the loops cannot be compiled."""
    resize(np.zeros((2, 2, 3), np.uint8), (3, 3), 1)
