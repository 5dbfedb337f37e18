"""Multi-head attention of packed tokens: the one call every block of the model makes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q·kᵀ·scale)·v for q, k, v [B, N, heads, d], views of one packed qkv tensor included.

    Runs in PyTorch's scaled_dot_product_attention. Twin: `reference.attention`.

    Args:
        scale: d^-0.5 by default (paper, equation 3).

    Returns:
        [B, N, heads, d]; `flatten(2)` of it is what the next Linear reads.
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))                    # [B, heads, N, d]
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)
