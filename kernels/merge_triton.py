# ruff: noqa: ANN001, ANN201, ANN202 - arguments of Triton's kernels have no Python types
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Triton kernels: labels from patch logits on a GPU, without ever writing a score. `merge_cuda` launches them.

Upsampling 150 classes to 512×512 would write 157 MB an image and read them again; the labels are 0.26 MB, the
fp16 logits of 32×32 patches 0.31 MB: 0.57 MB is the least that memory must move. So a program owns a tile of pixels,
and goes through the classes twice:

- It finds the least and the largest logit of each class around the tile. A class whose largest is clearly
  below another one's least can win nowhere in the tile, and is dropped. Few are left on an image, all of
  them on noise. What is not tame (NaN, infinities, what overflows) is neither dropped nor drops others.
- It scores the survivors in order, in registers; the first best wins.

Logits are read as they lie, best with the classes last (`merge_layout`): a thread then loads 16 bytes of neighbouring
classes. In cells of 16 pixels a tile reads 4 patches of 10 sectors, 1.3 KB, and the 1,089 tiles of an image 1.4 MB,
nearly all of it from caches, as 4 tiles share a patch: memory moves 0.59 MB, the rows' padding being all that is
added to the least. With the classes first a tile read 600 sectors, and an image 21 MB, of which a sixteenth was used.

Where the patch is a multiple of 8, tiles (16×16 or 8×8 pixels, one warp) are shifted so that each lies in one
cell between four patch centres: four numbers give a class to all its pixels. Anywhere else ("loose") tiles
are 8×8 pixels of two warps, and every pixel gathers its own corners in every window that covers it.

Multiplications and additions are not fused (the launchers say `enable_fp_fusion=False`): scores are then those
of `reference` to the last bit, ties included. Offsets are 32-bit: `merge` refuses what they cannot count.

No size is known when compiling, nor whether 16 divides it, or a compilation would come with every other image: all
that a kernel is compiled for are its `tl.constexpr` arguments, few enough for `merge_cuda.warm_up`.

`merge_pixels` scores a class at any pixels, and tells what the tuples of arguments hold.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .merge_pixels import blend, covering, lines, neighbours, reach, view_score

# Sums of anything smaller stay finite, and a product with 0 stays 0.
TAME = tl.constexpr(1e30)
LOWEST = tl.constexpr(-3.4028234663852886e38)
# Twice the rounding of one operation, relative; and far more than what any of them loses to underflow.
ROUNDING = tl.constexpr(2.0**-23)
UNDERFLOW = tl.constexpr(1e-37)


@triton.jit
def _first_best(score, k, best, winner):
    """The better of class k and the best before it. NaN is no less than anything, and nothing beats it."""
    wins = ((score > best) | (score != score)) & (best == best)
    return tl.where(wins, score, best), tl.where(wins, k, winner)


@triton.jit
def _patch(logits, i, row, column, steps, VECTOR: tl.constexpr):
    """Where the classes of one patch of window i begin."""
    place = logits + (i * steps[0] + row * steps[2] + column * steps[3]) * VECTOR
    if VECTOR > 1:
        place = tl.multiple_of(place, 16)
    return place


@triton.jit
def _extremes(
    logits, classes, K, readable, box, windows, patches, steps,
    SINGLE: tl.constexpr, LAST: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Of each class, the least and the largest logit that a box of the view reads, and whether all are tame.

    What lies behind the last class may be read, so that no vector is cut: of such "classes" nothing is tame.
    """
    first_y, last_y, first_x, last_x = box
    origins, begin, end, height, width = windows
    h, w, scale_y, scale_x = patches[0], patches[1], patches[2], patches[3]
    least = tl.full(classes.shape, float("inf"), tl.float32)
    largest = tl.full(classes.shape, float("-inf"), tl.float32)
    tame = classes < K
    for i in range(begin, end):
        top, left = 0, 0
        if not SINGLE:
            top, left = tl.load(origins + 2 * i), tl.load(origins + 2 * i + 1)
        first_row, last_row = reach(tl.maximum(first_y - top, 0), tl.minimum(last_y - top, height - 1), scale_y, h)
        first_column, last_column = reach(
            tl.maximum(first_x - left, 0), tl.minimum(last_x - left, width - 1), scale_x, w
        )
        for row in range(first_row, last_row + 1):
            for column in range(first_column, last_column + 1):
                place = _patch(logits, i, row, column, steps, VECTOR)
                if LAST:
                    value = tl.load(place + classes, classes < readable * VECTOR, 0).to(tl.float32)
                else:
                    value = tl.load(place + classes * steps[1], classes < K, 0).to(tl.float32)
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

# What no compilation may depend on, and what may begin anywhere.
SIZES = [
    "K", "readable", "step_n", "step_k", "step_y", "step_x", "n", "start", "rows", "H", "W", "view_h", "view_w",
    "window_h", "window_w", "h", "w", "shift_y", "shift_x", "stretch_y", "stretch_x", "resize_y", "resize_x", "mirrored",
    "pixels",
]  # fmt: skip
POINTERS = ["logits", "origins", "labels", "scores"]


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def label_kernel(
    logits, origins, labels, K, readable, step_n, step_k, step_y, step_x, n, H, W, view_h, view_w, window_h, window_w, h, w,
    view_scale_y, view_scale_x, scale_y, scale_x, shift_y, shift_x,
    stretch_y, stretch_x, resize_y, resize_x, mirrored,
    CLASSES: tl.constexpr, MANY: tl.constexpr, TILE: tl.constexpr, IN_CELLS: tl.constexpr, SINGLE: tl.constexpr,
    RESIZE: tl.constexpr, LAST: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Labels [B, H, W]: one tile of one image, from the n windows of a single view. Grid: B · tiles.

    CLASSES are taken at a time; MANY: there are more, so that extremes are computed twice.
    """
    wide, high = tl.cdiv(W + shift_x, TILE), tl.cdiv(H + shift_y, TILE)
    tile = tl.program_id(0)
    image = tile // (wide * high)
    start_y, start_x = tile // wide % high * TILE - shift_y, tile % wide * TILE - shift_x
    logits += image * step_n * VECTOR
    y, x = start_y + tl.arange(0, TILE)[:, None], start_x + tl.arange(0, TILE)[None, :]
    first_y, last_y = lines(start_y, H, view_h, view_scale_y, TILE, RESIZE)
    first_x, last_x = lines(start_x, W, view_w, view_scale_x, TILE, RESIZE)
    box = (first_y, last_y, first_x, last_x)
    begin, end = tile * 0, tile * 0 + 1
    if not SINGLE:
        begin, end = covering(origins, n, box, window_h, window_w)
    view = (view_h, view_w, view_scale_y, view_scale_x, resize_y != 0, resize_x != 0)
    patches = (h, w, scale_y, scale_x, stretch_y != 0, stretch_x != 0)
    windows, steps = (origins, begin, end, window_h, window_w), (step_n, step_k, step_y, step_x)

    least, largest, tame = _extremes(
        logits, tl.arange(0, CLASSES), K, readable, box, windows, patches, steps, SINGLE, LAST, VECTOR
    )
    bound = tl.max(tl.where(tame, least, float("-inf")))
    if MANY:
        for offset in range(CLASSES, K, CLASSES):
            more = _extremes(
                logits, offset + tl.arange(0, CLASSES), K, readable, box, windows, patches, steps, SINGLE, LAST, VECTOR
            )
            bound = tl.maximum(bound, tl.max(tl.where(more[2], more[0], float("-inf"))))

    best = tl.full((TILE, TILE), float("-inf"), tl.float32)
    winner = tl.zeros((TILE, TILE), tl.int32)
    for offset in range(0, K, CLASSES):
        classes = offset + tl.arange(0, CLASSES)
        if MANY:  # else they are at hand
            least, largest, tame = _extremes(
                logits, classes, K, readable, box, windows, patches, steps, SINGLE, LAST, VECTOR
            )
        alive = (classes < K) & _may_win(largest, bound, tame, windows)
        k = tl.min(tl.where(alive, classes, K))
        while k < K:
            if IN_CELLS:
                score = _cell_score(logits, k, first_y, first_x, y, x, patches, steps, LAST, VECTOR)
            else:
                score = view_score(logits, k, y, x, view, windows, patches, steps, SINGLE, RESIZE, LAST, VECTOR)
            best, winner = _first_best(score, k, best, winner)
            k = tl.min(tl.where(alive & (classes > k), classes, K))
    out = tl.where(mirrored != 0, W - 1 - x, x)
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    tl.store(labels + image * H * W + y * W + out, winner.to(labels.dtype.element_ty), inside)


@triton.jit
def _cell_score(logits, k, first_y, first_x, y, x, patches, steps, LAST: tl.constexpr, VECTOR: tl.constexpr):
    """Class k at the pixels (y, x) of a cell: four numbers for all of them."""
    if LAST:
        logits += k
    else:
        logits += k * steps[1]
    h, w, scale_y, scale_x = patches[0], patches[1], patches[2], patches[3]
    top, bottom = reach(first_y, first_y, scale_y, h)
    left, right = reach(first_x, first_x, scale_x, w)
    top, bottom = top * steps[2], bottom * steps[2]
    left, right = left * steps[3], right * steps[3]
    down, along = neighbours(y, scale_y, h)[2], neighbours(x, scale_x, w)[2]
    p, q = tl.load(logits + (top + left) * VECTOR), tl.load(logits + (top + right) * VECTOR)
    r, s = tl.load(logits + (bottom + left) * VECTOR), tl.load(logits + (bottom + right) * VECTOR)
    upper = blend(p.to(tl.float32), q.to(tl.float32), along)  # [1, TILE]
    lower = blend(r.to(tl.float32), s.to(tl.float32), along)
    return blend(upper, lower, down)  # [TILE, TILE]


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def softmax_kernel(
    logits, origins, scores, K, step_n, step_k, step_y, step_x, n, start, rows, H, W, view_h, view_w,
    window_h, window_w, h, w, view_scale_y, view_scale_x, scale_y, scale_x,
    stretch_y, stretch_x, resize_y, resize_x, mirrored,
    HIGH: tl.constexpr, WIDE: tl.constexpr, SINGLE: tl.constexpr, RESIZE: tl.constexpr,
    LAST: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Adds one view's softmax over classes to scores [K, rows start …, W]. Grid: tiles."""
    wide = tl.cdiv(W, WIDE)
    start_y, start_x = tl.program_id(0) // wide * HIGH, tl.program_id(0) % wide * WIDE
    row, x = start_y + tl.arange(0, HIGH)[:, None], start_x + tl.arange(0, WIDE)[None, :]
    y = start + row
    begin, end = start_y * 0, start_y * 0 + 1
    if not SINGLE:
        first_y, last_y = lines(start + start_y, H, view_h, view_scale_y, HIGH, RESIZE)
        first_x, last_x = lines(start_x, W, view_w, view_scale_x, WIDE, RESIZE)
        begin, end = covering(origins, n, (first_y, last_y, first_x, last_x), window_h, window_w)
    view = (view_h, view_w, view_scale_y, view_scale_x, resize_y != 0, resize_x != 0)
    patches = (h, w, scale_y, scale_x, stretch_y != 0, stretch_x != 0)
    windows, steps = (origins, begin, end, window_h, window_w), (step_n, step_k, step_y, step_x)

    # Begun with the lowest number and not with -∞, whose difference with itself would be NaN.
    most = tl.full((HIGH, WIDE), LOWEST, tl.float32)
    total = tl.zeros((HIGH, WIDE), tl.float32)
    for k in range(K):
        score = view_score(logits, k, y, x, view, windows, patches, steps, SINGLE, RESIZE, LAST, VECTOR)
        more = tl.maximum(most, score)
        total = total * tl.exp(most - more) + tl.exp(score - more)
        most = more
    out = scores + row * W + tl.where(mirrored != 0, W - 1 - x, x)
    inside = (row < rows) & (x < W)
    for k in range(K):
        score = view_score(logits, k, y, x, view, windows, patches, steps, SINGLE, RESIZE, LAST, VECTOR)
        place = out + k * rows * W
        tl.store(place, tl.load(place, inside, 0.0) + tl.exp(score - most) / total, inside)


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def first_best_kernel(scores, labels, K, pixels, views, BLOCK: tl.constexpr):
    """The first best class of scores [K, pixels], sums over `views` → labels [pixels]. Grid: blocks of pixels."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    winner = tl.zeros((BLOCK,), tl.int32)
    for k in range(K):
        score = tl.div_rn(tl.load(scores + k * pixels + pixel, pixel < pixels, 0.0), views)
        best, winner = _first_best(score, k, best, winner)
    tl.store(labels + pixel, winner.to(labels.dtype.element_ty), pixel < pixels)
