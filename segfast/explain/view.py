"""A picture as the network sees it in one pass, and the way from its patches back to the picture's pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segfast import kernels
from segfast.config import Config, check_size
from segfast.errors import BadOption, NotSupported
from segfast.image import Pixels, read_image
from segfast.pictures.inputs import ImageLike
from segfast.protocol import Size, fitted

Patch = tuple[int, int]  # (row, column) in the grid of patches
Maps = NDArray[np.float32]

# Attention takes time with the square of the tokens: with so many, minutes a layer on a CPU.
MOST_TOKENS = 65536


@dataclass(frozen=True)
class View:
    """A whole picture in one pass of the network, without windows.

    Attributes:
        pixels: the picture, uint8 [H, W, 3].
        inputs: what the network gets before it is normalised, float32 0 … 255, [h·P at most, w·P at most, 3].
        patch: P.
    """

    pixels: Pixels
    inputs: NDArray[np.float32]
    patch: int

    @property
    def size(self) -> Size:
        """(height, width) of what the network gets, in pixels."""
        return self.inputs.shape[0], self.inputs.shape[1]

    @property
    def grid(self) -> Size:
        """(h, w) in patches; those at the right and at the bottom may be padded."""
        return -(-self.size[0] // self.patch), -(-self.size[1] // self.patch)

    def patch_at(self, x: int, y: int) -> Patch:
        """The patch that shows a pixel of the picture, column x and row y.

        Raises:
            BadOption: the picture has no such pixel.
        """
        H, W = self.pixels.shape[:2]
        if not (0 <= x < W and 0 <= y < H):
            raise BadOption(f"({x}, {y}) is outside the picture; x goes from 0 to {W - 1}, y from 0 to {H - 1}")
        (height, width), P = self.size, self.patch
        return int((y + 0.5) * height / H) // P, int((x + 0.5) * width / W) // P

    def box(self, patch: Patch) -> tuple[float, float, float, float]:
        """(left, top, width, height) of a patch in pixels of the picture."""
        (height, width), P, (H, W) = self.size, self.patch, self.pixels.shape[:2]
        return patch[1] * P * W / width, patch[0] * P * H / height, P * W / width, P * H / height

    def enlarge(self, maps: Maps) -> Maps:
        """Maps [..., h, w], a value for every patch, bilinear at the picture's own size: [..., H, W]."""
        (h, w), P, (height, width), (H, W) = self.grid, self.patch, self.size, self.pixels.shape[:2]
        channels = np.ascontiguousarray(maps.reshape(-1, h, w).transpose(1, 2, 0), np.float32)  # [h, w, C]
        padded = kernels.resize(channels, (h * P, w * P))[:height, :width]
        whole = kernels.resize(np.ascontiguousarray(padded), (H, W))
        return np.ascontiguousarray(whole.transpose(2, 0, 1)).reshape(*maps.shape[:-2], H, W)


def look(image: ImageLike, config: Config, size: int | None = None) -> View:
    """A picture as a model sees it at once, its ratio kept.

    Args:
        image: whatever `Engine.segment` takes.
        size: of its short side in pixels; by default that of the model's window. Resizing is that of the protocol.

    Raises:
        BadImage: the image cannot be read.
        BadOption: the size is not from one patch to 8192 pixels.
        NotSupported: the picture would have over 65,536 patches.
    """
    pixels = read_image(image)
    short = min(config.protocol.window) if size is None else check_size(size, config.patch)[0]
    H, W = pixels.shape[:2]
    target = fitted((H, W), (max(short, -(-short * max(H, W) // min(H, W))), short))
    tokens = -(-target[0] // config.patch) * -(-target[1] // config.patch)
    if tokens > MOST_TOKENS:
        raise NotSupported(
            f"at a short side of {short} pixels an image of {H}×{W} has {tokens:,} patches, of at most {MOST_TOKENS:,}; "
            "take a smaller size, or crop its long side"
        )
    return View(pixels, kernels.resize(pixels, target), config.patch)
