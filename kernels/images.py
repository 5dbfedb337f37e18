"""The start of the pipeline: images resized as the protocol asks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import loops, reference
from .checks import check_count, check_size, check_threads
from .reference import Pixels, Size

__all__ = ["resize"]


def resize(image: Pixels, size: Size, *, threads: int | None = None) -> NDArray[np.float32]:
    """An image [h, w, C] resized to float32 [*size, C]: bilinear, align_corners False, no antialiasing.

    Twin: `reference.upsample`, which also runs where numba is missing or broken.

    Args:
        image: uint8 or float32, of any strides; the result is in its range.
        size: (H, W).
        threads: at most so many; by default one per CPU.

    Raises:
        TypeError: an image of another dtype; a size that is no pair of whole numbers.
        ValueError: no three dimensions, an empty one, a size below 1, or more than 2^31 - 1024 elements.
    """
    size, threads = check_size(size, "size"), check_threads(threads)
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.float32):
        raise TypeError(f"an image must be uint8 or float32; got {getattr(image, 'dtype', type(image).__name__)}")
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"an image must be [h, w, C], none of them 0; got {list(image.shape)}")
    check_count(image.size, "values")
    check_count(size[0] * size[1] * image.shape[2], "values")
    compiled = loops.load("resize_cpu")
    if compiled is None:
        return np.ascontiguousarray(reference.upsample(image.transpose(2, 0, 1), size).transpose(1, 2, 0))
    return compiled.resize(np.require(image, None, ["C", "W"]), size, threads)
