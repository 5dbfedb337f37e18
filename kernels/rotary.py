"""Rotary position embedding of q and k (RoPE; Su et al. 2021, RoFormer), in the layout of halves."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """x [B, N, heads, d] with its pairs of channels (i, i + d/2) rotated by the angles of their token.

    Args:
        rotation: [2, N, d]: the cosine of every channel's angle, and its sine, negative for the first half of the channels.

    Raises:
        ValueError: the rotation is not that of N tokens and heads of d.
    """
    if rotation.shape != (2, x.shape[1], x.shape[3]):
        raise ValueError(f"tokens {list(x.shape)} take a rotation [2, N, d], not {list(rotation.shape)}")
    cos, sin = rotation.to(x.dtype).unsqueeze(2)  # 2 × [N, 1, d]
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([second, first], -1) * sin
