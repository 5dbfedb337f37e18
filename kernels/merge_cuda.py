"""Labels from patch logits on a GPU, without ever writing a score.

Upsampling 150 classes to 512×512 writes 157 MB an image and reads them again: 0.1 ms of memory traffic.
The labels are 0.26 MB, the logits 0.6 MB, so here a tile of 16×16 pixels belongs to one warp:

- Tiles are shifted so that, where the patch is a multiple of 8, each lies between four patch centres. The
  warp reads all classes of those corners, some 600 numbers out of L1 and L2, which its neighbours share.
- A class whose largest logit around the tile is below another one's smallest is dropped: nowhere in the
  tile can it win, since interpolation, sums and divisions round monotonously. Few are left on an image,
  all of them on noise. What is not tame (NaN, infinities, what overflows) is never dropped, nor drops others.
- Survivors are scored in order, four uniform loads for 256 pixels and about six instructions a pixel, in
  registers: noise, where nothing drops, is some 2·10^8 of them an image, or 10 µs of an H200's arithmetic.

Multiplications and additions are not fused (`enable_fp_fusion=False`): the formula is then the twin's to
the last bit, ties included, and what fusion would save is below the cost of the comparisons beside it.
Offsets are 32-bit: the checks of `merge` refuse 2^31 elements. Nothing waits for the GPU, so a call can be
captured in a CUDA graph.
"""

# ruff: noqa: ANN001, ANN202 - arguments of Triton's kernels have no Python types
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import Size, Windows, _taps

# Classes read at a time: eight a thread and corner. More classes take several rounds.
CLASSES = 256
# Where tiles lie in no cell every pixel gathers its own corners, up to 16 in each window: one a thread, or registers spill.
LOOSE_TILE, LOOSE_WARPS = 8, 2
# Said outright, or ptxas spills a few bytes for an occupancy nobody asked for.
REGISTERS = 128
# Tiles of several views: rows of 32 pixels are written as whole lines of memory.
SOFT_TILE, SOFT_WARPS = (8, 32), 4
# Mean scores are made for so many numbers at a time (64 MB), in bands of rows.
BAND = 1 << 24
# Sums of anything smaller stay finite, and a product with 0 stays 0.
TAME = tl.constexpr(1e30)
LOWEST = tl.constexpr(-3.4028234663852886e38)

# Anchors that a captured graph reads whenever it is replayed.
_captured: list[Tensor] = []


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
def _window_score(logits, y, x, scale_y, scale_x, h, w, STRETCH_Y: tl.constexpr, STRETCH_X: tl.constexpr):
    """One class of one window at its pixels (y, x); any y and x may be read."""
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
    logits, anchors, begin, end, y, x, window_h, window_w, scale_y, scale_x, h, w,
    K: tl.constexpr, SINGLE: tl.constexpr, STRETCH_Y: tl.constexpr, STRETCH_X: tl.constexpr,
):      # fmt: skip
    """One class at pixels (y, x) of the view: the mean of the windows begin … end that cover them."""
    if SINGLE:
        score = _window_score(logits, y, x, scale_y, scale_x, h, w, STRETCH_Y, STRETCH_X)
    else:
        total = tl.zeros_like(x + y).to(tl.float32)
        count = tl.zeros_like(x + y).to(tl.float32)
        for i in range(begin, end):
            dy, dx = y - tl.load(anchors + 2 * i), x - tl.load(anchors + 2 * i + 1)
            inside = (dy >= 0) & (dy < window_h) & (dx >= 0) & (dx < window_w)
            part = _window_score(logits + i * K * h * w, dy, dx, scale_y, scale_x, h, w, STRETCH_Y, STRETCH_X)
            total += tl.where(inside, part, 0.0)
            count += inside.to(tl.float32)
        score = tl.div_rn(total, count)
    return score


@triton.jit
def _view_score(
    logits, anchors, begin, end, y, x, view_h, view_w, window_h, window_w, view_scale_y, view_scale_x,
    scale_y, scale_x, h, w,
    K: tl.constexpr, SINGLE: tl.constexpr, STRETCH_Y: tl.constexpr, STRETCH_X: tl.constexpr,
    RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
):      # fmt: skip
    """One class at pixels (y, x) of the image, in the twin's order: columns, then rows."""
    top, bottom, left, right = y, y, x, x
    if RESIZE_Y:
        top, bottom, down = _neighbours(y, view_scale_y, view_h)
    if RESIZE_X:
        left, right, along = _neighbours(x, view_scale_x, view_w)
    score = _mean_score(logits, anchors, begin, end, top, left, window_h, window_w, scale_y, scale_x, h, w,
                        K, SINGLE, STRETCH_Y, STRETCH_X)        # fmt: skip
    if RESIZE_X:
        other = _mean_score(logits, anchors, begin, end, top, right, window_h, window_w, scale_y, scale_x, h, w,
                            K, SINGLE, STRETCH_Y, STRETCH_X)        # fmt: skip
        score = _blend(score, other, along)
    if RESIZE_Y:
        lower = _mean_score(logits, anchors, begin, end, bottom, left, window_h, window_w, scale_y, scale_x, h, w,
                            K, SINGLE, STRETCH_Y, STRETCH_X)        # fmt: skip
        if RESIZE_X:
            other = _mean_score(logits, anchors, begin, end, bottom, right, window_h, window_w, scale_y, scale_x, h, w,
                                K, SINGLE, STRETCH_Y, STRETCH_X)        # fmt: skip
            lower = _blend(lower, other, along)
        score = _blend(score, lower, down)
    return score


@triton.jit
def _lines(start, size, length, view_length, scale, TILE: tl.constexpr, RESIZE: tl.constexpr):
    """The first and last line of the view that the image's lines start … start + TILE read."""
    first, last = tl.maximum(start, 0), tl.minimum(start + TILE, size) - 1
    if RESIZE:
        first, _, _ = _neighbours(first, scale, view_length)
        _, last, _ = _neighbours(last, scale, view_length)
    return first, last


@triton.jit
def _covering(anchors, n, first_y, last_y, first_x, last_x, window_h, window_w):
    """A range of windows that holds all those which meet the lines of a tile."""
    begin, end = n, n * 0
    for i in range(n):
        top, left = tl.load(anchors + 2 * i), tl.load(anchors + 2 * i + 1)
        meets = (top <= last_y) & (top + window_h > first_y) & (left <= last_x) & (left + window_w > first_x)
        begin = tl.where(meets, tl.minimum(begin, i), begin)
        end = tl.where(meets, i + 1, end)
    return begin, end


@triton.jit
def _extremes(
    logits, anchors, begin, end, classes, first_y, last_y, first_x, last_x, window_h, window_w,
    scale_y, scale_x, h, w, K: tl.constexpr, SINGLE: tl.constexpr,
):      # fmt: skip
    """Of each class, the least and the largest logit that a tile reads, and whether all of them are tame."""
    least = tl.full(classes.shape, float("inf"), tl.float32)
    largest = tl.full(classes.shape, float("-inf"), tl.float32)
    tame = classes < K
    for i in range(begin, end):
        top, left = 0, 0
        if not SINGLE:
            top, left = tl.load(anchors + 2 * i), tl.load(anchors + 2 * i + 1)
        row, _, _ = _neighbours(tl.maximum(first_y - top, 0), scale_y, h)
        _, last_row, _ = _neighbours(tl.minimum(last_y - top, window_h - 1), scale_y, h)
        column, _, _ = _neighbours(tl.maximum(first_x - left, 0), scale_x, w)
        _, last_column, _ = _neighbours(tl.minimum(last_x - left, window_w - 1), scale_x, w)
        for r in range(row, last_row + 1):
            for c in range(column, last_column + 1):
                place = logits + i * K * h * w + r * w + c
                value = tl.load(place + classes * (h * w), classes < K, 0).to(tl.float32)
                least, largest = tl.minimum(least, value), tl.maximum(largest, value)
                tame &= tl.abs(value) < TAME
    return least, largest, tame


@triton.jit
def _label_kernel(
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
    first_y, last_y = _lines(start_y, H, view_h, view_h, view_scale_y, TILE, RESIZE_Y)
    first_x, last_x = _lines(start_x, W, view_w, view_w, view_scale_x, TILE, RESIZE_X)
    begin, end = tl.program_id(0) * 0, n
    if not SINGLE:
        begin, end = _covering(anchors, n, first_y, last_y, first_x, last_x, window_h, window_w)

    classes = tl.arange(0, CLASSES)
    least, largest, tame = _extremes(logits, anchors, begin, end, classes, first_y, last_y, first_x, last_x,
                                     window_h, window_w, scale_y, scale_x, h, w, K, SINGLE)     # fmt: skip
    bound = tl.max(tl.where(tame, least, float("-inf")))
    for offset in range(CLASSES, K, CLASSES):
        least, _, tame = _extremes(logits, anchors, begin, end, offset + classes, first_y, last_y, first_x, last_x,
                                   window_h, window_w, scale_y, scale_x, h, w, K, SINGLE)       # fmt: skip
        bound = tl.maximum(bound, tl.max(tl.where(tame, least, float("-inf"))))

    best = tl.full((TILE, TILE), float("-inf"), tl.float32)
    winner = tl.zeros((TILE, TILE), tl.int32)
    for offset in range(0, K, CLASSES):
        classes = offset + tl.arange(0, CLASSES)
        if K > CLASSES:         # else they are at hand
            _, largest, tame = _extremes(logits, anchors, begin, end, classes, first_y, last_y, first_x, last_x,
                                         window_h, window_w, scale_y, scale_x, h, w, K, SINGLE)     # fmt: skip
        alive = (classes < K) & ((largest >= bound) | (tame == 0))
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
                score = _view_score(plane, anchors, begin, end, y, x, view_h, view_w, window_h, window_w,
                                    view_scale_y, view_scale_x, scale_y, scale_x, h, w,
                                    K, SINGLE, STRETCH_Y, STRETCH_X, RESIZE_Y, RESIZE_X)        # fmt: skip
            # NaN is no less than anything, and nothing beats it.
            wins = ((score > best) | (score != score)) & (best == best)
            best, winner = tl.where(wins, score, best), tl.where(wins, k, winner)
            k = tl.min(tl.where(alive & (classes > k), classes, K))
    out = W - 1 - x if MIRRORED else x
    inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    tl.store(labels + image * H * W + y * W + out, winner.to(labels.dtype.element_ty), inside)


@triton.jit
def _softmax_kernel(
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
    begin, end = tl.program_id(0) * 0, n
    if not SINGLE:
        first_y, last_y = _lines(start + start_y, H, view_h, view_h, view_scale_y, HIGH, RESIZE_Y)
        first_x, last_x = _lines(start_x, W, view_w, view_w, view_scale_x, WIDE, RESIZE_X)
        begin, end = _covering(anchors, n, first_y, last_y, first_x, last_x, window_h, window_w)

    # Begun with the lowest number and not with -∞, whose difference with itself would be NaN.
    most = tl.full((HIGH, WIDE), LOWEST, tl.float32)
    total = tl.zeros((HIGH, WIDE), tl.float32)
    for k in range(K):
        score = _view_score(logits + k * h * w, anchors, begin, end, y, x, view_h, view_w, window_h, window_w,
                            view_scale_y, view_scale_x, scale_y, scale_x, h, w,
                            K, SINGLE, STRETCH_Y, STRETCH_X, RESIZE_Y, RESIZE_X)        # fmt: skip
        more = tl.maximum(most, score)
        total = total * tl.exp(most - more) + tl.exp(score - more)
        most = more
    out = scores + row * W + (W - 1 - x if MIRRORED else x)
    inside = (row < rows) & (x < W)
    for k in range(K):
        score = _view_score(logits + k * h * w, anchors, begin, end, y, x, view_h, view_w, window_h, window_w,
                            view_scale_y, view_scale_x, scale_y, scale_x, h, w,
                            K, SINGLE, STRETCH_Y, STRETCH_X, RESIZE_Y, RESIZE_X)        # fmt: skip
        place = out + k * rows * W
        tl.store(place, tl.load(place, inside, 0.0) + tl.exp(score - most) / total, inside)


@triton.jit
def _first_best_kernel(scores, labels, pixels, views, K: tl.constexpr, BLOCK: tl.constexpr):
    """The first best class of scores [K, pixels], sums over `views` → labels [pixels]."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    winner = tl.zeros((BLOCK,), tl.int32)
    for k in range(K):
        score = tl.div_rn(tl.load(scores + k * pixels + pixel, pixel < pixels, 0.0), views)
        wins = ((score > best) | (score != score)) & (best == best)
        best, winner = tl.where(wins, score, best), tl.where(wins, k, winner)
    tl.store(labels + pixel, winner.to(labels.dtype.element_ty), pixel < pixels)


def label_dtype(classes: int) -> torch.dtype:
    """The smallest type that holds the labels of K classes."""
    return torch.uint8 if classes <= 256 else torch.uint16


def label(view: Windows, size: Size, labels: Tensor) -> None:
    """Labels [B, H, W] of images from a single view: B images of one window each, or one image of n windows."""
    x, B = view.logits, len(labels)
    K, h, w = x.shape[1:]
    n = len(x) // B
    (tile_y, shift_y), (tile_x, shift_x) = (_tiles(*pair) for pair in zip((h, w), view.padded, strict=True))
    exact = n == 1 and view.size == size and min(tile_y, tile_x) > 0
    tile = min(tile_y, tile_x) if exact else LOOSE_TILE
    shift_y, shift_x = (shift_y % tile, shift_x % tile) if exact else (0, 0)
    grid = (B * triton.cdiv(size[0] + shift_y, tile) * triton.cdiv(size[1] + shift_x, tile),)
    with torch.cuda.device_of(x):
        _label_kernel[grid](
            x, _anchors(view), labels, n, *size, *view.size, *view.window, h, w,
            *_scales(view.size, size), *_scales((h, w), view.padded), shift_y, shift_x,
            K=K, CLASSES=min(CLASSES, max(32, triton.next_power_of_2(K))), TILE=tile, IN_CELLS=exact,
            **_flags(view, size, n), num_warps=1 if exact else LOOSE_WARPS, maxnreg=REGISTERS, enable_fp_fusion=False,
        )      # fmt: skip


def merge(views: Sequence[Windows], size: Size, labels: Tensor) -> None:
    """Labels of an image [H, W] from several views, in bands of rows."""
    K, (H, W) = views[0].logits.shape[1], size
    rows = min(H, max(1, BAND // (K * W)))
    buffer = torch.empty(K * rows * W, dtype=torch.float32, device=labels.device)
    for start in range(0, H, rows):
        count = min(rows, H - start)
        scores = buffer[: K * count * W].view(K, count, W).zero_()
        for view in views:
            _add_softmax(view, size, start, scores)
        grid = (triton.cdiv(count * W, 256),)
        with torch.cuda.device_of(labels):
            _first_best_kernel[grid](
                scores, labels[start : start + count], count * W, float(len(views)),
                K=K, BLOCK=256, num_warps=4, enable_fp_fusion=False,
            )      # fmt: skip


def score(views: Sequence[Windows], size: Size) -> Tensor:
    """Scores [K, H, W]: the mean over views of the softmax over classes."""
    logits = views[0].logits
    scores = torch.zeros(logits.shape[1], *size, dtype=torch.float32, device=logits.device)
    for view in views:
        _add_softmax(view, size, 0, scores)
    return scores.div_(len(views))


def _add_softmax(view: Windows, size: Size, start: int, scores: Tensor) -> None:
    """Adds one view's softmax over classes to scores [K, rows start …, W]."""
    n, K, h, w = view.logits.shape
    rows, (high, wide) = scores.shape[1], SOFT_TILE
    grid = (triton.cdiv(rows, high) * triton.cdiv(size[1], wide),)
    with torch.cuda.device_of(scores):
        _softmax_kernel[grid](
            view.logits, _anchors(view), scores, n, start, rows, *size, *view.size, *view.window, h, w,
            *_scales(view.size, size), *_scales((h, w), view.padded),
            K=K, HIGH=high, WIDE=wide, **_flags(view, size, n), num_warps=SOFT_WARPS, enable_fp_fusion=False,
        )      # fmt: skip


def _flags(view: Windows, size: Size, n: int) -> dict[str, bool]:
    """What a kernel may leave out: a direction whose length stays is not resized, as in the twin."""
    stretch = [a != b for a, b in zip(view.logits.shape[2:], view.padded, strict=True)]
    resize = [a != b for a, b in zip(view.size, size, strict=True)]
    return {
        "SINGLE": n == 1, "MIRRORED": view.mirrored, "STRETCH_Y": stretch[0], "STRETCH_X": stretch[1],
        "RESIZE_Y": resize[0], "RESIZE_X": resize[1],
    }      # fmt: skip


def _scales(lengths: Sequence[int], size: Size) -> list[float]:
    """Input lines for each output line, in fp32."""
    return [float(np.float32(a) / np.float32(b)) for a, b in zip(lengths, size, strict=True)]


@lru_cache(256)
def _tiles(length: int, size: int) -> tuple[int, int]:
    """A tile of 16 or 8 lines and its shift with which every tile lies in one cell between patch centres; else 0, 0."""
    first = _taps(length, size)[0]
    for tile in (16, 8):        # one warp holds 16×16: eight scores and eight winners a thread
        shift = size // length // 2 % tile
        lines = np.arange(size)
        starts = np.maximum((lines + shift) // tile * tile - shift, 0)
        if np.array_equal(first, first[starts]) and length != size:
            return tile, shift
    return 0, 0


def _anchors(view: Windows) -> Any:
    """Anchors [n, 2] on the logits' device; None for a single window, which is the view."""
    if len(view.anchors) == 1:
        return None
    device: torch.device = view.logits.device       # type: ignore[assignment]
    table = _upload(tuple(view.anchors), device)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _captured.append(table)
    return table


@lru_cache(256)
def _upload(anchors: tuple[Size, ...], device: torch.device) -> Tensor:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise ValueError("windows are captured in a CUDA graph after one call with the same anchors, not before")
    return torch.tensor(anchors, dtype=torch.int32, device=device)
