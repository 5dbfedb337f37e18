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
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from segfast.config import Config
from segfast.network.blocks import Attention as Attention
from segfast.network.blocks import AttentionFunction as AttentionFunction
from segfast.network.blocks import Block as Block
from segfast.network.blocks import DropPath as DropPath
from segfast.network.decoders import LinearDecoder, MaskDecoder
from segfast.network.decoders import unit as unit
from segfast.network.decoders import without_autocast as without_autocast
from segfast.network.encoder import Encoder
from segfast.network.positions import resample_positions as resample_positions
from segfast.token_merge import Merge


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

    def merge_tokens(self, fraction: float | None, block: int = 1) -> Segmenter:
        """Merge the most alike tokens behind a block of the encoder from now on; itself (docs/token-merging.md).

        Files that are written of the model say so, and whatever opens them does it.

        Args:
            fraction: of the cells of 2 × 2 patches, each of which becomes one token; over 0 and below 1. None: merge none.
            block: counted from 1, and not the last.

        Raises:
            BadOption: the fraction or the block is out of range, or the grid of the model's size has no two cells.
        """
        merge = None if fraction is None else Merge(fraction, block).check(self.config)
        self.config = replace(self.config, merge=merge)
        self.encoder.config = self.config
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights and the whole configuration to one `.safetensors` file, atomically.

        Raises:
            CannotWrite: the destination is full, read-only or missing.
        """
        from segfast.checkpoints import native

        native.save(path, self.config, self.state_dict())


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear [B, K, h, w] → [B, K, *size] (align_corners False).

    Decoders give K last in memory, for which PyTorch's CPU kernel takes several times as long.
    """
    return F.interpolate(logits.contiguous(), size=size, mode="bilinear", align_corners=False)
