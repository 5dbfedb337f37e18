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

Reading order: one step of the softmax, the walk over the keys, the extra key, the kernel, the kernel that joins
splits. `attention_loads` reads the tiles, `attention_cuda` launches. The twin is `reference.attention`; sums are fp32 whatever
the inputs are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .attention_loads import POINTERS, SIZES, STRIDES, head_of, rows_of


@triton.jit
def softmax_step(
    acc, total, peak, scores, values, scale, left,
    COLUMNS: tl.constexpr, TAIL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of keys, whose products with the queries are `scores` [ROWS, COLUMNS]: acc [ROWS, D], total and peak
    [ROWS] brought up to date.

    The scale is applied to the fp32 scores: q scaled in half precision would round once more, and here
    it costs nothing, as score · scale - peak is one fused instruction, just like score - peak.
    """
    if TAIL:
        scores = tl.where(tl.arange(0, COLUMNS)[None, :] < left, scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1) * scale)
    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # no key counts yet: -inf minus itself would be NaN
    weights = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(peak - base)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
    return acc, total, new_peak


@triton.jit
def whole_blocks(
    acc, total, peak, queries, k, v, batch, head, first, full, k_row, v_row, N, d, scale,
    COLUMNS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, DESCRIPTOR: tl.constexpr, UNIT: tl.constexpr,
    CARRIED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The keys first … full, in whole blocks without a mask.

    CARRIED: the products of a block are issued before the softmax of the one before, so that the tensor cores work
    on the former while the exponentials of the latter are computed. The numbers are the same.
    """
    if CARRIED:
        if first < full:
            keys = rows_of(k, batch, head, first, k_row, N, d, COLUMNS, D, DESCRIPTOR, False, PADDED, UNIT)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)  # [ROWS, COLUMNS]
            for key in tl.range(first, full - COLUMNS, COLUMNS):
                keys = rows_of(k, batch, head, key + COLUMNS, k_row, N, d, COLUMNS, D, DESCRIPTOR, False, PADDED, UNIT)
                following = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
                values = rows_of(v, batch, head, key, v_row, N, d, COLUMNS, D, DESCRIPTOR, False, PADDED, UNIT)
                acc, total, peak = softmax_step(acc, total, peak, scores, values, scale, 0, COLUMNS, False, PRECISION)
                scores = following
            values = rows_of(v, batch, head, full - COLUMNS, v_row, N, d, COLUMNS, D, DESCRIPTOR, False, PADDED, UNIT)
            acc, total, peak = softmax_step(acc, total, peak, scores, values, scale, 0, COLUMNS, False, PRECISION)
    else:
        for key in tl.range(first, full, COLUMNS):
            keys = rows_of(k, batch, head, key, k_row, N, d, COLUMNS, D, DESCRIPTOR, False, PADDED, UNIT)
            values = rows_of(v, batch, head, key, v_row, N, d, COLUMNS, D, DESCRIPTOR, False, PADDED, UNIT)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
            acc, total, peak = softmax_step(acc, total, peak, scores, values, scale, 0, COLUMNS, False, PRECISION)
    return acc, total, peak


@triton.jit
def from_one_key(
    queries, keys, values, batch, head, place, k_batch, k_row, k_head, v_batch, v_row, v_head, d, scale,
    D: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """acc [ROWS, D], total and peak [ROWS] of the single key at `place`, whose weight is 1 until a larger one comes."""
    columns = tl.arange(0, D)
    keys = head_of(keys, batch, head, k_batch, k_head, False, UNIT) + place * (k_row * UNIT) + columns
    values = head_of(values, batch, head, v_batch, v_head, False, UNIT) + place * (v_row * UNIT) + columns
    key = tl.load(keys, mask=columns < d, other=0.0).to(tl.float32)
    value = tl.load(values, mask=columns < d, other=0.0).to(tl.float32)
    peak = tl.sum(queries.to(tl.float32) * key[None, :], 1) * scale
    total = tl.exp2(peak - tl.where(peak == float("-inf"), 0.0, peak))  # 1, and 0 of a score of -inf
    return total[:, None] * value[None, :], total, peak


@triton.jit(do_not_specialize=[*STRIDES[:9], *SIZES], do_not_specialize_on_alignment=POINTERS)
def attention_forward(
    q, k, v,                            # [B, N, heads, d]: pointers, or tensor descriptors
    extra_keys, extra_values,           # where EXTRA: pointers to k and v
    out,                                # [B, N, heads, d]; where SPLIT fp32 [splits, B, N, heads, d], not divided
    stats,                              # [B, heads, N] logsumexp; where SPLIT [2, splits, B, heads, N] peaks and totals
    q_batch, q_row, q_head,             # strides, in UNIT elements
    k_batch, k_row, k_head,
    v_batch, v_row, v_head,
    N, heads,
    d,                                  # in UNIT elements
    scale,                              # scale / ln 2
    span,                               # keys of one split, a multiple of COLUMNS; at least N where not SPLIT
    origin,                             # the first query
    tiles,                              # of queries in one head
    ROWS: tl.constexpr,                 # queries of one program: acc, weights and q live in its registers
    COLUMNS: tl.constexpr,              # keys of one step: what is loaded while the step before computes
    D: tl.constexpr,                    # d, padded to a power of two that tl.dot takes
    PADDED: tl.constexpr,               # D > d
    SPLIT: tl.constexpr,                # the keys of one tile are shared by several programs
    DESCRIPTOR: tl.constexpr,           # q, k, v are tensor descriptors (sm_90 and later)
    UNIT: tl.constexpr,                 # what divides d and all strides
    CARRIED: tl.constexpr,              # see `whole_blocks`
    EXTRA: tl.constexpr,                # N is a multiple of COLUMNS and one: the sums start from the last key
    PRECISION: tl.constexpr,            # of the products of fp32 inputs
):  # fmt: skip
    """One tile of queries of one head against all keys, or against those of one split."""
    program = tl.program_id(0)  # the tiles of one head run side by side and share its keys in the L2 cache
    start = origin + program % tiles * ROWS
    image_head = program // tiles
    batch, head = image_head // heads, image_head % heads
    first_key = tl.program_id(1) * span
    last_key = tl.minimum(first_key + span, N)
    d = d * UNIT

    q = head_of(q, batch, head, q_batch, q_head, DESCRIPTOR, UNIT)
    k = head_of(k, batch, head, k_batch, k_head, DESCRIPTOR, UNIT)
    v = head_of(v, batch, head, v_batch, v_head, DESCRIPTOR, UNIT)
    queries = rows_of(q, batch, head, start, q_row, N, d, ROWS, D, DESCRIPTOR, True, PADDED, UNIT)  # [ROWS, D]
    if EXTRA:
        last_key = N - 1  # whole blocks are left, and no tail
        acc, total, peak = from_one_key(
            queries, extra_keys, extra_values, batch, head, last_key, k_batch, k_row, k_head, v_batch, v_row, v_head,
            d, scale, D, UNIT,
        )  # fmt: skip
    else:
        acc = tl.zeros([ROWS, D], tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        peak = tl.full([ROWS], float("-inf"), tl.float32)

    full = first_key + (last_key - first_key) // COLUMNS * COLUMNS
    acc, total, peak = whole_blocks(
        acc, total, peak, queries, k, v, batch, head, first_key, full, k_row, v_row, N, d, scale,
        COLUMNS, D, PADDED, DESCRIPTOR, UNIT, CARRIED, PRECISION,
    )  # fmt: skip
    if not EXTRA and full < last_key:  # what is left, at most one block
        keys = rows_of(k, batch, head, full, k_row, N, d, COLUMNS, D, DESCRIPTOR, True, PADDED, UNIT)
        values = rows_of(v, batch, head, full, v_row, N, d, COLUMNS, D, DESCRIPTOR, True, PADDED, UNIT)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        acc, total, peak = softmax_step(
            acc, total, peak, scores, values, scale, last_key - full, COLUMNS, True, PRECISION
        )

    rows, columns = start + tl.arange(0, ROWS), tl.arange(0, D)
    images = tl.num_programs(0) // tiles // heads
    split = tl.program_id(1).to(tl.int64)
    cells = (
        ((split * images + batch) * N * heads + head) * d + rows[:, None].to(tl.int64) * heads * d + columns[None, :]
    )
    inside = (rows[:, None] < N) & (columns[None, :] < d)
    stats += split * images * heads * N + image_head.to(tl.int64) * N
    if SPLIT:
        tl.store(out + cells, acc, mask=inside)
        tl.store(stats + rows, peak, mask=rows < N)
        tl.store(stats + tl.num_programs(1).to(tl.int64) * images * heads * N + rows, total, mask=rows < N)
    else:
        tl.store(out + cells, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)
        tl.store(stats + rows, (peak + tl.log2(total)) * 0.6931471805599453, mask=rows < N)  # ln 2


@triton.jit(do_not_specialize=SIZES)
def join_splits(
    partial,                            # fp32 [splits, B, N, heads, d]
    stats,                              # fp32 [2, splits, B, heads, N]: peaks and totals
    out,                                # [B, N, heads, d]
    logsumexp,                          # [B, heads, N]
    N, heads,
    d,                                  # in UNIT elements
    splits,
    tiles,
    ROWS: tl.constexpr,                 # queries of one program: only memory counts, so a few
    D: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """The answer of one tile of queries from what its splits have found."""
    program = tl.program_id(0)
    d = d * UNIT
    rows, columns = program % tiles * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    image_head = program // tiles
    images_heads = tl.num_programs(0) // tiles
    batch, head = image_head // heads, image_head % heads
    inside = (rows[:, None] < N) & (columns[None, :] < d)
    cells = (batch.to(tl.int64) * N * heads + head) * d + rows[:, None].to(tl.int64) * heads * d + columns[None, :]
    lines = image_head.to(tl.int64) * N + rows
    step = images_heads.to(tl.int64) * N  # from one split's stats to the next

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
