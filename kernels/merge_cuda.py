"""Launches the kernels of `merge_triton`: labels from patch logits that are CUDA tensors, checked by `merge`.

Everything is queued on PyTorch's current stream of the logits' device, and nothing waits for the GPU. The origins of
overlapping windows are kept in pinned memory once they are seen (the last 1,024 sets), and copied from there: so a
call can be captured in a CUDA graph once the same call has run outside of one. After `warm_up` nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
from torch import Tensor

from .merge_layout import empty, layout
from .merge_triton import first_best_kernel, label_kernel, softmax_kernel
from .reference import Size, Windows, _taps, label_dtype

# Classes read at a time: eight a thread and corner. More classes take several rounds.
CLASSES = 256
# Where tiles lie in no cell every pixel gathers its own corners, up to 16 in each window: one a thread, or registers spill.
LOOSE_TILE, LOOSE_WARPS = 8, 2
# Said outright, or ptxas spills a few bytes for an occupancy nobody asked for.
REGISTERS = 128
# Tiles of several views: rows of 32 pixels are written as whole lines of memory.
SOFT_TILE, SOFT_WARPS = (8, 32), 4
# Pixels of a block in which the best of the mean scores is sought.
BLOCK, BLOCK_WARPS = 256, 4
# Mean scores are made for so many numbers at a time (64 MB), in bands of rows.
BAND = 1 << 24

# Origins of the host that a captured graph copies whenever it is replayed: kept as long as the process.
_captured: list[Tensor] = []


def label(view: Windows, size: Size, labels: Tensor) -> None:
    """Labels [B, H, W] of images from a single view: B images of one window each, or one image of n windows."""
    B = len(labels)
    K, h, w = view.logits.shape[1:]
    n = len(view.logits) // B
    (tile_y, shift_y), (tile_x, shift_x) = (_tiles(*pair) for pair in zip((h, w), view.padded, strict=True))
    exact = n == 1 and view.size == size and min(tile_y, tile_x) > 0
    tile = min(tile_y, tile_x) if exact else LOOSE_TILE
    shift_y, shift_x = (shift_y % tile, shift_x % tile) if exact else (0, 0)
    grid = (B * triton.cdiv(size[0] + shift_y, tile) * triton.cdiv(size[1] + shift_x, tile),)
    lies = layout(_tensor(view))
    with torch.cuda.device_of(labels):
        label_kernel[grid](
            view.logits, _origins(view), labels, K, lies.classes, *lies.steps, n, *size, *view.size, *view.window, h, w,
            *_scales(view.size, size), *_scales((h, w), view.padded), shift_y, shift_x, *_flags(view, size),
            **rounds(K), TILE=tile, IN_CELLS=exact, SINGLE=n == 1, RESIZE=view.size != size, LAST=lies.last, VECTOR=lies.vector,
            num_warps=1 if exact else LOOSE_WARPS, maxnreg=REGISTERS, enable_fp_fusion=False,
        )  # fmt: skip


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
        grid = (triton.cdiv(count * W, BLOCK),)
        with torch.cuda.device_of(labels):
            first_best_kernel[grid](
                scores, labels[start : start + count], K, count * W, float(len(views)),
                BLOCK=BLOCK, num_warps=BLOCK_WARPS, enable_fp_fusion=False,
            )  # fmt: skip


def score(views: Sequence[Windows], size: Size) -> Tensor:
    """Scores [K, H, W]: the mean over views of the softmax over classes."""
    logits = views[0].logits
    scores = torch.zeros(logits.shape[1], *size, dtype=torch.float32, device=logits.device)
    for view in views:
        _add_softmax(view, size, 0, scores)
    return scores.div_(len(views))


def warm_up(classes: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Compile and load every kernel that images of any size need, by tiny launches on the current stream.

    For logits as `merge_layout.empty` lays them: single views in cells of 16 and 8 pixels and in none, of one window
    and of several, resized and not; the same of several views. Later calls with as many classes of the same dtype
    compile nothing, whatever the sizes.
    """
    logits = empty((2, classes, 2, 2), dtype, device).zero_()
    one = Windows(logits[:1, :, :1, :1], [(0, 0)], (16, 16), (16, 16), (16, 16))  # type: ignore[arg-type]
    fine = Windows(logits[:1], [(0, 0)], (8, 8), (8, 8), (8, 8))  # type: ignore[arg-type]
    loose = Windows(logits[:1], [(0, 0)], (5, 5), (5, 5), (5, 5))  # type: ignore[arg-type]
    several = Windows(logits, [(0, 0), (0, 3)], (5, 5), (5, 5), (5, 8))  # type: ignore[arg-type]
    kind = getattr(torch, np.dtype(label_dtype(classes)).name)
    for view in (one, fine, loose, several):
        for size in (view.size, (7, 9)):
            label(view, size, torch.empty((1, *size), dtype=kind, device=device))
    for size in (loose.size, several.size):
        merge([loose, several], size, torch.empty(size, dtype=kind, device=device))
    score([loose], loose.size)


def _add_softmax(view: Windows, size: Size, start: int, scores: Tensor) -> None:
    """Adds one view's softmax over classes to scores [K, rows start …, W]."""
    n, K, h, w = view.logits.shape
    rows, (high, wide) = scores.shape[1], SOFT_TILE
    grid = (triton.cdiv(rows, high) * triton.cdiv(size[1], wide),)
    lies = layout(_tensor(view))
    with torch.cuda.device_of(scores):
        softmax_kernel[grid](
            view.logits, _origins(view), scores, K, *lies.steps, n, start, rows, *size, *view.size, *view.window, h, w,
            *_scales(view.size, size), *_scales((h, w), view.padded), *_flags(view, size),
            HIGH=high, WIDE=wide, SINGLE=n == 1, RESIZE=view.size != size, LAST=lies.last, VECTOR=lies.vector,
            num_warps=SOFT_WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def rounds(K: int) -> dict[str, int]:
    """How many classes `label_kernel` takes at a time, and whether there are more."""
    return {"CLASSES": min(CLASSES, max(32, triton.next_power_of_2(K))), "MANY": K > CLASSES}


def _tensor(view: Windows) -> Tensor:
    return view.logits  # type: ignore[return-value]


def _flags(view: Windows, size: Size) -> list[int]:
    """Which directions are stretched and resized, as a length that stays is neither; and whether it is mirrored."""
    pairs = *zip(view.logits.shape[2:], view.padded, strict=True), *zip(view.size, size, strict=True)
    return [*(int(a != b) for a, b in pairs), int(view.mirrored)]


def _scales(lengths: Sequence[int], size: Size) -> list[float]:
    """Input lines for each output line, in fp32."""
    return [float(np.float32(a) / np.float32(b)) for a, b in zip(lengths, size, strict=True)]


@lru_cache(256)
def _tiles(length: int, size: int) -> tuple[int, int]:
    """A tile of 16 or 8 lines and its shift with which every tile lies in one cell between patch centres; else 0, 0."""
    first = _taps(length, size)[0]
    for tile in (16, 8):  # one warp holds 16×16: eight scores and eight winners a thread
        shift = size // length // 2 % tile
        lines = np.arange(size)
        starts = np.maximum((lines + shift) // tile * tile - shift, 0)
        if np.array_equal(first, first[starts]) and length != size:
            return tile, shift
    return 0, 0


def _origins(view: Windows) -> Tensor | None:
    """Origins [n, 2] on the logits' device, for the current stream; None for a single window, which is the view.

    Raises:
        ValueError: a CUDA graph is being captured, and these origins were never seen before: memory that a graph
            can copy from is not to be had meanwhile.
    """
    if len(view.origins) == 1:
        return None
    origins, device = tuple(view.origins), _tensor(view).device
    if device.type != "cuda":
        return torch.tensor(origins, dtype=torch.int32)
    if not torch.cuda.is_current_stream_capturing():
        return _upload(origins, device, torch.cuda.current_stream(device).cuda_stream)
    table = _pinned(origins)
    if all(other is not table for other in _captured):
        _captured.append(table)
    return table.to(device, non_blocking=True)


@lru_cache(1024)
def _upload(origins: tuple[Size, ...], device: torch.device, stream: int) -> Tensor:
    """Origins for one stream, on which they are copied: nothing waits, and no other stream may come too early."""
    return _pinned(origins).to(device, non_blocking=True)


@lru_cache(1024)
def _pinned(origins: tuple[Size, ...]) -> Tensor:
    if torch.cuda.is_current_stream_capturing():
        raise ValueError("windows are captured in a CUDA graph after one call with the same origins, not before")
    return torch.tensor(origins, dtype=torch.int32).pin_memory()
