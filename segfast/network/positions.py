"""Where patches lie: learned position embeddings for another grid, and the rotations of DINOv3."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segfast.kernels.rotary import Rotation
from segfast.protocol import Size


def resample_positions(
    positions: Tensor, prefix: int, grid: Size, size: Size, mode: str = "bilinear", antialias: bool = False
) -> Tensor:
    """Position embeddings [1, prefix + gh·gw, D] resampled to [1, prefix + h·w, D], prefix kept.

    Bilinear as in the paper (section 4.2), bicubic in MMSegmentation, both without antialiasing; bicubic with it in timm.
    """
    fixed, patches = positions[:, :prefix], positions[:, prefix:]
    patches = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # [1, D, gh, gw]
    if antialias:  # of which PyTorch has no half precision on CPUs
        patches = patches.float()
    patches = F.interpolate(patches, size=size, mode=mode, align_corners=False, antialias=antialias)
    return torch.cat([fixed, patches.to(fixed.dtype).flatten(2).transpose(1, 2)], dim=1)


def rotation(
    grid: Size, prefix: int, d: int, temperature: float, device: torch.device | str | None = None, *, cell: int = 1
) -> Rotation:
    """Cosines and sines [prefix + h·w, 1, d] by which q and k of head size d are rotated (RoPE), fp32.

    As in DINOv3 (Siméoni et al. 2025, section 3.2) and timm: the centres of patches lie in -1 … 1 in each direction; half of
    a head's pairs of channels (i, i + d/2) turn with the row, half with the column. Tokens before the patches stay as
    they are. The sines of a head's first half have the minus of the rotation (`kernels.rotary.rotate`).

    Args:
        grid: patches (h, w).
        cell: where it is over 1, the rotations are those of the centres of whole cells of so many patches in each direction.
    """
    h, w = grid
    # Made where they are needed: a copy from the host would not go into a CUDA graph.
    rows, columns = ((2 * torch.arange(side // cell, device=device) + 1) * cell / side - 1 for side in (h, w))
    places = torch.cartesian_prod(rows, columns)  # [h·w, 2]
    periods = temperature ** (torch.arange(d // 4, device=device) / (d // 4))
    angles = (2 * math.pi * places[..., None] / periods).flatten(1)  # [h·w, d/2]
    angles = F.pad(angles, (0, 0, prefix, 0))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1).unsqueeze(1), torch.cat([-sin, sin], -1).unsqueeze(1)
