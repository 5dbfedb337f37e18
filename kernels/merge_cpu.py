"""Labels from patch logits on a CPU, without ever scoring most of the pixels.

Upsampling K classes to H×W and taking the argmax writes K·H·W floats, of which one label per pixel
survives. But between four neighbouring grid points every class is bilinear, a convex combination of
its four corners, and so is every sum of windows there. So the image is cut into such cells, and a
class that another one matches at all four corners of a cell is dropped unseen: mostly one class
remains, and the cell is filled. Nothing is approximated: rounding is monotone, so the class that is
no worse at every corner is no worse at any pixel. Memory: two lines of corners.

Logits must be finite; what NaN and infinities mean is left to the plain twin.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from .cpu import SMALL, run
from .merge_cells import Floats, grid_of
from .merge_loops import add_softmax, first_best, label_cells
from .reference import Labels, Size, Windows, _bands


def label(views: Sequence[Windows], size: Size, labels: Labels, threads: int) -> None:
    """Labels of several images of one size, [B, H, W], each from the single view of it."""
    tasks = []
    for view, out in zip(views, labels, strict=True):
        grid = grid_of(view, size)
        count = len(grid.rows.cells)
        bands = 1 if threads == 1 else min(count, max(1, size[0] * size[1] // SMALL), 3 * threads)
        edges = [count * band // bands for band in range(bands + 1)]
        tasks += [partial(label_cells, grid, *band, out) for band in itertools.pairwise(edges)]
    run(tasks, threads)


def score(views: Sequence[Windows], size: Size, threads: int, use: Callable[[int, Floats], None]) -> None:
    """The mean over views of the softmax over classes: use(start, scores [K, rows, W]) for all bands of rows."""
    grids = [grid_of(view, size) for view in views]
    K = views[0].logits.shape[1]

    def band(start: int, stop: int) -> None:
        scores = np.zeros((K, stop - start, size[1]), np.float32)
        for grid in grids:
            add_softmax(grid, start, scores)
        scores /= np.float32(len(grids))
        use(start, scores)

    run([partial(band, *rows) for rows in _bands(K, size)], threads)


def merge(views: Sequence[Windows], size: Size, labels: Labels, threads: int) -> None:
    """Labels of an image [H, W] from several views."""
    score(views, size, threads, lambda start, scores: first_best(scores, labels[start : start + scores.shape[1]]))


def trial() -> None:
    """A smallest call, which fails where the loops cannot be compiled."""
    view = Windows(np.zeros((1, 2, 2, 2), np.float32), [(0, 0)], (2, 2), (2, 2), (2, 2))
    label([view], (2, 2), np.zeros((1, 2, 2), np.uint8), 1)
