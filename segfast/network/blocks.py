"""Transformer blocks of encoders and of the mask decoder, and how their weights start.

Letters: B batch, N tokens, D width, d head size. Parameters are named as in timm, whose checkpoints load unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segfast import kernels
from segfast.kernels.rotary import Rotation

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
# What DINOv2 and DINOv3 start LayerScale at.
LAYER_SCALE = 1e-5


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth (paper, equations 1 and 2).

    Args:
        layer_scale: scale both branches channel by channel (Touvron et al. 2021, Going deeper with image transformers).
        qkv_bias: the Linear of q, k and v has a bias.
        mlp: `gelu`, `gelu-tanh` or `swiglu`.
        hidden: width inside the MLP; 0 for four times that of the block.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        eps: float,
        dropout: float,
        drop_path: float,
        *,
        layer_scale: bool = False,
        qkv_bias: bool = True,
        mlp: str = "gelu",
        hidden: int = 0,
    ):
        super().__init__()
        hidden = hidden or 4 * width
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, dropout, qkv_bias)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = SwiGLU(width, hidden, dropout) if mlp == "swiglu" else MLP(width, hidden, dropout, GELU[mlp])
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, rotation: Rotation | None = None) -> Tensor:
        """[B, N, D] → [B, N, D].

        Args:
            rotation: cosines and sines [N, 1, d] or [B, N, 1, d] for q and k (`segfast.network.positions.rotation`).
        """
        tokens = tokens + self.drop_path(self.ls1(self.attn(self.norm1(tokens), rotation)))
        return tokens + self.drop_path(self.ls2(self.mlp(self.norm2(tokens))))


class Attention(nn.Module):
    """Multi-head self-attention (paper, equation 3); what computes it is decided in `kernels`."""

    def __init__(self, width: int, heads: int, dropout: float, qkv_bias: bool = True):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.attend: AttentionFunction = kernels.attention

    def forward(self, tokens: Tensor, rotation: Rotation | None = None) -> Tensor:
        """[B, N, D] → [B, N, D]; `rotation` as in `Block`."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # [B, N, 3, heads, d]
        dropping = self.training and self.dropout.p > 0
        attend = self.attend_dropping if dropping else self.attend
        mixed = kernels.attend_packed(attend, qkv, rotation)  # [B, N, heads, d]
        return self.dropout(self.proj(mixed.flatten(2)))

    def attend_dropping(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention with dropout on its weights, as the original trains its mask decoder."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # 3 × [B, heads, N, d]
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p).transpose(1, 2)


class MLP(nn.Module):
    """Linear, GELU (exact, or by tanh), Linear."""

    def __init__(self, width: int, hidden: int, dropout: float, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] → [B, N, D]."""
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(tokens), approximate=self.approximate))))


class SwiGLU(nn.Module):
    """Two Linears, of which one is the other's gate, and a third (Shazeer 2020, GLU variants improve Transformer)."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] → [B, N, D]."""
        return self.dropout(self.fc2(self.dropout(F.silu(self.fc1_g(tokens)) * self.fc1_x(tokens))))


class LayerScale(nn.Module):
    """A learned factor for every channel."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, branch: Tensor) -> Tensor:
        """[B, N, D] → [B, N, D]."""
        return branch * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: in training, drops the whole branch of a sample (paper, section 4.3)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """[B, N, D] → [B, N, D], unbiased."""
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        mask = torch.rand(len(branch), 1, 1, device=branch.device) < keep  # [B, 1, 1]
        return branch * mask.to(branch.dtype) / keep


def init_weights(module: nn.Module) -> None:
    """The original initialisation: Linear truncated normal 0.02 with bias 0, LayerNorm 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# PyTorch's names of the GELUs.
GELU = {"gelu": "none", "gelu-tanh": "tanh"}
