"""Attention for training in half precision on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from segfast.kernels.attend import sdpa_attention

# Up to so many tokens the plain products and their gradient take half the time of PyTorch's fused kernel, whose
# backward pass works in small tiles there; from about 1,000 on the fused one is as fast, in less memory.
FEW = 640


def cpu_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q·kᵀ·scale)·v for q, k, v [B, N, heads, d]: by plain products for few tokens whose gradient is wanted."""
    if not torch.is_grad_enabled() or q.dtype == torch.float32 or q.shape[1] > FEW:
        return sdpa_attention(q, k, v, scale)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [B, heads, N, d]
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    return (scores.softmax(-1) @ v).transpose(1, 2)
