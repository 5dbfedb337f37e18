"""Decoders: from patch encodings to a logit of every class (paper, section 3.2)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segfast.config import Config
from segfast.network.blocks import Block, init_weights


class LinearDecoder(nn.Module):
    """One Linear from patch encodings to class logits (paper, section 3.2)."""

    def __init__(self, config: Config):
        super().__init__()
        self.head = nn.Linear(config.width, config.num_classes)
        self.apply(init_weights)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits [B, h·w, K] of patch encodings [B, h·w, D]."""
        return self.head(patches)


class MaskDecoder(nn.Module):
    """The mask transformer: K class embeddings attend with the patches (paper, section 3.2, eq. 4)."""

    def __init__(self, config: Config):
        super().__init__()
        D, K = config.width, config.num_classes
        self.num_classes = K
        self.proj_dec = nn.Linear(D, D)
        self.cls_emb = nn.Parameter(torch.empty(1, K, D))
        self.blocks = nn.ModuleList(
            Block(D, config.heads, config.decoder_eps, config.decoder_dropout, 0.0) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(D, eps=config.decoder_eps)
        self.proj_patch = nn.Parameter(D**-0.5 * torch.randn(D, D))
        self.proj_classes = nn.Parameter(D**-0.5 * torch.randn(D, D))
        self.mask_norm = nn.LayerNorm(K, eps=config.decoder_eps)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.cls_emb, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits [B, h·w, K] of patch encodings [B, h·w, D]: the class masks, through a LayerNorm over the classes.

        From decoder_norm on it computes in fp32, whatever the weights are, under autocast too: half precision overflows
        in the L2 norms (1024 · 8²), and as mask_norm stretches small differences of cosines, rounding
        here is most of the error of a half-precision model (4.8e-3 of the logits of seg-b-mask-16,
        2.8e-3 without it).
        """
        masks = self.masks(patches)
        with without_autocast(masks):
            return norm_in_fp32(self.mask_norm, masks).to(patches.dtype)  # [B, h·w, K]

    def masks(self, patches: Tensor) -> Tensor:
        """Class masks [B, h·w, K], fp32: cosines of patches and classes (equation 4; as in the code, both are of norm 1)."""
        B, K = patches.shape[0], self.num_classes
        tokens = torch.cat([self.proj_dec(patches), self.cls_emb.expand(B, -1, -1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)  # [B, h·w + K, D]
        with without_autocast(tokens):
            tokens = norm_in_fp32(self.decoder_norm, tokens)
            rows = unit(tokens[:, :-K] @ self.proj_patch.float())  # [B, h·w, D]
            columns = unit(tokens[:, -K:] @ self.proj_classes.float())  # [B, K, D]
            return rows @ columns.transpose(1, 2)  # [B, h·w, K]


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., D] of L2 norm 1, without an eps as in the original code."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A block in which autocast, if it is on, leaves the dtypes of x's device as they are."""
    kind = x.device.type
    known = kind != "meta"  # PyTorch has none there, and says so by raising
    return torch.autocast(kind, enabled=False) if known and torch.is_autocast_enabled(kind) else nullcontext()


def norm_in_fp32(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The LayerNorm of x, computed and returned in fp32, whatever the dtype of either."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
