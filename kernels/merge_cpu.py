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
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cpu import SMALL, compiled, run
from .reference import Labels, Size, Windows, _bands, _taps

Ints = NDArray[np.intp]
Floats = NDArray[np.float32]

# Cells are at most so many pixels high and wide: their best scores stay in the first-level cache.
TILE = 32

# Softmax scores are made of so many pixels of a row at a time: with K logits each they stay in the second-level cache.
BLOCK = 256

ONE, HALF = np.float32(1), np.float32(0.5)
# e^x = 2^n · e^(x - n ln 2), the second factor by the polynomial of Cephes' expf; ln 2 in two parts, the first short.
LEAST, LOG2_E = np.float32(-87), np.float32(1.44269504088896341)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
EXP = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)


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


@compiled
def _line(grid: Any, knot: int, patches: Any, counts: Any, out: Any) -> None:
    """Logits of the view at one row knot and all column knots, the mean over windows → out [knots, K]."""
    n, K, h, w = grid.logits.shape
    rows, columns = grid.rows, grid.columns
    y = rows.knots[knot]
    line = np.empty(w, np.float32)
    out[:] = 0
    counts[:] = 0
    for i in range(n):
        dy = y - grid.tops[i]
        if dy < 0 or dy >= rows.first.size:
            continue
        upper, lower, b = rows.first[dy], min(rows.first[dy] + 1, h - 1), rows.weight[dy]
        a = ONE - b
        for k in range(K):
            for j in range(w):  # contiguous, so it becomes vectors; the transposition does not
                line[j] = grid.logits[i, k, upper, j] * a + grid.logits[i, k, lower, j] * b
            for j in range(w):
                patches[j, k] = line[j]
        for c in range(columns.knots.size):
            dx = columns.knots[c] - grid.lefts[i]
            if dx < 0 or dx >= columns.first.size:
                continue
            left, right, b = columns.first[dx], min(columns.first[dx] + 1, w - 1), columns.weight[dx]
            a = ONE - b
            counts[c] += ONE
            for k in range(K):
                out[c, k] += patches[left, k] * a + patches[right, k] * b
    for c in range(columns.knots.size):
        if counts[c] > ONE:
            for k in range(K):
                out[c, k] /= counts[c]


@compiled
def _rivals(upper: Any, lower: Any, left: int, right: int, best: int) -> int:
    """How many classes `best` does not beat at all four corners; the first index wins ties.

    Counted to the end, without a branch: so the loops become vectors.
    """
    p, q, r, s = upper[left, best], upper[right, best], lower[left, best], lower[right, best]
    K = upper.shape[1]
    count = 0
    for k in range(best):
        count += int((upper[left, k] >= p) | (upper[right, k] >= q) | (lower[left, k] >= r) | (lower[right, k] >= s))
    for k in range(best + 1, K):
        count += int((upper[left, k] > p) | (upper[right, k] > q) | (lower[left, k] > r) | (lower[right, k] > s))
    return count


@compiled
def _contenders(upper: Any, lower: Any, left: int, right: int, contenders: Any) -> int:
    """The classes that may win somewhere in a cell → contenders, in order; their number."""
    K = upper.shape[1]
    best, bound = 0, np.float32(-np.inf)
    for k in range(K):
        floor = min(min(upper[left, k], upper[right, k]), min(lower[left, k], lower[right, k]))
        if floor > bound:
            best, bound = k, floor
    p, q, r, s = upper[left, best], upper[right, best], lower[left, best], lower[right, best]
    n = 0
    for k in range(best + 1):
        contenders[n] = k
        n += (upper[left, k] >= p) | (upper[right, k] >= q) | (lower[left, k] >= r) | (lower[right, k] >= s)
    for k in range(best + 1, K):
        contenders[n] = k
        n += (upper[left, k] > p) | (upper[right, k] > q) | (lower[left, k] > r) | (lower[right, k] > s)
    return n


@compiled
def _score_cell(
    upper: Any, lower: Any, column: Any, slopes: Any, slope: Any, classes: Any, ends: Any, best: Any, winner: Any
) -> None:
    """The first best of several classes at every pixel of a cell → winner [rows, columns]."""
    start, stop, left, right = column
    height, width = slopes.size, stop - start
    best[:] = -np.inf
    for i in range(classes.size):
        k = classes[i]
        for x in range(width):
            b = slope[start + x]
            ends[0, x] = upper[left, k] * (ONE - b) + upper[right, k] * b
            ends[1, x] = lower[left, k] * (ONE - b) + lower[right, k] * b
        for y in range(height):
            b = slopes[y]
            a = ONE - b
            for x in range(width):
                score = ends[0, x] * a + ends[1, x] * b
                wins = score > best[y, x]
                best[y, x] = score if wins else best[y, x]
                winner[y, x] = k if wins else winner[y, x]


@compiled
def _label(grid: Any, first: int, last: int, labels: Any) -> None:
    """Labels of the image in the rows of cells first … last, from one view."""
    K, w = grid.logits.shape[1], grid.logits.shape[3]
    rows, columns = grid.rows, grid.columns
    upper = np.empty((columns.knots.size, K), np.float32)
    lower = np.empty_like(upper)
    patches, counts = np.empty((w, K), np.float32), np.empty(columns.knots.size, np.float32)
    contenders = np.empty(K, np.int32)
    ends, best = np.empty((2, TILE), np.float32), np.empty((TILE, TILE), np.float32)
    winner = np.empty((TILE, TILE), np.int32)
    above = below = -1
    guess = 0
    for row in range(first, last):
        start, stop, a, b = rows.cells[row]
        if a == below:
            upper, lower = lower, upper
            above, below = below, above
        if a != above:
            _line(grid, a, patches, counts, upper)
        if b != below:
            _line(grid, b, patches, counts, lower)
        above, below = a, b
        for column in columns.cells:
            left, right = column[2], column[3]
            if _rivals(upper, lower, left, right, guess) == 0:
                labels[start:stop, column[0] : column[1]] = guess
                continue
            n = _contenders(upper, lower, left, right, contenders)
            guess = contenders[0]
            if n == 1:
                labels[start:stop, column[0] : column[1]] = guess
                continue
            slopes = rows.slope[start:stop]
            _score_cell(
                upper,
                lower,
                (column[0], column[1], left, right),
                slopes,
                columns.slope,
                contenders[:n],
                ends,
                best,
                winner,
            )
            for y in range(stop - start):
                for x in range(column[1] - column[0]):
                    labels[start + y, column[0] + x] = winner[y, x]


@compiled
def _exp(x: Any) -> Any:
    """e^x for x ≤ 0 to 2 units in the last place, in plain arithmetic so that loops over it become vectors."""
    x = max(x, LEAST)
    power = np.floor(x * LOG2_E + HALF)
    x = x - power * LN2_HIGH - power * LN2_LOW
    y = EXP[0]
    for coefficient in EXP[1:]:
        y = y * x + coefficient
    return (y * x * x + x + ONE) * np.int32((np.int32(power) + 127) << 23).view(np.float32)


@compiled
def _add_softmax(grid: Any, start: int, scores: Any) -> None:
    """Adds one view's softmax over classes to scores [K, rows start …, W]."""
    K, w = grid.logits.shape[1], grid.logits.shape[3]
    rows, columns = grid.rows, grid.columns
    knots, width = columns.knots.size, scores.shape[2]
    upper, lower = np.empty((knots, K), np.float32), np.empty((knots, K), np.float32)
    patches, counts = np.empty((w, K), np.float32), np.empty(knots, np.float32)
    line = np.empty((K, knots), np.float32)
    left, right = np.empty(width, np.uintp), np.empty(width, np.uintp)
    for cell in columns.cells:
        left[cell[0] : cell[1]] = cell[2]
        right[cell[0] : cell[1]] = cell[3]
    logits = np.empty((K, BLOCK), np.float32)
    most, total = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for cell in rows.cells:
        if cell[1] <= start or cell[0] >= start + scores.shape[1]:
            continue
        _line(grid, cell[2], patches, counts, upper)
        _line(grid, cell[3], patches, counts, lower)
        for y in range(max(start, cell[0]), min(start + scores.shape[1], cell[1])):
            b = rows.slope[y]
            for c in range(knots):
                for k in range(K):
                    line[k, c] = upper[c, k] * (ONE - b) + lower[c, k] * b
            for x0 in range(0, width, BLOCK):
                n = min(BLOCK, width - x0)
                most[:] = -np.inf
                total[:] = 0
                for k in range(K):
                    for x in range(n):
                        b = columns.slope[x0 + x]
                        logits[k, x] = line[k, left[x0 + x]] * (ONE - b) + line[k, right[x0 + x]] * b
                        most[x] = max(most[x], logits[k, x])
                for k in range(K):
                    for x in range(n):
                        logits[k, x] = _exp(logits[k, x] - most[x])
                        total[x] += logits[k, x]
                for x in range(n):
                    total[x] = ONE / total[x]
                for k in range(K):
                    for x in range(n):
                        scores[k, y - start, x0 + x] += logits[k, x] * total[x]


@compiled
def _first_best(scores: Any, labels: Any) -> None:
    """The first best class of scores [K, rows, W] → labels [rows, W]."""
    K, height, width = scores.shape
    winner = np.empty(width, np.int32)
    for y in range(height):
        best = scores[0, y].copy()
        winner[:] = 0
        for k in range(1, K):
            for x in range(width):
                wins = scores[k, y, x] > best[x]
                best[x] = scores[k, y, x] if wins else best[x]
                winner[x] = k if wins else winner[x]
        for x in range(width):
            labels[y, x] = winner[x]


def label(views: Sequence[Windows], size: Size, labels: Labels, threads: int) -> None:
    """Labels of several images of one size, [B, H, W], each from the single view of it."""
    tasks = []
    for view, out in zip(views, labels, strict=True):
        grid = _plan(view, size)
        count = len(grid.rows.cells)
        bands = 1 if threads == 1 else min(count, max(1, size[0] * size[1] // SMALL), 3 * threads)
        edges = [count * band // bands for band in range(bands + 1)]
        tasks += [partial(_label, grid, *band, out) for band in itertools.pairwise(edges)]
    run(tasks, threads)


def score(views: Sequence[Windows], size: Size, threads: int, use: Callable[[int, Floats], None]) -> None:
    """The mean over views of the softmax over classes: use(start, scores [K, rows, W]) for all bands of rows."""
    grids = [_plan(view, size) for view in views]
    K = views[0].logits.shape[1]

    def band(start: int, stop: int) -> None:
        scores = np.zeros((K, stop - start, size[1]), np.float32)
        for grid in grids:
            _add_softmax(grid, start, scores)
        scores /= np.float32(len(grids))
        use(start, scores)

    run([partial(band, *rows) for rows in _bands(K, size)], threads)


def merge(views: Sequence[Windows], size: Size, labels: Labels, threads: int) -> None:
    """Labels of an image [H, W] from several views."""
    score(views, size, threads, lambda start, scores: _first_best(scores, labels[start : start + scores.shape[1]]))


def trial() -> None:
    """A smallest call, which fails where the loops cannot be compiled."""
    view = Windows(np.zeros((1, 2, 2, 2), np.float32), [(0, 0)], (2, 2), (2, 2), (2, 2))
    label([view], (2, 2), np.zeros((1, 2, 2), np.uint8), 1)


def _plan(view: Windows, size: Size) -> Grid:
    """Where the cells of an image of `size` lie in a view."""
    tops, lefts = (np.array(starts, np.intp) for starts in zip(*view.origins, strict=True))
    h, w = view.logits.shape[2:]
    rows = _axis(tuple(np.unique(tops)), h, view.window[0], view.padded[0], view.size[0], size[0], False)
    columns = _axis(tuple(np.unique(lefts)), w, view.window[1], view.padded[1], view.size[1], size[1], view.mirrored)
    return Grid(view.logits, tops, lefts, rows, columns)


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
