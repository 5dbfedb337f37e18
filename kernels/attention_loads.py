# ruff: noqa: ANN001, ANN201 – the arguments of kernels have no Python types
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""How the attention kernels, forward and backward, read tiles of q, k, v [B, N, heads, d] where they lie.

Tensor descriptors on sm_90 and later, plain pointers anywhere. Strides are given in units of UNIT elements, and
multiplied by it in the kernel: so the compiler knows that rows start at multiples of 16 bytes and loads vectors,
without one compilation for strides that 16 divides and another for those that it does not.
"""

from __future__ import annotations

import triton
import triton.language as tl

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
