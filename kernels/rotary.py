"""Rotary position embedding of q and k (RoPE; Su et al. 2021, RoFormer), in the layout of halves."""

from __future__ import annotations

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """x [B, N, heads, d] with its pairs of channels (i, i + d/2) rotated by the angles of their token.

    Args:
        rotation: the cosine of every channel's angle and its sine, both [N, 1, d], or [B, N, 1, d] where tokens of a batch
            lie at places of their own, the sine with a minus in the first d/2.

    Raises:
        ValueError: the rotation is not that of N tokens and heads of d.
    """
    cos, sin = rotation
    batch = () if cos.ndim == 3 else (x.shape[0],)
    if cos.shape != (*batch, x.shape[1], 1, x.shape[3]) or sin.shape != cos.shape:
        shapes = f"{list(cos.shape)} and {list(sin.shape)}"
        raise ValueError(f"tokens {list(x.shape)} take cosines and sines [N, 1, d], not {shapes}")
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([second, first], -1) * sin.to(x.dtype)
