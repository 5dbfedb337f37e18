"""The Segmenter: a plain ViT encoder and a linear or mask decoder (paper, section 3).

Letters used everywhere: B batch, N tokens, D width, K classes, P patch size, H W pixels,
h w patches (h = ceil(H / P)).

Where the paper and its code differ, the code is followed, because trained weights depend on it:
class and distillation tokens run through the encoder and are dropped before decoding; the encoder
ends in a LayerNorm; the mask decoder projects its input, normalises its output, projects patches
and classes once more, and applies a LayerNorm over the K classes at patch resolution, before the
upsampling. Parameters carry the names of the original code, so its checkpoints load unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segfast import kernels
from segfast.config import Config

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


class Segmenter(nn.Module):
    """A Segmenter model (paper, figure 2).

    Args:
        config: the architecture, inference protocol and classes.

    The weights are drawn as in the original code; `segfast.create_model` and `segfast.load_model`
    fill them.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder: nn.Module = MaskDecoder(config) if config.decoder == "mask" else LinearDecoder(config)

    def forward(self, images: Tensor) -> Tensor:
        """Full-resolution logits [B, K, H, W] of normalised images [B, 3, H, W], any H and W."""
        H, W = images.shape[-2:]
        logits = self.patch_logits(images)  # [B, K, h, w]
        return self.enlarge(logits, (H, W))  # [B, K, H, W]

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Patch-level logits [B, K, h, w] of images of `size`, at that size."""
        if not self.config.protocol.crop_padding:
            return upsample(logits, size)
        P, (H, W), (h, w) = self.config.patch, size, logits.shape[-2:]
        return upsample(logits, (h * P, w * P))[..., :H, :W]  # [B, K, H, W]

    def patch_logits(self, images: Tensor) -> Tensor:
        """Patch-level logits [B, K, h, w] of normalised images [B, 3, H, W], any H and W."""
        P, (H, W) = self.config.patch, images.shape[-2:]
        images = F.pad(images, (0, -W % P, 0, -H % P))  # [B, 3, h·P, w·P]
        h, w = images.shape[-2] // P, images.shape[-1] // P
        tokens = self.encoder(images)  # [B, h·w, D]
        return self.decoder(tokens).transpose(1, 2).unflatten(2, (h, w))  # [B, K, h, w]

    def set_attention(self, attend: AttentionFunction) -> Segmenter:
        """Run every attention of the model through `attend` (q, k, v [B, N, heads, d] → same)."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.attend = attend
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights and the whole configuration to one `.safetensors` file, atomically.

        Raises:
            CannotWrite: the destination is full, read-only or missing.
        """
        from segfast.checkpoints import native

        native.save(path, self.config, self.state_dict())


class Encoder(nn.Module):
    """Patch embedding, position embeddings and L pre-norm blocks (paper, section 3.1)."""

    def __init__(self, config: Config):
        super().__init__()
        D, L = config.width, config.depth
        self.config = config
        self.patch_embed = PatchEmbedding(config.patch, D)
        self.cls_token = nn.Parameter(torch.empty(1, 1, D))
        self.dist_token = nn.Parameter(torch.empty(1, 1, D)) if config.distilled else None
        h, w = config.grid
        self.pos_embed = nn.Parameter(torch.empty(1, config.prefix_tokens + h * w, D))
        self.dropout = nn.Dropout(config.encoder_dropout)
        # Stochastic depth grows linearly from 0 to config.drop_path (section 4.3).
        rates = torch.linspace(0, config.drop_path, L, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(D, config.heads, config.encoder_eps, config.encoder_dropout, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(D, eps=config.encoder_eps)
        self.apply(init_weights)
        for token in (self.cls_token, self.dist_token, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Patch encodings [B, h·w, D] of padded images [B, 3, h·P, w·P]."""
        patches = self.patch_embed.proj(images)  # [B, D, h, w]
        h, w = patches.shape[-2:]
        prefix = [self.cls_token] if self.dist_token is None else [self.cls_token, self.dist_token]
        tokens = torch.cat(
            [token.expand(images.shape[0], -1, -1) for token in prefix] + [patches.flatten(2).transpose(1, 2)], dim=1
        )  # [B, 1 + h·w, D]
        tokens = self.dropout(tokens + self.positions(h, w))
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, len(prefix) :]  # [B, h·w, D]

    def positions(self, h: int, w: int) -> Tensor:
        """Position embeddings [1, prefix + h·w, D] for a grid of h × w patches.

        As in the original code they are resampled only where the token count differs: another
        grid of the same count uses them as they are.
        """
        n, (gh, gw) = self.config.prefix_tokens, self.config.grid
        if h * w == gh * gw:
            return self.pos_embed
        return resample_positions(self.pos_embed, n, (gh, gw), (h, w), self.config.position_mode)


class PatchEmbedding(nn.Module):
    """A convolution of size and stride P."""

    def __init__(self, patch: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)


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
        """Logits [B, h·w, K] of patch encodings [B, h·w, D].

        From decoder_norm on it computes in fp32, whatever the weights are, under autocast too: half precision overflows
        in the L2 norms (1024 · 8²), and as mask_norm stretches small differences of cosines, rounding
        here is most of the error of a half-precision model (4.8e-3 of the logits of seg-b-mask-16,
        2.8e-3 without it).
        """
        B, K = patches.shape[0], self.num_classes
        tokens = torch.cat([self.proj_dec(patches), self.cls_emb.expand(B, -1, -1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)  # [B, h·w + K, D]
        with without_autocast(tokens):
            tokens = norm_in_fp32(self.decoder_norm, tokens)
            rows = unit(tokens[:, :-K] @ self.proj_patch.float())  # [B, h·w, D]
            columns = unit(tokens[:, -K:] @ self.proj_classes.float())  # [B, K, D]
            return norm_in_fp32(self.mask_norm, rows @ columns.transpose(1, 2)).to(patches.dtype)  # [B, h·w, K]


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth (paper, equations 1 and 2)."""

    def __init__(self, width: int, heads: int, eps: float, dropout: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, 4 * width, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] → [B, N, D]."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class Attention(nn.Module):
    """Multi-head self-attention (paper, equation 3); what computes it is decided in `kernels`."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.attend: AttentionFunction = kernels.attention

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] → [B, N, D]."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # [B, N, 3, heads, d]
        dropping = self.training and self.dropout.p > 0
        mixed = kernels.attend_packed(self.attend_dropping if dropping else self.attend, qkv)  # [B, N, heads, d]
        return self.dropout(self.proj(mixed.flatten(2)))

    def attend_dropping(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention with dropout on its weights, as the original trains its mask decoder."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # 3 × [B, heads, N, d]
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p).transpose(1, 2)


class MLP(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] → [B, N, D]."""
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(tokens)))))


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


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear [B, K, h, w] → [B, K, *size] (align_corners False).

    Decoders give K last in memory, for which PyTorch's CPU kernel takes several times as long.
    """
    return F.interpolate(logits.contiguous(), size=size, mode="bilinear", align_corners=False)


def resample_positions(
    positions: Tensor, prefix: int, grid: tuple[int, int], size: tuple[int, int], mode: str = "bilinear"
) -> Tensor:
    """Position embeddings [1, prefix + gh·gw, D] resampled to [1, prefix + h·w, D], prefix kept.

    Bilinear as in the paper (section 4.2), bicubic in MMSegmentation; no antialiasing.
    """
    fixed, patches = positions[:, :prefix], positions[:, prefix:]
    patches = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # [1, D, gh, gw]
    patches = F.interpolate(patches, size=size, mode=mode, align_corners=False)
    return torch.cat([fixed, patches.flatten(2).transpose(1, 2)], dim=1)


def init_weights(module: nn.Module) -> None:
    """The original initialisation: Linear truncated normal 0.02 with bias 0, LayerNorm 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
