"""The encoder: a ViT whose fields in the Config make it that of the paper, DINOv2's, DINOv3's or SigLIP2's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segfast.config import Config
from segfast.kernels.rotary import Rotation
from segfast.network.blocks import Block, init_weights
from segfast.network.merging import Merged, layout, rank_cells
from segfast.network.positions import resample_positions, rotation
from segfast.protocol import Size


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
        self.cell_cos: Tensor | None
        self.cell_sin: Tensor | None
        for name in ("cos", "sin", "cell_cos", "cell_sin"):
            self.register_buffer(name, None, persistent=False)
        self.rank_cells: Callable[[Tensor, Size], Tensor] = rank_cells
        self.apply(init_weights)
        for token in (self.cls_token, self.dist_token, self.pos_embed, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Patch encodings [B, h·w, D] of padded images [B, 3, h·P, w·P]."""
        patches = self.patch_embed.proj(images)  # [B, D, h, w]
        h, w = patches.shape[-2:]
        tokens = self.dropout(self.embed(patches.flatten(2).transpose(1, 2), (h, w)))
        return self.norm(self.run_blocks(tokens, (h, w)))  # [B, h·w, D]

    def run_blocks(self, tokens: Tensor, grid: Size) -> Tensor:
        """All blocks, with the fewer tokens in between that the config may ask for: [B, prefix + h·w, D] → [B, h·w, D]."""
        config, turns, merged = self.config, self.rotations(*grid), None
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, turns)
            if config.merge is not None and number == config.merge.block:
                merged = self.merging(tokens, grid)
                if merged is not None:
                    tokens = merged.tokens
                    turns = None if turns is None else merged.turn(turns, self.centres(grid))
        return tokens[:, config.prefix_tokens :] if merged is None else merged.undo(tokens)

    def merging(self, tokens: Tensor, grid: Size) -> Merged | None:
        """How the tokens [B, prefix + h·w, D] behind a block are merged; None where the grid has no two cells."""
        config = self.config
        assert config.merge is not None
        count = config.merge.count(grid, config.prefix_tokens)
        if count == 0:
            return None
        order = self.rank_cells(tokens[:, config.prefix_tokens :].detach(), grid)
        return Merged(tokens, order, layout(grid, tokens.device), config.prefix_tokens, count)

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
        cos, sin = rotation(
            (h, w), config.prefix_tokens, config.width // config.heads, config.rope_temperature, weight.device
        )
        return cos.to(weight.dtype), sin.to(weight.dtype)

    def centres(self, grid: Size) -> Rotation:
        """What turns merged tokens of cells of 2 × 2 patches (RoPE), each [C, 1, d]: the rotation of the cell's centre."""
        config, weight = self.config, self.norm.weight
        if self.cell_cos is not None and self.cell_sin is not None and grid == config.grid:
            return self.cell_cos, self.cell_sin
        cos, sin = rotation(grid, 0, config.width // config.heads, config.rope_temperature, weight.device, cell=2)
        return cos.to(weight.dtype), sin.to(weight.dtype)

    def keep_rotations(self) -> None:
        """Hold the rotations of the config's grid as constants from now on."""
        self.cos, self.sin = self.rotations(*self.config.grid) or (None, None)
        if self.config.rope and self.config.merge is not None:
            self.cell_cos, self.cell_sin = self.centres(self.config.grid)


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
