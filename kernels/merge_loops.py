"""The compiled loops of `merge_cpu`, in one file: numba keeps what it compiled until the file of the outermost changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .cpu import compiled
from .merge_cells import Floats, Grid
from .reference import Labels

Classes = NDArray[np.int32]
Knots = NDArray[np.uintp]

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


@compiled
def _line(grid: Grid, knot: int, patches: Floats, counts: Floats, out: Floats) -> None:
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
def _rivals(upper: Floats, lower: Floats, left: int, right: int, best: int) -> int:
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
def _contenders(upper: Floats, lower: Floats, left: int, right: int, contenders: Classes) -> int:
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
    upper: Floats,
    lower: Floats,
    column: tuple[int, int, int, int],
    slopes: Floats,
    slope: Floats,
    classes: Classes,
    ends: Floats,
    best: Floats,
    winner: Classes,
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
def label_cells(grid: Grid, first: int, last: int, labels: Labels) -> None:
    """Labels of the image in the rows of cells first … last, from one view."""
    K, w = grid.logits.shape[1], grid.logits.shape[3]
    rows, columns = grid.rows, grid.columns
    upper, lower = np.empty((columns.knots.size, K), np.float32), np.empty((columns.knots.size, K), np.float32)
    patches, counts = np.empty((w, K), np.float32), np.empty(columns.knots.size, np.float32)
    contenders = np.empty(K, np.int32)
    ends, best = np.empty((2, grid.tile), np.float32), np.empty((grid.tile, grid.tile), np.float32)
    winner = np.empty((grid.tile, grid.tile), np.int32)
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
            cell, slopes = (column[0], column[1], left, right), rows.slope[start:stop]
            _score_cell(upper, lower, cell, slopes, columns.slope, contenders[:n], ends, best, winner)
            for y in range(stop - start):
                for x in range(column[1] - column[0]):
                    labels[start + y, column[0] + x] = winner[y, x]


@compiled
def _exp(x: np.float32) -> np.float32:
    """e^x for x ≤ 0 to 2 units in the last place, in plain arithmetic so that loops over it become vectors."""
    x = max(x, LEAST)
    power = np.floor(x * LOG2_E + HALF)
    x = x - power * LN2_HIGH - power * LN2_LOW
    y = EXP[0]
    for coefficient in EXP[1:]:
        y = y * x + coefficient
    return (y * x * x + x + ONE) * np.int32((np.int32(power) + 127) << 23).view(np.float32)


@compiled
def _softmax(
    line: Floats, left: Knots, right: Knots, slope: Floats, logits: Floats, most: Floats, total: Floats
) -> None:
    """For some pixels of a row, e^(logit - most) → logits [K, BLOCK] and one by their sum → total [BLOCK]."""
    K, n = line.shape[0], slope.size
    most[:] = -np.inf
    total[:] = 0
    for k in range(K):
        for x in range(n):
            b = slope[x]
            logits[k, x] = line[k, left[x]] * (ONE - b) + line[k, right[x]] * b
            most[x] = max(most[x], logits[k, x])
    for k in range(K):
        for x in range(n):
            logits[k, x] = _exp(logits[k, x] - most[x])
            total[x] += logits[k, x]
    for x in range(n):
        total[x] = ONE / total[x]


@compiled
def add_softmax(grid: Grid, start: int, scores: Floats) -> None:
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
                x1 = min(x0 + BLOCK, width)
                _softmax(line, left[x0:x1], right[x0:x1], columns.slope[x0:x1], logits, most, total)
                for k in range(K):
                    for x in range(x1 - x0):
                        scores[k, y - start, x0 + x] += logits[k, x] * total[x]


@compiled
def first_best(scores: Floats, labels: Labels) -> None:
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
