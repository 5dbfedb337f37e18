"""Where the cells of an image lie in a view: rectangles of pixels in which every class is bilinear.

Between four neighbouring grid points of patches, windows and view every class is linear in each direction, and so is
every sum of windows there. Only the lines between such cells, the knots, are ever computed by the loops of `merge_loops`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .reference import Size, Windows, _taps

Ints = NDArray[np.intp]
Floats = NDArray[np.float32]

# Cells are at most so many pixels high and wide: their best scores stay in the first-level cache.
TILE = 32


class Axis(NamedTuple):
    """How the rows, or the columns, of an image come from those of a view and of its windows.

    Attributes:
        first, weight: of a line of a window: its first patch, and the weight of the next one.
        knots: lines of the view where it is evaluated.
        cells: (start, stop, a, b): between lines start … stop of the image, everything is linear from knot a to b.
        slope: of a line of the image: the weight of knot b.
    """

    first: Ints  # [window]
    weight: Floats  # [window]
    knots: Ints  # [number of knots]
    cells: Ints  # [number of cells, 4]
    slope: Floats  # [H] or [W]


class Grid(NamedTuple):
    """One view, ready for the compiled loops."""

    logits: Floats  # [n, K, h, w]
    tops: Ints  # [n]
    lefts: Ints  # [n]
    rows: Axis
    columns: Axis
    tile: int  # no cell is higher or wider


def grid_of(view: Windows, size: Size) -> Grid:
    """Where the cells of an image of `size` lie in a view."""
    tops, lefts = (np.array(starts, np.intp) for starts in zip(*view.origins, strict=True))
    h, w = view.logits.shape[2:]
    rows = _axis(tuple(np.unique(tops)), h, view.window[0], view.padded[0], view.size[0], size[0], False)
    columns = _axis(tuple(np.unique(lefts)), w, view.window[1], view.padded[1], view.size[1], size[1], view.mirrored)
    return Grid(view.logits, tops, lefts, rows, columns, TILE)


@lru_cache(256)
def _axis(
    starts: tuple[int, ...], patches: int, window: int, padded: int, length: int, size: int, mirrored: bool
) -> Axis:
    """The cells of one axis: patches → windows (at `starts`) → view of `length` → image of `size`."""
    first, _, weight = _taps(patches, padded)
    first, weight = first[:window], weight[:window]
    if length == size == window:
        # One window, resized once: the knots are the patches themselves, and nothing is rounded twice.
        near, far, slope = first, np.minimum(first + 1, patches - 1), weight
        first, weight, piece = np.arange(patches), np.zeros(patches, np.float32), np.arange(patches)
    else:
        near, far, slope = _taps(length, size)
        piece = _linear_pieces(starts, first, weight, length)
    # A cell is the lines of the image within one piece, or between the same two lines of the view.
    key = np.where(piece[near] == piece[far], 2 * piece[near], 2 * near + 1)
    cuts = [0, *(np.flatnonzero(np.diff(key)) + 1), size]
    spans = [
        (x, min(x + TILE, end), near[begin], far[end - 1])
        for begin, end in itertools.pairwise(cuts)
        for x in range(begin, end, TILE)
    ]
    cells = np.array(spans, np.intp)
    a, b = (np.repeat(knots, cells[:, 1] - cells[:, 0]) for knots in cells[:, 2:].T)
    slope = ((near - a + slope * (far - near)) / np.maximum(b - a, 1)).astype(np.float32)
    knots, places = np.unique(cells[:, 2:], return_inverse=True)
    cells[:, 2:] = places.reshape(-1, 2)
    if mirrored:
        cells[:, :2] = size - cells[:, 1::-1]
        cells, slope = cells[::-1].copy(), slope[::-1].copy()
    return Axis(first, weight, knots, cells, slope)


def _linear_pieces(starts: Sequence[int], first: Ints, weight: Floats, length: int) -> Ints:
    """For each line of the view, the number of the piece in which every window is linear."""
    piece = np.where(weight > 0, first + 1, np.minimum(first, 1) * (first + 1))  # 0 before the first patch's centre
    bends = np.flatnonzero(np.diff(piece, prepend=-1, append=-1))
    marks = np.zeros(length + 1, np.intp)
    for start in starts:
        marks[start + bends] = 1
    return np.cumsum(marks[:length])
