# ruff: noqa: ANN001, ANN201 – the arguments of kernels have no Python types
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""Fused attention on NVIDIA GPUs, backward: the gradients of q, k and v, written into one packed tensor.

The N × N weights are computed again, tile by tile, from q, k and the logsumexp of the forward, as
reading them would take longer. With p the weights and g the gradient of the answer:

    dv = pᵀ·g        ds = p · (g·vᵀ - delta)        delta = rowsum(g · out)
    dq = ds·k·scale  dk = dsᵀ·q·scale

Sums over queries (dk, dv) and over keys (dq) run in two kernels, each in one program from first to
last: one kernel for both would need atomic additions, whose order, and so whose rounding, changes
from run to run. dq, dk and dv lie as q, k and v do in [B, N, 3, heads, d], which is what the
backward of the Linear before reads: nothing is copied.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .attention_loads import POINTERS, SIZES, STRIDES, head_of, rows_of


@triton.jit(do_not_specialize=[*STRIDES, *SIZES], do_not_specialize_on_alignment=POINTERS)
def attention_delta(
    out,                                # [B, N, heads, d], contiguous
    grad,                               # [B, N, heads, d]
    delta,                              # fp32 [B, heads, N]
    g_batch, g_row, g_head,             # strides, in UNIT elements
    N, heads,
    d,                                  # in UNIT elements
    tiles,
    ROWS: tl.constexpr,                 # queries of one program: only memory counts, so a few
    D: tl.constexpr,
    UNIT: tl.constexpr,
):  # fmt: skip
    """rowsum(grad · out) of one tile of queries, which every score's gradient needs."""
    program = tl.program_id(0)
    d = d * UNIT
    rows, columns = program % tiles * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    image_head = program // tiles
    batch, head = image_head // heads, image_head % heads
    inside = (rows[:, None] < N) & (columns[None, :] < d)
    out += (batch.to(tl.int64) * N * heads + head) * d
    grad = head_of(grad, batch, head, g_batch, g_head, False, UNIT)
    answers = tl.load(out + rows[:, None].to(tl.int64) * heads * d + columns[None, :], mask=inside, other=0.0)
    grads = tl.load(grad + rows[:, None].to(tl.int64) * (g_row * UNIT) + columns[None, :], mask=inside, other=0.0)
    tl.store(
        delta + image_head.to(tl.int64) * N + rows,
        tl.sum(answers.to(tl.float32) * grads.to(tl.float32), 1),
        mask=rows < N,
    )


@triton.jit
def keys_step(
    dk, dv, q, grad, logsumexp, delta, keys, values, batch, head, start, q_row, g_row, N, d, scale,
    COLUMNS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, DESCRIPTOR: tl.constexpr, TAIL: tl.constexpr,
    UNIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of queries added to dk and dv [ROWS, D]; all products are transposed: keys × queries."""
    columns = start + tl.arange(0, COLUMNS)
    queries = rows_of(q, batch, head, start, q_row, N, d, COLUMNS, D, DESCRIPTOR, TAIL, PADDED, UNIT)
    grads = rows_of(grad, batch, head, start, g_row, N, d, COLUMNS, D, DESCRIPTOR, TAIL, PADDED, UNIT)
    if TAIL:  # a query that is none weighs exp(-inf) = 0
        sums = tl.load(logsumexp + columns, mask=columns < N, other=float("inf"))
        deltas = tl.load(delta + columns, mask=columns < N, other=0.0)
    else:
        sums = tl.load(logsumexp + columns)
        deltas = tl.load(delta + columns)
    scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)  # [ROWS, COLUMNS]
    weights = tl.exp2(scores * scale - (sums * 1.4426950408889634)[None, :])  # 1 / ln 2
    dv = tl.dot(weights.to(grads.dtype), grads, dv, input_precision=PRECISION)
    dweights = tl.dot(values, tl.trans(grads), input_precision=PRECISION)
    dscores = weights * (dweights - deltas[None, :])
    dk = tl.dot(dscores.to(queries.dtype), queries, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=[*STRIDES, *SIZES], do_not_specialize_on_alignment=POINTERS)
def attention_backward_keys(
    q, k, v, grad,                      # [B, N, heads, d]: pointers, or tensor descriptors (q and grad)
    logsumexp, delta,                   # fp32 [B, heads, N]
    packed,                             # [B, N, 3, heads, d]: dk and dv are written
    q_batch, q_row, q_head,             # strides, in UNIT elements
    k_batch, k_row, k_head,
    v_batch, v_row, v_head,
    g_batch, g_row, g_head,
    N, heads,
    d,                                  # in UNIT elements
    scale,                              # scale / ln 2
    k_scale,                            # scale
    tiles,                              # of keys in one head
    ROWS: tl.constexpr,                 # keys of one program: dk and dv live in its registers
    COLUMNS: tl.constexpr,              # queries of one step
    D: tl.constexpr,
    PADDED: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    UNIT: tl.constexpr,                 # what divides d and all strides
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of one tile of keys of one head, over all queries."""
    program = tl.program_id(0)
    start = program % tiles * ROWS
    image_head = program // tiles
    batch, head = image_head // heads, image_head % heads
    d = d * UNIT
    q = head_of(q, batch, head, q_batch, q_head, DESCRIPTOR, UNIT)
    grad = head_of(grad, batch, head, g_batch, g_head, DESCRIPTOR, UNIT)
    k = head_of(k, batch, head, k_batch, k_head, False, UNIT)
    v = head_of(v, batch, head, v_batch, v_head, False, UNIT)
    keys = rows_of(k, batch, head, start, k_row, N, d, ROWS, D, False, True, PADDED, UNIT)  # [ROWS, D]
    values = rows_of(v, batch, head, start, v_row, N, d, ROWS, D, False, True, PADDED, UNIT)
    logsumexp += image_head.to(tl.int64) * N
    delta += image_head.to(tl.int64) * N
    dk = tl.zeros([ROWS, D], tl.float32)
    dv = tl.zeros([ROWS, D], tl.float32)

    full = N // COLUMNS * COLUMNS
    for query in tl.range(0, full, COLUMNS):
        dk, dv = keys_step(
            dk, dv, q, grad, logsumexp, delta, keys, values, batch, head, query, q_row, g_row, N, d, scale,
            COLUMNS, D, PADDED, DESCRIPTOR, False, UNIT, PRECISION,
        )  # fmt: skip
    if full < N:
        dk, dv = keys_step(
            dk, dv, q, grad, logsumexp, delta, keys, values, batch, head, full, q_row, g_row, N, d, scale,
            COLUMNS, D, PADDED, DESCRIPTOR, True, UNIT, PRECISION,
        )  # fmt: skip

    rows, columns = start + tl.arange(0, ROWS), tl.arange(0, D)
    inside = (rows[:, None] < N) & (columns[None, :] < d)
    cells = (
        (batch.to(tl.int64) * N * 3 * heads + head) * d + rows[:, None].to(tl.int64) * 3 * heads * d + columns[None, :]
    )
    tl.store(packed + heads * d + cells, (dk * k_scale).to(packed.dtype.element_ty), mask=inside)
    tl.store(packed + 2 * heads * d + cells, dv.to(packed.dtype.element_ty), mask=inside)


@triton.jit
def queries_step(
    dq, k, v, queries, grads, sums, deltas, batch, head, start, k_row, v_row, N, d, scale,
    COLUMNS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, DESCRIPTOR: tl.constexpr, TAIL: tl.constexpr,
    UNIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of keys added to dq [ROWS, D]."""
    keys = rows_of(k, batch, head, start, k_row, N, d, COLUMNS, D, DESCRIPTOR, TAIL, PADDED, UNIT)
    values = rows_of(v, batch, head, start, v_row, N, d, COLUMNS, D, DESCRIPTOR, TAIL, PADDED, UNIT)
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)  # [ROWS, COLUMNS]
    weights = tl.exp2(scores * scale - sums[:, None])
    if TAIL:  # a key that is none could weigh infinity, and infinity times 0 is NaN
        weights = tl.where(start + tl.arange(0, COLUMNS)[None, :] < N, weights, 0.0)
    dweights = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
    dscores = weights * (dweights - deltas[:, None])
    return tl.dot(dscores.to(keys.dtype), keys, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=[*STRIDES, *SIZES], do_not_specialize_on_alignment=POINTERS)
def attention_backward_queries(
    q, k, v, grad,                      # [B, N, heads, d]: pointers, or tensor descriptors (k and v)
    logsumexp, delta,                   # fp32 [B, heads, N]
    packed,                             # [B, N, 3, heads, d]: dq is written
    q_batch, q_row, q_head,             # strides, in UNIT elements
    k_batch, k_row, k_head,
    v_batch, v_row, v_head,
    g_batch, g_row, g_head,
    N, heads,
    d,                                  # in UNIT elements
    scale,                              # scale / ln 2
    q_scale,                            # scale
    tiles,                              # of queries in one head
    ROWS: tl.constexpr,                 # queries of one program: dq, q and grad live in its registers
    COLUMNS: tl.constexpr,              # keys of one step
    D: tl.constexpr,
    PADDED: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    UNIT: tl.constexpr,                 # what divides d and all strides
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of one tile of queries of one head, over all keys."""
    program = tl.program_id(0)
    start = program % tiles * ROWS
    image_head = program // tiles
    batch, head = image_head // heads, image_head % heads
    d = d * UNIT
    k = head_of(k, batch, head, k_batch, k_head, DESCRIPTOR, UNIT)
    v = head_of(v, batch, head, v_batch, v_head, DESCRIPTOR, UNIT)
    q = head_of(q, batch, head, q_batch, q_head, False, UNIT)
    grad = head_of(grad, batch, head, g_batch, g_head, False, UNIT)
    queries = rows_of(q, batch, head, start, q_row, N, d, ROWS, D, False, True, PADDED, UNIT)  # [ROWS, D]
    grads = rows_of(grad, batch, head, start, g_row, N, d, ROWS, D, False, True, PADDED, UNIT)
    rows, columns = start + tl.arange(0, ROWS), tl.arange(0, D)
    lines = image_head.to(tl.int64) * N + rows
    sums = tl.load(logsumexp + lines, mask=rows < N, other=float("inf")) * 1.4426950408889634  # 1 / ln 2
    deltas = tl.load(delta + lines, mask=rows < N, other=0.0)
    dq = tl.zeros([ROWS, D], tl.float32)

    full = N // COLUMNS * COLUMNS
    for key in tl.range(0, full, COLUMNS):
        dq = queries_step(
            dq, k, v, queries, grads, sums, deltas, batch, head, key, k_row, v_row, N, d, scale,
            COLUMNS, D, PADDED, DESCRIPTOR, False, UNIT, PRECISION,
        )  # fmt: skip
    if full < N:
        dq = queries_step(
            dq, k, v, queries, grads, sums, deltas, batch, head, full, k_row, v_row, N, d, scale,
            COLUMNS, D, PADDED, DESCRIPTOR, True, UNIT, PRECISION,
        )  # fmt: skip

    inside = (rows[:, None] < N) & (columns[None, :] < d)
    cells = (
        (batch.to(tl.int64) * N * 3 * heads + head) * d + rows[:, None].to(tl.int64) * 3 * heads * d + columns[None, :]
    )
    tl.store(packed + cells, (dq * q_scale).to(packed.dtype.element_ty), mask=inside)
