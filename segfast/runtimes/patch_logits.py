"""A Segmenter as a lane calls it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from segfast.inference.normalisation import channels, normalise
from segfast.kernels.attend import choose, sdpa_choice
from segfast.model import Segmenter, without_autocast

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
        self._mean, self._std = channels(protocol, weight.device)
        self._free = free and weight.is_cuda

    def __call__(self, windows: Tensor) -> Tensor:
        """Patch logits [n, K, h, w] of windows [n, H, W, 3] on the device, uint8 or float32 in 0 … 255."""
        with without_autocast(windows), self._attention(tuple(windows.shape[1:3])):
            images = normalise(windows, self._mean, self._std)
            return self.model.patch_logits(images.to(self._dtype))

    def named_attention(self, asked: str | None) -> str:
        """What computes the attention of the protocol's windows, for people.

        Args:
            asked: the one attention that was asked for; None leaves it to the table of measurements.
        """
        config = self.model.config
        h, w = (-(-side // config.patch) for side in config.protocol.window)
        lengths = sorted({*config.encoder_tokens((h, w))}) + [h * w + config.num_classes] * (config.decoder == "mask")
        names = {N: self._name(N, asked) for N in lengths}
        if len(set(names.values())) == 1:
            return names[lengths[0]]
        return ", ".join(f"{name} at {N} tokens" for N, name in names.items())

    def _name(self, N: int, asked: str | None) -> str:
        config, mean = self.model.config, self._mean
        shape = 1, N, 3, config.heads, config.width // config.heads
        q = torch.empty(shape, dtype=self._dtype, device=mean.device).unbind(2)[0]
        name = asked or choose(q)
        chosen = sdpa_choice(q) if name == "sdpa" else name
        return name if chosen == name else f"{name} ({chosen})"

    def _attention(self, size: tuple[int, ...]) -> AbstractContextManager[object]:
        rare = self._free and size != self.model.config.protocol.window
        return sdpa_kernel(_PLANLESS) if rare else nullcontext()  # of the whole process: launches are held apart
