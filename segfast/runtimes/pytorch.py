"""PyTorch: checkpoints, unexported. Takes windows of any size, resized ones unrounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segfast.errors import MissingRuntime
from segfast.model import Segmenter


class PyTorchRuntime:
    """A Segmenter in evaluation mode, in fp32."""

    name = "PyTorch"
    precision = "fp32"

    def __init__(self, model: Segmenter, device: str, threads: int | None):
        if device != "cpu" and not torch.cuda.is_available():
            raise MissingRuntime(f"PyTorch finds no NVIDIA GPU for device={device!r}; use device='cpu'")
        self.device = device
        self.notes: list[str] = []
        self.batch = 1 if device == "cpu" else 8
        if threads is not None:
            torch.set_num_threads(threads)
            self.notes.append("threads holds for all of PyTorch in this process")
        self.model = model.eval().to(device)
        protocol = model.config.protocol
        self._mean = torch.tensor(protocol.mean, device=device)[:, None, None]
        self._std = torch.tensor(protocol.std, device=device)[:, None, None]

    @torch.inference_mode()
    def run(self, windows: NDArray[Any]) -> NDArray[Any]:
        """See `Runtime`."""
        pixels = torch.tensor(np.ascontiguousarray(windows), device=self.device)
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        return self.model.patch_logits(images).cpu().numpy()

    def widen(self) -> None:
        """See `Runtime`; nothing to do."""
