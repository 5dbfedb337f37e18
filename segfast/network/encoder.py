"""The encoder: a ViT whose fields in the Config make it that of the paper, DINOv2's, DINOv3's or SigLIP2's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segfast.config import Config
from segfast.kernels.rotary import Rotation
from segfast.network.blocks import Block, init_weights
from segfast.network.positions import resample_positions, rotation


class Encoder(nn.Module):
    """Patch embedding, position embeddings and L pre-norm blocks (paper, section 3.1)."""

    def __init__(self, config: Config):
        super().__init__()
        D = config.width
        self.config = config
        self.patch_embed = PatchEmbedding(config.patch, D)
        self.cls_token = nn.Parameter(torch.empty(1, 1, D)) if config.class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, D)) if config.distilled else None
        self.reg_token = nn.Parameter(torch.empty(1, config.registers, D)) if config.registers else None
        h, w = config.grid
        positions = None if config.rope else nn.Parameter(torch.empty(1, config.position_prefix + h * w, D))
        self.pos_embed = positions
        self.dropout = nn.Dropout(config.encoder_dropout)
        self.blocks = nn.ModuleList(_blocks(config))
        self.norm = nn.LayerNorm(D, eps=config.encoder_eps)
        self.cos: Tensor | None
        self.sin: Tensor | None
        self.register_buffer("cos", None, persistent=False)
        self.register_buffer("sin", None, persistent=False)
        self.apply(init_weights)
        for token in (self.cls_token, self.dist_token, self.pos_embed, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Patch encodings [B, h·w, D] of padded images [B, 3, h·P, w·P]."""
        patches = self.patch_embed.proj(images)  # [B, D, h, w]
        h, w = patches.shape[-2:]
        tokens = self.dropout(self.embed(patches.flatten(2).transpose(1, 2), (h, w)))
        turns = self.rotations(h, w)
        for block in self.blocks:
            tokens = block(tokens, turns)
        return self.norm(tokens)[:, self.config.prefix_tokens :]  # [B, h·w, D]

    def embed(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches [B, h·w, D] with their positions, behind the tokens that come first: [B, prefix + h·w, D]."""
        positions = None if self.pos_embed is None else self.positions(*grid)
        if positions is not None and self.config.patch_positions:
            patches, positions = patches + positions, None
        prefix = [token for token in (self.cls_token, self.dist_token, self.reg_token) if token is not None]
        if prefix:
            patches = torch.cat([token.expand(patches.shape[0], -1, -1) for token in prefix] + [patches], dim=1)
        return patches if positions is None else patches + positions

    def positions(self, h: int, w: int) -> Tensor:
        """Position embeddings [1, prefix + h·w, D] for a grid of h × w patches; without the prefix where it has none.

        As in the original code they are resampled only where the token count differs: another
        grid of the same count uses them as they are. Where they are antialiased, as timm does, every other grid counts.
        """
        config, grid = self.config, self.config.grid
        assert self.pos_embed is not None, "with RoPE there are no position embeddings"
        same = (h, w) == grid if config.position_antialias else h * w == grid[0] * grid[1]
        if same:
            return self.pos_embed
        prefix, mode, antialias = config.position_prefix, config.position_mode, config.position_antialias
        return resample_positions(self.pos_embed, prefix, grid, (h, w), mode, antialias)

    def rotations(self, h: int, w: int) -> Rotation | None:
        """What turns q and k for a grid of h × w patches (RoPE), each [prefix + h·w, 1, d]."""
        config, weight = self.config, self.norm.weight
        if not config.rope:
            return None
        if self.cos is not None and self.sin is not None and (h, w) == config.grid:
            return self.cos, self.sin
        d = config.width // config.heads
        cos, sin = rotation((h, w), config.prefix_tokens, d, config.rope_temperature, weight.device)
        return cos.to(weight.dtype), sin.to(weight.dtype)

    def keep_rotations(self) -> None:
        """Hold the rotations of the config's grid as constants from now on."""
        self.cos, self.sin = self.rotations(*self.config.grid) or (None, None)


class PatchEmbedding(nn.Module):
    """A convolution of size and stride P."""

    def __init__(self, patch: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)


def _blocks(config: Config) -> list[Block]:
    # Stochastic depth grows linearly from 0 to config.drop_path (section 4.3).
    rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
    return [
        Block(
            config.width,
            config.heads,
            config.encoder_eps,
            config.encoder_dropout,
            rate,
            layer_scale=config.layer_scale,
            qkv_bias=config.qkv_bias,
            mlp=config.mlp,
            hidden=config.hidden,
        )
        for rate in rates
    ]
