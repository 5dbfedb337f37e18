"""The end of the pipeline: windows of patch logits in, labels of an image out.

Checks what is asked, then runs the compiled loops of `merge_cpu`; the NumPy twins where numba is
missing or broken, and for logits with NaN, infinities or values beyond 1e30, whose meaning the twins define.
CUDA tensors stay where they are: the kernels of `merge_cuda` take all of them, and the answer is a tensor
beside them. Where Triton is missing they are computed on the host and copied back, which waits for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import loops, reference
from .checks import check_count, check_size, check_threads, cpus
from .reference import Floats, Labels, Size, Windows, label_dtype

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Windows", "merge_scores", "merge_windows", "upsample_argmax", "warm_up"]

FLOATS = ("float32", "float16", "bfloat16")
DEVICES = ("cpu", "cuda")
_HALF_OR_SINGLE = (np.dtype(np.float32), np.dtype(np.float16))
# Sums over windows of anything smaller stay finite.
LARGEST = np.float32(1e30)


def upsample_argmax(logits: Floats, size: Size, *, threads: int | None = None) -> Labels:
    """Labels [B, H, W] of patch logits [B, K, h, w]: bilinear to `size`, then the first best class.

    Args:
        logits: array or tensor in fp32, fp16 or bf16; scores are fp32.
        size: (H, W) of the labels, larger or smaller than (h, w).
        threads: at most so many on a CPU; by default one per CPU.

    Returns:
        uint8 up to 256 classes, else uint16; for a CUDA tensor a tensor on its device, queued on
        PyTorch's current stream there (a CUDA graph may capture it, given Triton).

    Raises:
        TypeError: logits of another dtype, or sparse; a size that is no pair of whole numbers.
        ValueError: no four dimensions, an empty one, a size below 1, more than 2^31 - 1024 elements, or a
            tensor that is neither on a CPU nor on a CUDA device.
    """
    x, size, threads = _logits(logits), check_size(size, "size"), check_threads(threads)
    check_count(len(x) * size[0] * size[1], "labels")
    if not isinstance(x, np.ndarray) and _cuda() is None:
        return _beside(upsample_argmax(_array(x.cpu()), size, threads=threads), x)
    labels = _empty((len(x), *size), x)
    if not isinstance(x, np.ndarray):
        _cuda().label(Windows(x, [(0, 0)], size, size, size), size, labels)
        return labels
    views = [Windows(image[None], [(0, 0)], size, size, size) for image in x]
    _merge_images([[view] for view in views], size, labels, threads)
    return labels


def merge_windows(
    views: Sequence[Windows], size: Size, out: Labels | None = None, *, threads: int | None = None
) -> Labels:
    """Labels [H, W] of an image of `size` from the windows of its views (paper, section 4.2).

    A view's logits are upsampled per window, averaged where windows overlap, and resized to the
    image; several views are combined by the mean of their softmax scores. The first best class wins.

    Args:
        out: where to write the labels, beside the logits.
        threads: at most so many on a CPU; by default one per CPU.

    Raises:
        TypeError: logits of a dtype other than fp32, fp16 and bf16; sizes that are no pairs of whole numbers.
        ValueError: no views, views of different classes or devices, origins outside their view, windows that do
            not cover it, an `out` of another shape, dtype or device, or whatever `upsample_argmax` refuses; on
            CUDA, overlapping windows captured in a graph before any call with the same origins outside of one.
    """
    views, size, threads = _views(views), check_size(size, "size"), check_threads(threads)
    check_count(size[0] * size[1], "labels")
    if out is None:
        return _merged(views, size, _empty(size, views[0].logits), threads)
    _check_out(out, _empty(size, views[0].logits))
    if _is_contiguous(out):
        return _merged(views, size, out, threads)
    out[:] = _merged(views, size, _empty(size, views[0].logits), threads)
    return out


def merge_laid_out(views: Sequence[Windows], size: Size, threads: int | None = None) -> Labels:
    """What `merge_windows` gives, unchecked: for views that the caller has laid out itself, by the rules told there."""
    views = [view._replace(logits=_readable(view.logits)) for view in views]
    return _merged(views, size, _empty(size, views[0].logits), cpus() if threads is None else threads)


def _merged(views: Sequence[Windows], size: Size, labels: Labels, threads: int) -> Labels:
    """Labels, contiguous, of views whose logits are readable."""
    if isinstance(views[0].logits, np.ndarray):
        _merge_images([views], size, labels[None], threads)
    elif _cuda() is None:
        labels[:] = _beside(merge_windows(_on_host(views), size, threads=threads), labels)
    elif len(views) == 1:
        _cuda().label(views[0], size, labels[None])
    else:
        _cuda().merge(views, size, labels)
    return labels


def merge_scores(views: Sequence[Windows], size: Size, *, threads: int | None = None) -> NDArray[np.float32]:
    """Scores [K, H, W]: the mean over views of the softmax over classes. Raises what `merge_windows` does."""
    views, size, threads = _views(views), check_size(size, "size"), check_threads(threads)
    K = views[0].logits.shape[1]
    check_count(K * size[0] * size[1], "scores")
    if not isinstance(views[0].logits, np.ndarray):
        if _cuda() is None:
            return _beside(merge_scores(_on_host(views), size, threads=threads), views[0].logits)
        return _cuda().score(views, size)
    cpu = _compiled()
    if cpu is None or not _tame(views):
        return reference.merge_scores(views, size)
    out = np.empty((K, *size), np.float32)

    def use(start: int, scores: NDArray[np.float32]) -> None:
        out[:, start : start + scores.shape[1]] = scores

    cpu.score(views, size, threads, use)
    return out


def warm_up(logits: Any, *, threads: int | None = None) -> Labels:
    """Compile and load whatever merging needs for logits like these, of any size, views and windows; their labels.

    On a GPU for all of the same dtype and number of classes. Raises what `upsample_argmax` does.
    """
    x = _logits(logits)
    if not isinstance(x, np.ndarray) and _cuda() is not None:
        _cuda().warm_up(x.shape[1], x.dtype, x.device)
    else:
        views = [Windows(x[:1], [(0, 0)], (8, 8), (8, 8), (8, 8), mirrored) for mirrored in (False, True)]
        merge_windows(views, (8, 8), threads=threads)
        merge_scores(views, (8, 8), threads=threads)
    return upsample_argmax(x, (8, 8), threads=threads)


def _compiled() -> ModuleType | None:
    return loops.load("merge_cpu")


@cache
def _cuda() -> Any:
    """The kernels for CUDA tensors; None without Triton, which not every platform has."""
    try:
        from . import merge_cuda
    except ImportError:
        return None
    return merge_cuda


def _on_host(views: Sequence[Windows]) -> list[Windows]:
    return [view._replace(logits=_array(view.logits.cpu())) for view in views]  # type: ignore[attr-defined]


def _beside(array: Floats | Labels, tensor: Tensor) -> Any:
    """An array computed on the host, as a tensor on the device of another one."""
    import torch

    return torch.from_numpy(array).to(tensor.device)


def _merge_images(images: Sequence[Sequence[Windows]], size: Size, labels: Labels, threads: int) -> None:
    """Labels [B, H, W] of images from the views of each."""
    cpu = _compiled()
    fast = [cpu is not None and _tame(views) for views in images]
    single = [i for i, views in enumerate(images) if fast[i] and len(views) == 1]
    if cpu is not None and single:
        cpu.label([images[i][0] for i in single], size, [labels[i] for i in single], threads)
    for i, views in enumerate(images):
        if not fast[i]:
            reference.merge_windows(views, size, labels[i])
        elif cpu is not None and len(views) > 1:
            cpu.merge(views, size, labels[i], threads)


def _tame(views: Sequence[Windows]) -> bool:
    """Whether all logits are finite, and sums of them too. NaN compares false."""
    return all(view.logits.max() < LARGEST and view.logits.min() > -LARGEST for view in views)


def _views(views: Sequence[Windows]) -> list[Windows]:
    """The views, checked, their logits as fp32 arrays in C order."""
    checked = []
    for view in views:
        if not isinstance(view, Windows):
            raise TypeError(f"a view must be Windows, not {type(view).__name__}")
        x = _logits(view.logits)
        window, padded = check_size(view.window, "window"), check_size(view.padded, "padded")
        size = check_size(view.size, "view size")
        check_count(max(math.prod(size), math.prod(padded)), "pixels of a view")
        if padded[0] < window[0] or padded[1] < window[1]:
            raise ValueError(f"padded {padded} must cover the window {window}")
        if len(x) != len(view.origins):
            raise ValueError(f"{len(x)} windows but {len(view.origins)} origins")
        origins = [check_size(origin, "origin", 0) for origin in view.origins]
        _check_cover(np.array(origins), window, size)
        checked.append(Windows(x, origins, window, padded, size, bool(view.mirrored)))
    if not checked:
        raise ValueError("there are no views")
    if len({view.logits.shape[1] for view in checked}) > 1:
        raise ValueError(f"views differ in classes: {sorted({view.logits.shape[1] for view in checked})}")
    if len(places := {_device(view.logits) for view in checked}) > 1:
        raise ValueError(f"views lie on different devices: {sorted(places)}")
    return checked


def _check_cover(origins: NDArray[np.intp], window: Size, size: Size) -> None:
    """Raises ValueError unless the windows lie in the view and cover it."""
    tops, lefts = origins.T
    if tops.max() + window[0] > size[0] or lefts.max() + window[1] > size[1]:
        raise ValueError(f"windows of {window} at {origins.max(0).tolist()} leave the view of {size}")
    for row in {0, *(tops + window[0]).tolist()} - {size[0]}:
        # Where a window begins or ends, those in the row must follow each other without a gap.
        starts = np.unique(lefts[(tops <= row) & (row < tops + window[0])])
        gaps = np.diff(np.concatenate([[-window[1]], starts, [size[1]]])) > window[1]
        if len(starts) == 0 or starts[0] > 0 or gaps.any():
            raise ValueError(f"windows of {window} do not cover row {row} of the view of {size}")


def _logits(x: Any) -> Any:
    """Logits [B, K, h, w] checked: an fp32 array in C order, or a CUDA tensor as its kernels read it."""
    if hasattr(x, "detach"):  # a torch tensor
        if x.device.type not in DEVICES:
            raise ValueError(f"logits must be on a CPU or a CUDA device; got {x.device}: copy them with .cpu()")
        if str(x.layout) != "torch.strided":
            raise TypeError(f"logits must be dense; got {x.layout}")
        x = x.detach().resolve_neg()
    if not (isinstance(x, np.ndarray) or hasattr(x, "detach")) or _dtype(x) not in FLOATS:
        raise TypeError(f"logits must be {', '.join(FLOATS)}; got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"logits must be [B, K, h, w], none of them 0; got {list(x.shape)}")
    if x.shape[1] > 1 << 16:
        raise ValueError(f"{x.shape[1]} classes do not fit uint16 labels")
    check_count(math.prod(x.shape), "logits")
    return _readable(x)


def _readable(x: Any) -> Any:
    """Logits as the loops or kernels read them: an fp32 array in C order, or a CUDA tensor."""
    if not isinstance(x, np.ndarray):
        if _stays(x) and _dtype(x) in FLOATS:
            from .merge_layout import readable

            return readable(x)
        x = _array(x)
    if x.dtype not in _HALF_OR_SINGLE:
        raise TypeError(f"logits must be {', '.join(FLOATS)}; got {x.dtype}")
    return np.require(x, np.float32, ["C", "W"])


def _stays(tensor: Tensor) -> bool:
    """Whether a tensor is computed where it lies, and the answer is a tensor too."""
    return bool(tensor.device.type == "cuda")


def _array(tensor: Tensor) -> Floats:
    """A tensor on the CPU as an array. NumPy has no bf16."""
    return (tensor.float() if _dtype(tensor) == "bfloat16" else tensor).numpy()


def _empty(shape: tuple[int, ...], logits: Any) -> Any:
    """Labels to be written, beside the logits."""
    dtype = label_dtype(logits.shape[1])
    if isinstance(logits, np.ndarray):
        return np.empty(shape, dtype)
    import torch

    return logits.new_empty(shape, dtype=getattr(torch, np.dtype(dtype).name))


def _check_out(out: Labels, labels: Labels) -> None:
    """Raises ValueError unless `out` can hold the labels where they are computed."""
    if (tuple(out.shape), _dtype(out), _device(out)) != (tuple(labels.shape), _dtype(labels), _device(labels)):
        wanted = f"{_dtype(labels)} {tuple(labels.shape)} on {_device(labels)}"
        raise ValueError(f"out must be {wanted}; got {_dtype(out)} {tuple(out.shape)} on {_device(out)}")


def _is_contiguous(out: Labels | Tensor) -> bool:
    return out.flags.c_contiguous if isinstance(out, np.ndarray) else out.is_contiguous()


def _dtype(x: object) -> str:
    return str(getattr(x, "dtype", None)).removeprefix("torch.")


def _device(x: object) -> str:
    return str(getattr(x, "device", "cpu"))
