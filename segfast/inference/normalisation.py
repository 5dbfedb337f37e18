"""RGB images, normalised as a model takes them: the Protocol's mean and standard deviation, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from segfast.protocol import Protocol


def channels(protocol: Protocol, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of RGB in 0 … 1, each [3, 1, 1] in fp32."""
    both = torch.tensor((protocol.mean, protocol.std), dtype=torch.float32, device=device)[..., None, None]
    return both[0], both[1]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """A Segmenter's input [B, 3, H, W], fp32, of RGB images [B, H, W, 3], uint8 or float32 in 0 … 255.

    Args:
        mean, std: as `channels` gives them.
    """
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
