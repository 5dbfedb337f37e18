# ruff: noqa: ANN001, ANN201, ANN202 - arguments of Triton's kernels have no Python types
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""What the kernels of `merge_triton` share: the score of one class at any pixels, and which lines and windows they read.

Tuples group what belongs together:
    steps: elements from one window, class, row and column of patches to the next, all but the class's in VECTOR elements.
    patches: (h, w, input lines for each output line, down and across, whether there is stretching, down and across) of
        one window's logits.
    windows: (origins, begin, end, height, width): the windows begin … end of a view, and their size.
    view: (height, width, its lines for each line of the image, whether there is resizing, both down and across).
A direction whose length stays is neither stretched (patches → window) nor resized (view → image), as in the twin.
LAST: the classes of a patch are neighbours. VECTOR: so many elements divide all steps, and may be loaded at once.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def blend(a, b, weight):
    """From a to b, of which `weight` is the share."""
    return a * (1 - weight) + b * weight


@triton.jit
def neighbours(i, scale, length):
    """Of output line i: its two input lines among `length`, and the weight of the second (`reference._taps`)."""
    position = tl.maximum((i.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(position.to(tl.int32), length - 1)
    return first, tl.minimum(first + 1, length - 1), position - first.to(tl.float32)


@triton.jit
def _window_score(logits, y, x, patches, steps, VECTOR: tl.constexpr):
    """One class of one window at its pixels (y, x); any y and x may be read."""
    h, w, scale_y, scale_x, stretch_y, stretch_x = patches
    top, bottom, down = neighbours(y, scale_y, h)
    left, right, along = neighbours(x, scale_x, w)
    top, bottom = top * steps[2], bottom * steps[2]
    left, right = left * steps[3], right * steps[3]
    upper = tl.load(logits + (top + left) * VECTOR).to(tl.float32)
    upper = tl.where(stretch_x, blend(upper, tl.load(logits + (top + right) * VECTOR).to(tl.float32), along), upper)
    lower = tl.load(logits + (bottom + left) * VECTOR).to(tl.float32)
    lower = tl.where(stretch_x, blend(lower, tl.load(logits + (bottom + right) * VECTOR).to(tl.float32), along), lower)
    return tl.where(stretch_y, blend(upper, lower, down), upper)


@triton.jit
def _mean_score(logits, y, x, windows, patches, steps, SINGLE: tl.constexpr, VECTOR: tl.constexpr):
    """One class at pixels (y, x) of the view: the mean of the windows that cover them."""
    if SINGLE:
        score = _window_score(logits, y, x, patches, steps, VECTOR)
    else:
        origins, begin, end, height, width = windows
        total = tl.zeros_like(x + y).to(tl.float32)
        count = tl.zeros_like(x + y).to(tl.float32)
        for i in range(begin, end):
            dy, dx = y - tl.load(origins + 2 * i), x - tl.load(origins + 2 * i + 1)
            inside = (dy >= 0) & (dy < height) & (dx >= 0) & (dx < width)
            part = _window_score(logits + i * steps[0] * VECTOR, dy, dx, patches, steps, VECTOR)
            total += tl.where(inside, part, 0.0)
            count += inside.to(tl.float32)
        score = tl.div_rn(total, count)
    return score


@triton.jit
def view_score(
    logits, k, y, x, view, windows, patches, steps,
    SINGLE: tl.constexpr, RESIZE: tl.constexpr, LAST: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Class k at pixels (y, x) of the image, in the twin's order: columns, then rows."""
    if LAST:
        logits += k
    else:
        logits += k * steps[1]
    if RESIZE:
        height, width, scale_y, scale_x, resize_y, resize_x = view
        top, bottom, down = neighbours(y, scale_y, height)
        left, right, along = neighbours(x, scale_x, width)
        upper = _mean_score(logits, top, left, windows, patches, steps, SINGLE, VECTOR)
        other = _mean_score(logits, top, right, windows, patches, steps, SINGLE, VECTOR)
        upper = tl.where(resize_x, blend(upper, other, along), upper)
        lower = _mean_score(logits, bottom, left, windows, patches, steps, SINGLE, VECTOR)
        other = _mean_score(logits, bottom, right, windows, patches, steps, SINGLE, VECTOR)
        lower = tl.where(resize_x, blend(lower, other, along), lower)
        score = tl.where(resize_y, blend(upper, lower, down), upper)
    else:
        score = _mean_score(logits, y, x, windows, patches, steps, SINGLE, VECTOR)
    return score


@triton.jit
def lines(start, size, length, scale, TILE: tl.constexpr, RESIZE: tl.constexpr):
    """The first and last line of the view, of `length`, that the image's lines start … start + TILE read, or beyond."""
    first, last = tl.maximum(start, 0), tl.minimum(start + TILE, size) - 1
    if RESIZE:
        first, last = reach(first, last, scale, length)
    return first, last


@triton.jit
def reach(first, last, scale, length):
    """The first and last of `length` input lines that the output lines first … last read."""
    return neighbours(first, scale, length)[0], neighbours(last, scale, length)[1]


@triton.jit
def covering(origins, n, box, height, width):
    """A range of windows that holds all those which meet a box of the view."""
    first_y, last_y, first_x, last_x = box
    begin, end = n, n * 0
    for i in range(n):
        top, left = tl.load(origins + 2 * i), tl.load(origins + 2 * i + 1)
        meets = (top <= last_y) & (top + height > first_y) & (left <= last_x) & (left + width > first_x)
        begin = tl.where(meets, tl.minimum(begin, i), begin)
        end = tl.where(meets, i + 1, end)
    return begin, end
