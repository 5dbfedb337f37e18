# ruff: noqa: ANN001, ANN201 – the arguments of kernels have no Python types
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""How the attention kernels, forward and backward, read tiles of q, k, v [B, N, heads, d] where they lie.

Tensor descriptors on sm_90 and later, plain pointers anywhere. Strides are given in units of UNIT elements, and
multiplied by it in the kernel: so the compiler knows that rows start at multiples of 16 bytes and loads vectors,
without one compilation for strides that 16 divides and another for those that it does not.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .attention_configs import padded

UNIT = 8  # elements: 16 bytes in half precision, the widest load
# What no compilation may depend on: lengths and strides change with the image and the batch.
SIZES = ["N", "heads", "d", "span", "tiles", "splits", "origin"]
STRIDES = [f"{x}_{axis}" for x in "qkvg" for axis in ("batch", "row", "head")]
POINTERS = ["q", "k", "v", "grad", "extra_keys", "extra_values"]


@triton.jit
def head_of(x, batch, head, stride_batch, stride_head, DESCRIPTOR: tl.constexpr, UNIT: tl.constexpr):
    """Where one head of one image starts; a descriptor is told by `rows_of`."""
    if DESCRIPTOR:
        return x
    else:
        start = x + (batch.to(tl.int64) * stride_batch + head.to(tl.int64) * stride_head) * UNIT
        if UNIT > 1:
            start = tl.multiple_of(start, 16)
        return start


@triton.jit
def rows_of(
    x, batch, head, start, stride_row, N, d,
    ROWS: tl.constexpr, D: tl.constexpr, DESCRIPTOR: tl.constexpr, TAIL: tl.constexpr, PADDED: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Rows start … start + ROWS of a head, [ROWS, D]: zeros from row N (where TAIL) and column d (where PADDED)."""
    if DESCRIPTOR:  # the hardware fills the zeros
        return x.load([batch, start, head, 0]).reshape(ROWS, D)
    else:
        rows, columns, stride = tl.arange(0, ROWS), tl.arange(0, D), stride_row * UNIT
        cells = x + start * stride + rows[:, None] * stride + columns[None, :]
        if TAIL and PADDED:
            return tl.load(cells, mask=(start + rows[:, None] < N) & (columns[None, :] < d), other=0.0)
        elif TAIL:
            return tl.load(cells, mask=start + rows[:, None] < N, other=0.0)
        elif PADDED:
            return tl.load(cells, mask=columns[None, :] < d, other=0.0)
        else:
            return tl.load(cells)


def readable(x: Tensor) -> Tensor:
    """x [B, N, heads, d] itself if its last stride is 1, as in every view of a packed tensor; else a copy.

    Raises:
        ValueError: the rows of one image lie 2^31 elements apart or more: offsets within it have 32 bits.
    """
    x = x if x.stride(3) == 1 else x.contiguous()
    if x.shape[1] * x.stride(1) >= 2**31:
        raise ValueError(
            f"the {x.shape[1]} tokens of one image span 2^31 elements or more, which attention cannot address"
        )
    return x


def unit(*tensors: Tensor) -> int:
    """UNIT where it divides the head size and all strides of all tensors, which start at multiples of 16 bytes; else 1."""
    for x in tensors:
        if x.data_ptr() % 16 or x.shape[3] % UNIT or any(stride % UNIT for stride in x.stride()[:3]):
            return 1
    return UNIT


def strides(unit: int, *tensors: Tensor) -> list[int]:
    """Of each tensor, its strides by batch, row and head, in units."""
    return [stride // unit for x in tensors for stride in x.stride()[:3]]


def source(x: Tensor, rows: int, descriptors: bool) -> Any:
    """What a kernel loads tiles of `rows` × d of x [B, N, heads, d] from."""
    if not descriptors:
        return x
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, rows, 1, padded(x.shape[3])])
