"""Triton kernels: labels from patch logits on a GPU, without ever writing a score. `merge_cuda` launches them.

Upsampling 150 classes to 512×512 would write 157 MB an image and read them again; the labels are 0.26 MB, the
fp16 logits of 32×32 patches 0.3 MB. So a program owns a tile of pixels, and goes through the classes twice:

- It finds the least and the largest logit of each class around the tile. A class whose largest is clearly
  below another one's least can win nowhere in the tile, and is dropped. Few are left on an image, all of
  them on noise. What is not tame (NaN, infinities, what overflows) is neither dropped nor drops others.
- It scores the survivors in order, in registers; the first best wins.

Where the patch is a multiple of 8, tiles (16×16 or 8×8 pixels, one warp) are shifted so that each lies in one
cell between four patch centres: four numbers give a class to all its pixels. Anywhere else ("loose") tiles
are 8×8 pixels of two warps, and every pixel gathers its own corners in every window that covers it.

Multiplications and additions are not fused (the launchers say `enable_fp_fusion=False`): scores are then those
of `reference` to the last bit, ties included. Offsets are 32-bit: `merge` refuses what they cannot count.

Tuples group what belongs together (flags stay arguments: in a tuple Triton would no longer know them when compiling):
    patches: (h, w, input lines for each output line, down and across) of one window's logits.
    windows: (anchors, begin, end, height, width): the windows begin … end of a view, and their size.
    view: (height, width, its lines for each line of the image, down and across).
STRETCH_Y, RESIZE_X and so on: whether patches → window (stretch), view → image (resize) change that length at all.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - arguments of Triton's kernels have no Python types
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

# Sums of anything smaller stay finite, and a product with 0 stays 0.
TAME = tl.constexpr(1e30)
LOWEST = tl.constexpr(-3.4028234663852886e38)
# Twice the rounding of one operation, relative; and far more than what any of them loses to underflow.
ROUNDING = tl.constexpr(2.0**-23)
UNDERFLOW = tl.constexpr(1e-37)


@triton.jit
def _blend(a, b, weight):
    return a * (1 - weight) + b * weight


@triton.jit
def _neighbours(i, scale, length):
    """Of output line i: its two input lines among `length`, and the weight of the second (`reference._taps`)."""
    position = tl.maximum((i.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(position.to(tl.int32), length - 1)
    return first, tl.minimum(first + 1, length - 1), position - first.to(tl.float32)


@triton.jit
def _first_best(score, k, best, winner):
    """The better of class k and the best before it. NaN is no less than anything, and nothing beats it."""
    wins = ((score > best) | (score != score)) & (best == best)
    return tl.where(wins, score, best), tl.where(wins, k, winner)


# --- the score of one class at any pixels ---------------------------------------------------------


@triton.jit
def _window_score(logits, y, x, patches, STRETCH_Y: tl.constexpr, STRETCH_X: tl.constexpr):
    """One class of one window at its pixels (y, x); any y and x may be read."""
    h, w, scale_y, scale_x = patches
    top, bottom, down = _neighbours(y, scale_y, h)
    left, right, along = _neighbours(x, scale_x, w)
    score = tl.load(logits + top * w + left).to(tl.float32)
    if STRETCH_X:
        score = _blend(score, tl.load(logits + top * w + right).to(tl.float32), along)
    if STRETCH_Y:
        lower = tl.load(logits + bottom * w + left).to(tl.float32)
        if STRETCH_X:
            lower = _blend(lower, tl.load(logits + bottom * w + right).to(tl.float32), along)
        score = _blend(score, lower, down)
    return score


@triton.jit
def _mean_score(
    logits, y, x, windows, patches,
    K: tl.constexpr, SINGLE: tl.constexpr, STRETCH_Y: tl.constexpr, STRETCH_X: tl.constexpr,
):      # fmt: skip
    """One class at pixels (y, x) of the view: the mean of the windows that cover them."""
    if SINGLE:
        score = _window_score(logits, y, x, patches, STRETCH_Y, STRETCH_X)
    else:
        anchors, begin, end, height, width = windows
        total = tl.zeros_like(x + y).to(tl.float32)
        count = tl.zeros_like(x + y).to(tl.float32)
        for i in range(begin, end):
            dy, dx = y - tl.load(anchors + 2 * i), x - tl.load(anchors + 2 * i + 1)
            inside = (dy >= 0) & (dy < height) & (dx >= 0) & (dx < width)
            part = _window_score(logits + i * K * patches[0] * patches[1], dy, dx, patches, STRETCH_Y, STRETCH_X)
            total += tl.where(inside, part, 0.0)
            count += inside.to(tl.float32)
        score = tl.div_rn(total, count)
    return score


@triton.jit
def _view_score(
    logits, y, x, view, windows, patches,
    K: tl.constexpr, SINGLE: tl.constexpr, STRETCH_Y: tl.constexpr, STRETCH_X: tl.constexpr,
    RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
):      # fmt: skip
    """One class at pixels (y, x) of the image, in the twin's order: columns, then rows."""
    top, bottom, left, right = y, y, x, x
    if RESIZE_Y:
        top, bottom, down = _neighbours(y, view[2], view[0])
    if RESIZE_X:
        left, right, along = _neighbours(x, view[3], view[1])
    score = _mean_score(logits, top, left, windows, patches, K, SINGLE, STRETCH_Y, STRETCH_X)
    if RESIZE_X:
        other = _mean_score(logits, top, right, windows, patches, K, SINGLE, STRETCH_Y, STRETCH_X)
        score = _blend(score, other, along)
    if RESIZE_Y:
        lower = _mean_score(logits, bottom, left, windows, patches, K, SINGLE, STRETCH_Y, STRETCH_X)
        if RESIZE_X:
            other = _mean_score(logits, bottom, right, windows, patches, K, SINGLE, STRETCH_Y, STRETCH_X)
            lower = _blend(lower, other, along)
        score = _blend(score, lower, down)
    return score


# --- what a tile reads ------------------------------------------------------------------------------


@triton.jit
def _lines(start, size, length, scale, TILE: tl.constexpr, RESIZE: tl.constexpr):
    """The first and last line of the view, of `length`, that the image's lines start … start + TILE read."""
    first, last = tl.maximum(start, 0), tl.minimum(start + TILE, size) - 1
    if RESIZE:
        first, _, _ = _neighbours(first, scale, length)
        _, last, _ = _neighbours(last, scale, length)
    return first, last


@triton.jit
def _covering(anchors, n, box, height, width):
    """A range of windows that holds all those which meet a box of the view."""
    first_y, last_y, first_x, last_x = box
    begin, end = n, n * 0
    for i in range(n):
        top, left = tl.load(anchors + 2 * i), tl.load(anchors + 2 * i + 1)
        meets = (top <= last_y) & (top + height > first_y) & (left <= last_x) & (left + width > first_x)
        begin = tl.where(meets, tl.minimum(begin, i), begin)
        end = tl.where(meets, i + 1, end)
    return begin, end


@triton.jit
def _extremes(logits, classes, box, windows, patches, K: tl.constexpr, SINGLE: tl.constexpr):
    """Of each class, the least and the largest logit that a box of the view reads, and whether all are tame."""
    first_y, last_y, first_x, last_x = box
    anchors, begin, end, height, width = windows
    h, w, scale_y, scale_x = patches
    least = tl.full(classes.shape, float("inf"), tl.float32)
    largest = tl.full(classes.shape, float("-inf"), tl.float32)
    tame = classes < K
    for i in range(begin, end):
        top, left = 0, 0
        if not SINGLE:
            top, left = tl.load(anchors + 2 * i), tl.load(anchors + 2 * i + 1)
        row, _, _ = _neighbours(tl.maximum(first_y - top, 0), scale_y, h)
        _, last_row, _ = _neighbours(tl.minimum(last_y - top, height - 1), scale_y, h)
        column, _, _ = _neighbours(tl.maximum(first_x - left, 0), scale_x, w)
        _, last_column, _ = _neighbours(tl.minimum(last_x - left, width - 1), scale_x, w)
        for r in range(row, last_row + 1):
            for c in range(column, last_column + 1):
                place = logits + i * K * h * w + r * w + c
                value = tl.load(place + classes * (h * w), classes < K, 0).to(tl.float32)
                least, largest = tl.minimum(least, value), tl.maximum(largest, value)
                tame &= tl.abs(value) < TAME
    return least, largest, tame


@triton.jit
def _may_win(largest, bound, tame, windows):
    """Whether classes may win against one that is nowhere less than `bound`.

    Rounding is monotonous, but may make equal what was not, and then the first class wins: so a class is only
    dropped beyond what four blends and a sum over the windows can round.
    """
    slack = (16 + (windows[2] - windows[1])).to(tl.float32) * ROUNDING
    return (largest >= bound - slack * (tl.abs(largest) + tl.abs(bound)) - UNDERFLOW) | (tame == 0)


# --- kernels ----------------------------------------------------------------------------------------


@triton.jit
def label_kernel(
    logits, anchors, labels, n, H, W, view_h, view_w, window_h, window_w, h, w,
    view_scale_y, view_scale_x, scale_y, scale_x, shift_y, shift_x,
    K: tl.constexpr, CLASSES: tl.constexpr, TILE: tl.constexpr, SINGLE: tl.constexpr, MIRRORED: tl.constexpr,
    STRETCH_Y: tl.constexpr, STRETCH_X: tl.constexpr, RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
    IN_CELLS: tl.constexpr,
):      # fmt: skip
    """Labels [B, H, W]: one tile of one image, from the n windows of a single view. Grid: B · tiles."""
    wide, high = tl.cdiv(W + shift_x, TILE), tl.cdiv(H + shift_y, TILE)
    tile = tl.program_id(0)
    image = tile // (wide * high)
    start_y, start_x = tile // wide % high * TILE - shift_y, tile % wide * TILE - shift_x
    logits += image * K * h * w
    y, x = start_y + tl.arange(0, TILE)[:, None], start_x + tl.arange(0, TILE)[None, :]
    first_y, last_y = _lines(start_y, H, view_h, view_scale_y, TILE, RESIZE_Y)
    first_x, last_x = _lines(start_x, W, view_w, view_scale_x, TILE, RESIZE_X)
    box = (first_y, last_y, first_x, last_x)
    begin, end = tile * 0, tile * 0 + 1
    if not SINGLE:
        begin, end = _covering(anchors, n, box, window_h, window_w)
    view, patches = (view_h, view_w, view_scale_y, view_scale_x), (h, w, scale_y, scale_x)
    windows = (anchors, begin, end, window_h, window_w)

    classes = tl.arange(0, CLASSES)
    least, largest, tame = _extremes(logits, classes, box, windows, patches, K, SINGLE)
    bound = tl.max(tl.where(tame, least, float("-inf")))
    for offset in range(CLASSES, K, CLASSES):
        least, _, tame = _extremes(logits, offset + classes, box, windows, patches, K, SINGLE)
        bound = tl.maximum(bound, tl.max(tl.where(tame, least, float("-inf"))))

    best = tl.full((TILE, TILE), float("-inf"), tl.float32)
    winner = tl.zeros((TILE, TILE), tl.int32)
    for offset in range(0, K, CLASSES):
        classes = offset + tl.arange(0, CLASSES)
        if K > CLASSES:         # else they are at hand
            _, largest, tame = _extremes(logits, classes, box, windows, patches, K, SINGLE)
        alive = (classes < K) & _may_win(largest, bound, tame, windows)
        k = tl.min(tl.where(alive, classes, K))
        while k < K:
            plane = logits + k * h * w
            if IN_CELLS:
                top, bottom, _ = _neighbours(first_y, scale_y, h)
                left, right, _ = _neighbours(first_x, scale_x, w)
                _, _, down = _neighbours(y, scale_y, h)
                _, _, along = _neighbours(x, scale_x, w)
                p, q = tl.load(plane + top * w + left), tl.load(plane + top * w + right)
                r, s = tl.load(plane + bottom * w + left), tl.load(plane + bottom * w + right)
                upper = _blend(p.to(tl.float32), q.to(tl.float32), along)               # [1, TILE]
                lower = _blend(r.to(tl.float32), s.to(tl.float32), along)
                score = _blend(upper, lower, down)                                      # [TILE, TILE]
            else:
                score = _view_score(plane, y, x, view, windows, patches,
                                    K, SINGLE, STRETCH_Y, STRETCH_X, RESIZE_Y, RESIZE_X)        # fmt: skip
            best, winner = _first_best(score, k, best, winner)
            k = tl.min(tl.where(alive & (classes > k), classes, K))
    out = W - 1 - x if MIRRORED else x
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    tl.store(labels + image * H * W + y * W + out, winner.to(labels.dtype.element_ty), inside)


@triton.jit
def softmax_kernel(
    logits, anchors, scores, n, start, rows, H, W, view_h, view_w, window_h, window_w, h, w,
    view_scale_y, view_scale_x, scale_y, scale_x,
    K: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, SINGLE: tl.constexpr, MIRRORED: tl.constexpr,
    STRETCH_Y: tl.constexpr, STRETCH_X: tl.constexpr, RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
):      # fmt: skip
    """Adds one view's softmax over classes to scores [K, rows start …, W]. Grid: tiles."""
    wide = tl.cdiv(W, WIDE)
    start_y, start_x = tl.program_id(0) // wide * HIGH, tl.program_id(0) % wide * WIDE
    row, x = start_y + tl.arange(0, HIGH)[:, None], start_x + tl.arange(0, WIDE)[None, :]
    y = start + row
    begin, end = start_y * 0, start_y * 0 + 1
    if not SINGLE:
        first_y, last_y = _lines(start + start_y, H, view_h, view_scale_y, HIGH, RESIZE_Y)
        first_x, last_x = _lines(start_x, W, view_w, view_scale_x, WIDE, RESIZE_X)
        begin, end = _covering(anchors, n, (first_y, last_y, first_x, last_x), window_h, window_w)
    view, patches = (view_h, view_w, view_scale_y, view_scale_x), (h, w, scale_y, scale_x)
    windows = (anchors, begin, end, window_h, window_w)

    # Begun with the lowest number and not with -∞, whose difference with itself would be NaN.
    most = tl.full((HIGH, WIDE), LOWEST, tl.float32)
    total = tl.zeros((HIGH, WIDE), tl.float32)
    for k in range(K):
        score = _view_score(logits + k * h * w, y, x, view, windows, patches,
                            K, SINGLE, STRETCH_Y, STRETCH_X, RESIZE_Y, RESIZE_X)        # fmt: skip
        more = tl.maximum(most, score)
        total = total * tl.exp(most - more) + tl.exp(score - more)
        most = more
    out = scores + row * W + (W - 1 - x if MIRRORED else x)
    inside = (row < rows) & (x < W)
    for k in range(K):
        score = _view_score(logits + k * h * w, y, x, view, windows, patches,
                            K, SINGLE, STRETCH_Y, STRETCH_X, RESIZE_Y, RESIZE_X)        # fmt: skip
        place = out + k * rows * W
        tl.store(place, tl.load(place, inside, 0.0) + tl.exp(score - most) / total, inside)


@triton.jit
def first_best_kernel(scores, labels, pixels, views, K: tl.constexpr, BLOCK: tl.constexpr):
    """The first best class of scores [K, pixels], sums over `views` → labels [pixels]. Grid: blocks of pixels."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    winner = tl.zeros((BLOCK,), tl.int32)
    for k in range(K):
        score = tl.div_rn(tl.load(scores + k * pixels + pixel, pixel < pixels, 0.0), views)
        best, winner = _first_best(score, k, best, winner)
    tl.store(labels + pixel, winner.to(labels.dtype.element_ty), pixel < pixels)
