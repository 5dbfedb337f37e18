"""Compiling the attention kernels before they are needed."""

from __future__ import annotations

import torch

from .attention_configs import LaunchConfig, forward_config, tiles_of
from .attention_cuda import launch_forward


def warm_up(heads: int, d: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Compile and load every forward kernel that packed tokens of any number need, by small launches on the current stream.

    Later calls for as many heads of that size in the same dtype compile nothing, whatever batch and length they have:
    tiles for many queries and for few, whole and split, with and without a token more than whole tiles.
    """
    tiles = tiles_of(torch.device(device), d, dtype)
    for tile in {tiles.forward, tiles.small}:
        whole = 2 * max(tile.rows, tile.columns)
        for N in (whole, whole + 1):
            packed = torch.zeros((1, N, 3, heads, d), dtype=dtype, device=device)
            q, k, v = packed.unbind(2)
            for splits in (1, 2) if tile == tiles.small else (1,):
                launch_forward(q, k, v, d**-0.5, LaunchConfig(tile, splits, forward_config(q, k, v).descriptors))
