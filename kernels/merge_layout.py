"""Where patch logits [n, K, h, w] lie in a GPU's memory: classes last, as decoders give them, or anywhere.

A tile of the image reads all classes of a few patches. With classes last those of one patch are one run of memory,
of whole sectors if it starts at one; with classes first every class is a sector of its own, of which 2 of 32 bytes
are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SECTOR = 32  # bytes that a GPU's memory gives at once
VECTOR = 16  # bytes that one thread loads at once
# Offsets have 32 bits; a last run of classes may end a little behind the last logit.
LIMIT = (1 << 31) - 1024


class Layout(NamedTuple):
    """What a kernel is told of where logits lie.

    Attributes:
        steps: from one window, class, row and column of patches to the next, all but the class's in `vector` elements.
        classes: that may be read of a patch, in `vector` elements.
        last: the classes of a patch are neighbours.
        vector: elements that may be loaded at once, and that divide every step; 1 where classes are not last.
    """

    steps: tuple[int, int, int, int]
    classes: int
    last: bool
    vector: int


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Logits [n, K, h, w] to be written: classes last, those of each patch in whole sectors."""
    n, K, h, w = shape
    unit = SECTOR // dtype.itemsize
    return torch.empty((n, h, w, -(-K // unit) * unit), dtype=dtype, device=device)[..., :K].permute(0, 3, 1, 2)


def readable(x: Tensor) -> Tensor:
    """Logits [n, K, h, w] themselves if the kernels can read them where they lie; else a copy, classes first."""
    reach = sum((length - 1) * step for length, step in zip(x.shape, x.stride(), strict=True))
    return x if x.stride(1) == 1 and reach < LIMIT else x.contiguous()


def layout(x: Tensor) -> Layout:
    """The layout of `readable` logits."""
    K = x.shape[1]
    last, vector = x.stride(1) == 1, VECTOR // x.element_size()
    runs = -(-K // vector)
    steps = tuple(x.stride(axis) if x.shape[axis] > 1 else 0 for axis in range(4))
    ends = x.storage_offset() + sum((length - 1) * step for length, step in zip(x.shape, steps, strict=True)) - (K - 1)
    aligned = x.data_ptr() % VECTOR == 0 and all(steps[axis] % vector == 0 for axis in (0, 2, 3))
    if last and aligned and (ends + runs * vector) * x.element_size() <= x.untyped_storage().nbytes():
        return Layout((steps[0] // vector, 1, steps[2] // vector, steps[3] // vector), runs, True, vector)
    return Layout((steps[0], steps[1], steps[2], steps[3]), K, last, 1)
