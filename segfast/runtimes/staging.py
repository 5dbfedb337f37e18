"""Windows on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# What a window [H, W, 3] may be, on the host and on the device.
Window = NDArray[np.uint8 | np.float32]
DTYPES: dict[type[np.generic], torch.dtype] = {np.uint8: torch.uint8, np.float32: torch.float32}


class Staging:
    """A buffer of the host from which windows are copied to the device; pinned, so that the copy overlaps."""

    def __init__(self, pinned: bool):
        self._copied = torch.cuda.Event(blocking=True) if pinned else None
        self._bytes = torch.empty(0, dtype=torch.uint8, device="cpu")
        self.filled = self._bytes

    def fill(self, windows: Sequence[Window], batch: int) -> None:
        """Windows [H, W, 3] side by side in the first places of [batch, H, W, 3]; the others are black."""
        if self._copied is not None:
            self._copied.synchronize()  # the last copy has been read
        dtype = DTYPES[windows[0].dtype.type]
        shape = batch, *windows[0].shape
        need = int(np.prod(shape)) * dtype.itemsize
        if need > len(self._bytes):
            self._bytes = torch.zeros(need, dtype=torch.uint8, device="cpu", pin_memory=self._copied is not None)
        self.filled = self._bytes[:need].view(dtype).view(shape)
        array = self.filled.numpy()
        for place, window in zip(array, windows, strict=False):
            place[...] = window
        array[len(windows) :] = 0

    def copy_to(self, windows: Tensor) -> None:
        """Begin the copy to the device, on the current stream."""
        windows.copy_(self.filled, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
