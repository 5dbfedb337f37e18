"""Launches the attention kernels, forward and backward, on PyTorch's current stream of the tensors' device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .attention_backward_triton import attention_backward_keys, attention_backward_queries, attention_delta
from .attention_configs import BackwardConfig, LaunchConfig, Tile, backward_config, forward_config, padded
from .attention_loads import UNIT
from .attention_triton import attention_forward, join_splits

LOG2_E = 1 / math.log(2)  # exp(x) = exp2(x / ln 2), and exp2 is one instruction
EXTRA_ROWS = 16  # of the tile that computes one query: the fewest that tl.dot takes
FEW_ROWS = 16  # queries of one program of the kernels for which only memory counts


def launch_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, config: LaunchConfig | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of q, k, v [B, N, heads, d] on their GPU → ([B, N, heads, d], logsumexp fp32 [B, heads, N]).

    The config is the table's unless one is given.
    """
    B, N, heads, d = q.shape
    out = torch.empty((B, N, heads, d), dtype=q.dtype, device=q.device)
    logsumexp = torch.empty((B, heads, N), dtype=torch.float32, device=q.device)
    if not out.numel():
        return out, logsumexp.fill_(-torch.inf)
    q, k, v = (readable(x) for x in (q, k, v))
    tile, splits, descriptors = config or forward_config(q, k, v)
    span = tile.columns * -(-N // (tile.columns * splits))  # keys of a split, in whole blocks
    splits = -(-N // span)  # none is empty
    with torch.cuda.device_of(out):
        if splits == 1:
            for part, origin, rows in _parts(tile, N):
                _launch(q, k, v, out, logsumexp, scale, part, origin, rows, span, 1, descriptors)
            return out, logsumexp
        target = torch.empty((splits, B, N, heads, d), dtype=torch.float32, device=q.device)
        stats = torch.empty((2, splits, B, heads, N), dtype=torch.float32, device=q.device)
        _launch(q, k, v, target, stats, scale, tile, 0, N, span, splits, descriptors)
        tiles, step = -(-N // FEW_ROWS), unit(q, k, v)
        join_splits[tiles * B * heads,](
            target, stats, out, logsumexp, N, heads, d // step, splits, tiles, ROWS=FEW_ROWS, D=padded(d), UNIT=step,
            num_warps=4, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
    return out, logsumexp


def _parts(tile: Tile, N: int) -> list[tuple[Tile, int, int]]:
    """The launches of one forward: a tile, the first query and how many: one query too many for whole tiles goes alone."""
    if not tile.extra_query or N % tile.rows != 1 or N == 1:
        return [(tile, 0, N)]
    return [(tile, 0, N - 1), (tile._replace(rows=EXTRA_ROWS, warps=4), N - 1, 1)]


def _launch(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, stats: Tensor, scale: float,
    tile: Tile, origin: int, rows: int, span: int, splits: int, descriptors: bool,
) -> None:  # fmt: skip
    """`rows` queries from `origin` on, of every head of every image."""
    B, N, heads, d = q.shape
    extra = tile.extra_key and splits == 1 and N % tile.columns == 1 and N > 1
    step, tiles, D = unit(q, k, v), -(-rows // tile.rows), padded(d)
    sources = [source(x, size, descriptors) for x, size in ((q, tile.rows), (k, tile.columns), (v, tile.columns))]
    attention_forward[tiles * B * heads, splits](
        *sources, k if extra else None, v if extra else None, out, stats, *strides(step, q, k, v),
        N, heads, d // step, scale * LOG2_E, span, origin, tiles,
        ROWS=tile.rows, COLUMNS=tile.columns, D=D, PADDED=d != D, SPLIT=splits > 1, DESCRIPTOR=descriptors, UNIT=step,
        CARRIED=tile.carried, EXTRA=extra, PRECISION="ieee",
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
    )  # fmt: skip


def launch_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, scale: float,
    config: BackwardConfig | None = None,
) -> Tensor:  # fmt: skip
    """The gradients of q, k, v [B, N, heads, d] as one [B, N, 3, heads, d], from that of their attention.

    Args:
        out, logsumexp: what the forward gave.
        config: the table's unless given.
    """
    B, N, heads, d = q.shape
    packed = torch.empty((B, N, 3, heads, d), dtype=q.dtype, device=q.device)
    if not packed.numel():
        return packed
    q, k, v, grad = (readable(x) for x in (q, k, v, grad))
    by_keys, by_queries, descriptors = config or backward_config(q, k, v, grad)
    delta = torch.empty_like(logsumexp)
    D, tiles, step = padded(d), -(-N // FEW_ROWS), unit(q, k, v, grad)
    with torch.cuda.device_of(q):
        attention_delta[tiles * B * heads,](
            out, grad, delta, *strides(step, grad), N, heads, d // step, tiles, ROWS=FEW_ROWS, D=D, UNIT=step,
            num_warps=4, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
        for kernel, tile, streamed in (
            (attention_backward_keys, by_keys, (True, False, False, True)),
            (attention_backward_queries, by_queries, (False, True, True, False)),
        ):
            tiles = -(-N // tile.rows)
            sources = [
                source(x, tile.columns, descriptors and walked)
                for x, walked in zip((q, k, v, grad), streamed, strict=True)
            ]
            kernel[tiles * B * heads,](
                *sources, logsumexp, delta, packed, *strides(step, q, k, v, grad), N, heads, d // step,
                scale * LOG2_E, scale, tiles,
                ROWS=tile.rows, COLUMNS=tile.columns, D=D, PADDED=d != D, DESCRIPTOR=descriptors, UNIT=step, PRECISION="ieee",
                num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
            )  # fmt: skip
    return packed


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


def source(x: Tensor, rows: int, descriptors: bool) -> Tensor | TensorDescriptor:
    """What a kernel loads tiles of `rows` × d of x [B, N, heads, d] from."""
    if not descriptors:
        return x
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, rows, 1, padded(x.shape[3])])
