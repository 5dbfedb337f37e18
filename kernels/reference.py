"""Plain twins of the kernels: what they compute, in NumPy (and attention in PyTorch), nothing hidden.

They are the oracle of every fast path, its documentation, and the fall-back where nothing faster
runs. Sizes are (height, width) in pixels; the definition of every result is the fp32 one.

NaN and infinities follow the formulas as they stand: a·(1 - w) + b·w, so that 0·∞ is NaN, and NaN
is the largest score, of which the first wins, as in NumPy's argmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .stopping import check

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
Pixels = NDArray[np.generic]  # uint8 or fp32
Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.unsignedinteger[Any]]

# Pixels are scored in bands of whole rows, so that K×H×W never exists: about 2^20 logits each.
BAND = 1 << 20


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q·kᵀ·scale)·v for q, k, v [B, N, heads, d] → [B, N, heads, d] (paper, equation 3).

    q is scaled before the product, not the scores after it: that is the pattern which inference
    compilers recognise as attention, and in half precision it keeps the product in range.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, heads, N, d]
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(2, 3)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def upsample(x: NDArray[np.generic], size: Size) -> NDArray[np.float32]:
    """Bilinear [..., h, w] → [..., *size] (align_corners False, no antialiasing), in fp32."""
    columns = _upsample_columns(np.asarray(x, np.float32), size[1])
    return _upsample_rows(columns, size[0], 0, size[0])


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest type that holds the labels of K classes."""
    return np.uint8 if classes <= 256 else np.uint16


def upsample_argmax(logits: Floats, size: Size) -> Labels:
    """Labels [B, H, W] of patch logits [B, K, h, w]: bilinear to `size`, then the first best class."""
    B, K = logits.shape[:2]
    labels = np.empty((B, *size), label_dtype(K))
    for image, out in zip(logits, labels, strict=True):
        merge_windows([Windows(image[None], [(0, 0)], size, size, size)], size, out)
    return labels


class Windows(NamedTuple):
    """The network's answer for one view of an image, which windows cover.

    Attributes:
        logits: of its n windows, [n, K, h, w].
        origins: (top, left) of each window.
        window: size of each window.
        padded: size that the patch logits stand for: `window`, or its next multiple of the patch,
            of which the bottom and the right are then cropped off.
        size: of the view.
        mirrored: the view was mirrored left to right.
    """

    logits: Floats
    origins: Sequence[Size]
    window: Size
    padded: Size
    size: Size
    mirrored: bool = False


def merge_windows(views: Sequence[Windows], size: Size, out: Labels | None = None) -> Labels:
    """Labels [H, W] of an image of `size` from the windows of its views (paper, section 4.2).

    A view's logits are upsampled per window, averaged where windows overlap, and resized to the
    image; several views are combined by the mean of their softmax scores. The first best class
    wins. Extra memory: one band of rows.
    """
    K = views[0].logits.shape[1]
    labels = np.empty(size, label_dtype(K)) if out is None else out
    for start, stop in _bands(K, size):
        check()
        with np.errstate(invalid="ignore", over="ignore"):
            if len(views) == 1:
                best = view_logits(views[0], size, start, stop).argmax(0)
            else:
                best = view_scores(views, size, start, stop).argmax(0)
        labels[start:stop] = best
    return labels


def merge_scores(views: Sequence[Windows], size: Size) -> NDArray[np.float32]:
    """Scores [K, H, W]: the mean over views of the softmax over classes."""
    K = views[0].logits.shape[1]
    scores = np.empty((K, *size), np.float32)
    for start, stop in _bands(K, size):
        check()
        with np.errstate(invalid="ignore", over="ignore"):
            scores[:, start:stop] = view_scores(views, size, start, stop)
    return scores


def view_scores(views: Sequence[Windows], size: Size, start: int, stop: int) -> NDArray[np.float32]:
    """Rows start … stop of the mean softmax scores of several views, [K, stop - start, W]."""
    total = np.zeros((views[0].logits.shape[1], stop - start, size[1]), np.float32)
    for view in views:
        logits = view_logits(view, size, start, stop)
        logits -= logits.max(0)
        np.exp(logits, out=logits)
        total += logits / logits.sum(0)
    total /= len(views)
    return total


def view_logits(view: Windows, size: Size, start: int, stop: int) -> NDArray[np.float32]:
    """Rows start … stop of one view's logits at `size`, [K, stop - start, W]."""
    if view.size == size:
        rows = _merged_rows(view, start, stop)
    else:
        top, bottom, _ = _taps(view.size[0], size[0])
        first, last = int(top[start]), int(bottom[stop - 1]) + 1
        merged = _upsample_columns(_merged_rows(view, first, last), size[1])
        rows = _upsample_rows(merged, size[0], start, stop, view.size[0], first)
    return np.ascontiguousarray(rows[..., ::-1]) if view.mirrored else rows


def _merged_rows(view: Windows, start: int, stop: int) -> NDArray[np.float32]:
    """Rows start … stop of the view: the mean of its windows' upsampled logits, [K, stop - start, W]."""
    K = view.logits.shape[1]
    height, width = view.window
    total = np.zeros((K, stop - start, view.size[1]), np.float32)
    count = np.zeros((stop - start, view.size[1]), np.float32)
    for logits, (top, left) in zip(view.logits, view.origins, strict=True):
        first, last = max(start, top), min(stop, top + height)
        if first >= last:
            continue
        columns = _upsample_columns(np.asarray(logits, np.float32), view.padded[1])[..., :width]
        part = _upsample_rows(columns, view.padded[0], first - top, last - top)
        total[:, first - start : last - start, left : left + width] += part
        count[first - start : last - start, left : left + width] += 1
    total /= count
    return total


def _bands(classes: int, size: Size) -> list[tuple[int, int]]:
    rows = max(1, BAND // (classes * size[1]))
    return [(start, min(size[0], start + rows)) for start in range(0, size[0], rows)]


def _taps(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `size` outputs: its two inputs among `length`, and the weight of the second.

    In fp32 as PyTorch computes them, so that both choose the same side where a weight is 0.
    """
    scale = np.float32(length) / np.float32(size)
    position = np.maximum((np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    first = np.minimum(position.astype(np.intp), length - 1)
    return first, np.minimum(first + 1, length - 1), (position - first).astype(np.float32)


def _upsample_columns(x: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """[..., w] → [..., width]."""
    if x.shape[-1] == width:
        return x
    left, right, weight = _taps(x.shape[-1], width)
    return x[..., left] * (1 - weight) + x[..., right] * weight


def _upsample_rows(
    x: NDArray[np.float32], height: int, start: int, stop: int, length: int | None = None, offset: int = 0
) -> NDArray[np.float32]:
    """Rows start … stop of x [..., h, W] upsampled to `height`; x may hold rows `offset` … of `length` only."""
    length = x.shape[-2] if length is None else length
    if length == height:
        return x[..., start - offset : stop - offset, :]
    top, bottom, weight = (taps[start:stop] for taps in _taps(length, height))
    weight = weight[:, None]
    return x[..., top - offset, :] * (1 - weight) + x[..., bottom - offset, :] * weight
