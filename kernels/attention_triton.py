# ruff: noqa: ANN001, ANN201 – the arguments of kernels have no Python types
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""Fused attention on NVIDIA GPUs, forward: softmax(q·kᵀ·scale)·v without ever writing the N × N scores.

At patch 8 an image of 512² has 4097 tokens: its scores are 34 MB per head in half precision, and
writing and reading them takes longer than computing them. Here a program keeps a tile of queries,
walks over the keys block by block, and rescales what it has whenever a larger score turns up (online
softmax), so that memory sees q, k, v and the answer once.

Why not the attention that PyTorch has: q, k and v are read in place from the packed output of one
Linear, the answer has the layout that the next Linear reads, any N runs without a plan being built
for it, and few tiles (one image, 6 heads) are split over the keys until they fill the GPU. Results
do not depend on timing: no atomics.

Reading order: loads, one step of the softmax, the kernel, the kernel that joins splits, the launcher.
The twin is `reference.attention`; sums are fp32 whatever the inputs are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .attention_configs import Plan, padded, plan_forward

LOG2_E = 1 / math.log(2)                # exp(x) = exp2(x / ln 2), and exp2 is one instruction


@triton.jit
def head_of(x, batch, head, stride_batch, stride_head, DESCRIPTOR: tl.constexpr):
    """Where one head of one image starts; a descriptor is told by `rows_of`."""
    if DESCRIPTOR:
        return x
    else:
        return x + batch.to(tl.int64) * stride_batch + head.to(tl.int64) * stride_head


@triton.jit
def rows_of(
    x, batch, head, start, stride_row, N, d,
    ROWS: tl.constexpr, D: tl.constexpr, DESCRIPTOR: tl.constexpr, TAIL: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Rows start … start + ROWS of a head, [ROWS, D]: zeros from row N (where TAIL) and column d (where PADDED)."""
    if DESCRIPTOR:                      # the hardware fills the zeros
        return x.load([batch, start, head, 0]).reshape(ROWS, D)
    else:
        rows, columns = tl.arange(0, ROWS), tl.arange(0, D)
        cells = x + start * stride_row + rows[:, None] * stride_row + columns[None, :]
        if TAIL and PADDED:
            return tl.load(cells, mask=(start + rows[:, None] < N) & (columns[None, :] < d), other=0.0)
        elif TAIL:
            return tl.load(cells, mask=start + rows[:, None] < N, other=0.0)
        elif PADDED:
            return tl.load(cells, mask=columns[None, :] < d, other=0.0)
        else:
            return tl.load(cells)


@triton.jit
def softmax_step(
    acc, total, peak, queries, keys, values, scale, left,
    COLUMNS: tl.constexpr, TAIL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of keys: acc [ROWS, D], total and peak [ROWS] brought up to date.

    The scale is applied to the fp32 scores: q scaled in half precision would round once more, and here
    it costs nothing, as score · scale - peak is one fused instruction, just like score - peak.
    """
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)             # [ROWS, COLUMNS]
    if TAIL:
        scores = tl.where(tl.arange(0, COLUMNS)[None, :] < left, scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1) * scale)
    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)   # no key counts yet: -inf minus itself would be NaN
    weights = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(peak - base)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
    return acc, total, new_peak


@triton.jit(do_not_specialize=["N", "span", "tiles"])
def attention_forward(
    q, k, v,                            # [B, N, heads, d]: pointers, or tensor descriptors
    out,                                # [B, N, heads, d]; where SPLIT fp32 [splits, B, N, heads, d], not divided
    stats,                              # [B, heads, N] logsumexp; where SPLIT [2, splits, B, heads, N] peaks and totals
    q_batch, q_row, q_head,             # strides, in elements
    k_batch, k_row, k_head,
    v_batch, v_row, v_head,
    N, heads, d,
    scale,                              # scale / ln 2
    span,                               # keys of one split, a multiple of COLUMNS; at least N where not SPLIT
    tiles,                              # of queries in one head
    ROWS: tl.constexpr,                 # queries of one program: acc, weights and q live in its registers
    COLUMNS: tl.constexpr,              # keys of one step: what is loaded while the step before computes
    D: tl.constexpr,                    # d, padded to a power of two that tl.dot takes
    PADDED: tl.constexpr,               # D > d
    SPLIT: tl.constexpr,                # the keys of one tile are shared by several programs
    DESCRIPTOR: tl.constexpr,           # q, k, v are tensor descriptors (sm_90 and later)
    PRECISION: tl.constexpr,            # of the products of fp32 inputs
):  # fmt: skip
    """One tile of queries of one head against all keys, or against those of one split."""
    program = tl.program_id(0)          # the tiles of one head run side by side and share its keys in the L2 cache
    start = program % tiles * ROWS
    image_head = program // tiles
    batch, head = image_head // heads, image_head % heads
    first_key = tl.program_id(1) * span
    last_key = tl.minimum(first_key + span, N)

    q = head_of(q, batch, head, q_batch, q_head, DESCRIPTOR)
    k = head_of(k, batch, head, k_batch, k_head, DESCRIPTOR)
    v = head_of(v, batch, head, v_batch, v_head, DESCRIPTOR)
    queries = rows_of(q, batch, head, start, q_row, N, d, ROWS, D, DESCRIPTOR, True, PADDED)    # [ROWS, D]
    acc = tl.zeros([ROWS, D], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    peak = tl.full([ROWS], float("-inf"), tl.float32)

    full = first_key + (last_key - first_key) // COLUMNS * COLUMNS
    for key in tl.range(first_key, full, COLUMNS):              # whole blocks: no mask
        keys = rows_of(k, batch, head, key, k_row, N, d, COLUMNS, D, DESCRIPTOR, False, PADDED)
        values = rows_of(v, batch, head, key, v_row, N, d, COLUMNS, D, DESCRIPTOR, False, PADDED)
        acc, total, peak = softmax_step(
            acc, total, peak, queries, keys, values, scale, 0, COLUMNS, False, PRECISION
        )
    if full < last_key:                                         # what is left, at most one block
        keys = rows_of(k, batch, head, full, k_row, N, d, COLUMNS, D, DESCRIPTOR, True, PADDED)
        values = rows_of(v, batch, head, full, v_row, N, d, COLUMNS, D, DESCRIPTOR, True, PADDED)
        acc, total, peak = softmax_step(
            acc, total, peak, queries, keys, values, scale, last_key - full, COLUMNS, True, PRECISION
        )

    rows, columns = start + tl.arange(0, ROWS), tl.arange(0, D)
    images = tl.num_programs(0) // tiles // heads
    split = tl.program_id(1).to(tl.int64)
    cells = ((split * images + batch) * N * heads + head) * d + rows[:, None].to(tl.int64) * heads * d + columns[None, :]
    inside = (rows[:, None] < N) & (columns[None, :] < d)
    stats += split * images * heads * N + image_head.to(tl.int64) * N
    if SPLIT:
        tl.store(out + cells, acc, mask=inside)
        tl.store(stats + rows, peak, mask=rows < N)
        tl.store(stats + tl.num_programs(1).to(tl.int64) * images * heads * N + rows, total, mask=rows < N)
    else:
        tl.store(out + cells, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)
        tl.store(stats + rows, (peak + tl.log2(total)) * 0.6931471805599453, mask=rows < N)     # ln 2


@triton.jit(do_not_specialize=["N", "splits", "tiles"])
def join_splits(
    partial,                            # fp32 [splits, B, N, heads, d]
    stats,                              # fp32 [2, splits, B, heads, N]: peaks and totals
    out,                                # [B, N, heads, d]
    logsumexp,                          # [B, heads, N]
    N, heads, d,
    splits,
    tiles,
    ROWS: tl.constexpr,                 # queries of one program: only memory counts, so a few
    D: tl.constexpr,
):  # fmt: skip
    """The answer of one tile of queries from what its splits have found."""
    program = tl.program_id(0)
    rows, columns = program % tiles * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    image_head = program // tiles
    images_heads = tl.num_programs(0) // tiles
    batch, head = image_head // heads, image_head % heads
    inside = (rows[:, None] < N) & (columns[None, :] < d)
    cells = (batch.to(tl.int64) * N * heads + head) * d + rows[:, None].to(tl.int64) * heads * d + columns[None, :]
    lines = image_head.to(tl.int64) * N + rows
    step = images_heads.to(tl.int64) * N                        # from one split's stats to the next

    peak = tl.full([ROWS], float("-inf"), tl.float32)
    for split in range(splits):
        peak = tl.maximum(peak, tl.load(stats + split * step + lines, mask=rows < N, other=0.0))
    base = tl.where(peak == float("-inf"), 0.0, peak)
    acc = tl.zeros([ROWS, D], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for split in range(splits):
        shrink = tl.exp2(tl.load(stats + split * step + lines, mask=rows < N, other=0.0) - base)
        total += shrink * tl.load(stats + (splits + split) * step + lines, mask=rows < N, other=1.0)
        acc += shrink[:, None] * tl.load(partial + split * step * d + cells, mask=inside, other=0.0)
    tl.store(out + cells, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(logsumexp + lines, (peak + tl.log2(total)) * 0.6931471805599453, mask=rows < N)


def launch_forward(q: Tensor, k: Tensor, v: Tensor, scale: float, plan: Plan | None = None) -> tuple[Tensor, Tensor]:
    """Attention of q, k, v [B, N, heads, d] on their GPU → ([B, N, heads, d], logsumexp fp32 [B, heads, N]).

    The plan is the configuration table's unless one is given.
    """
    B, N, heads, d = q.shape
    out = torch.empty((B, N, heads, d), dtype=q.dtype, device=q.device)
    logsumexp = torch.empty((B, heads, N), dtype=torch.float32, device=q.device)
    if not out.numel():
        return out, logsumexp.fill_(-torch.inf)
    q, k, v = (readable(x) for x in (q, k, v))
    tile, splits, descriptors = plan or plan_forward(q, k, v)
    span = tile.columns * -(-N // (tile.columns * splits))      # keys of a split, in whole blocks
    splits = -(-N // span)                                      # none is empty
    tiles = -(-N // tile.rows)
    target, stats = out, logsumexp
    if splits > 1:
        target = torch.empty((splits, B, N, heads, d), dtype=torch.float32, device=q.device)
        stats = torch.empty((2, splits, B, heads, N), dtype=torch.float32, device=q.device)
    strides = [stride for x in (q, k, v) for stride in x.stride()[:3]]
    sources = [source(x, rows, descriptors) for x, rows in ((q, tile.rows), (k, tile.columns), (v, tile.columns))]
    D = padded(d)
    with torch.cuda.device_of(out):
        attention_forward[tiles * B * heads, splits](
            *sources, target, stats, *strides, N, heads, d, scale * LOG2_E, span, tiles,
            ROWS=tile.rows, COLUMNS=tile.columns, D=D, PADDED=d != D, SPLIT=splits > 1, DESCRIPTOR=descriptors,
            PRECISION="ieee", num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
        if splits > 1:
            tiles = -(-N // 16)
            join_splits[tiles * B * heads,](
                target, stats, out, logsumexp, N, heads, d, splits, tiles, ROWS=16, D=D, num_warps=4, num_stages=1,
                enable_fp_fusion=True,
            )  # fmt: skip
    return out, logsumexp


def readable(x: Tensor) -> Tensor:
    """x [B, N, heads, d] itself if its last stride is 1, as in every view of a packed tensor; else a copy.

    Raises:
        ValueError: the rows of one image lie 2^31 elements apart or more: offsets within it have 32 bits.
    """
    x = x if x.stride(3) == 1 else x.contiguous()
    if x.shape[1] * x.stride(1) >= 2**31:
        raise ValueError(f"the {x.shape[1]} tokens of one image span 2^31 elements or more, which attention cannot address")
    return x


def source(x: Tensor, rows: int, descriptors: bool) -> Any:
    """What a kernel loads tiles of `rows` × d of x [B, N, heads, d] from."""
    if not descriptors:
        return x
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, rows, 1, padded(x.shape[3])])
