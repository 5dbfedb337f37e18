"""A Segmenter as a lane calls it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from segfast.model import Segmenter

# cuDNN plans each shape anew for each thread, 55 to 440 ms: too long where no graph keeps the plan.
_PLANLESS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class PatchLogits:
    """Patch logits of windows. It holds no runtime: lanes that hold it die with theirs.

    Args:
        model: in evaluation mode, on its device and in its precision.
        free: to choose the attention of windows of other sizes than the protocol's, which are rare.
    """

    def __init__(self, model: Segmenter, free: bool = False):
        weight, protocol = next(model.parameters()), model.config.protocol
        self.model, self._dtype = model, weight.dtype
        self._mean = torch.tensor(protocol.mean, device=weight.device)[:, None, None]
        self._std = torch.tensor(protocol.std, device=weight.device)[:, None, None]
        self._free = free and weight.is_cuda

    def __call__(self, windows: Tensor) -> Tensor:
        """Patch logits [n, K, h, w] of windows [n, H, W, 3] on the device, uint8 or float32 in 0 … 255."""
        images = (windows.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        with self._attention(tuple(windows.shape[1:3])):
            return self.model.patch_logits(images.to(self._dtype))

    def _attention(self, size: tuple[int, ...]) -> AbstractContextManager[Any]:
        rare = self._free and size != self.model.config.protocol.window
        return sdpa_kernel(_PLANLESS) if rare else nullcontext()        # of the whole process: launches are held apart
