"""The inference protocol: how an image becomes windows and views (paper, section 4.2).

Sizes are (height, width) in pixels throughout.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from numbers import Integral

from segfast.errors import BadOption

Size = tuple[int, int]

# The paper's scales; each view is taken with its mirror image.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass(frozen=True)
class Protocol:
    """Preprocessing and sliding window that a model was trained for; recorded in every artifact.

    Attributes:
        mean, std: of RGB in 0 … 1.
        window, stride: of the sliding window.
        small_windows: an image smaller than the window is one window of its own size
            (MMSegmentation); otherwise it is first enlarged until it covers the window (original).
        crop_padding: logits of a window that is no multiple of the patch are upsampled to the padded
            size and cropped (original); otherwise they are stretched straight to its size (MMSegmentation).
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    window: Size
    stride: Size
    small_windows: bool = False
    crop_padding: bool = True

    def with_window(self, window: Size) -> Protocol:
        """The same protocol for another window size, with the same overlap in pixels, but at most half the window."""
        overlap = [w - s for w, s in zip(self.window, self.stride, strict=True)]
        stride = [w - min(o, w // 2) for w, o in zip(window, overlap, strict=True)]
        return replace(self, window=window, stride=(stride[0], stride[1]))

    def with_stride(self, stride: int | None) -> Protocol:
        """The same protocol with another stride, at most the window.

        Raises:
            BadOption: the stride is no whole number from 1 to the window.
        """
        if stride is None:
            return self
        whole = isinstance(stride, Integral) and not isinstance(stride, bool)
        if not whole or not 1 <= stride <= min(self.window):
            raise BadOption(f"stride must be a whole number from 1 to the window, {min(self.window)}; got {stride!r}")
        return replace(self, stride=(int(stride), int(stride)))

    def working_size(self, size: Size) -> Size:
        """The size at which an image is cut into windows: its own, or enlarged to cover the window.

        Original code: the short side becomes the window, the long side int(ratio · window).
        """
        (H, W), (wh, ww) = size, self.window
        if self.small_windows or (wh <= H and ww <= W):
            return size
        # The side that needs the larger factor becomes exactly the window. Products before
        # quotients in the original's order, ratio first: its truncation decides the size.
        if wh * W >= ww * H:
            return wh, max(ww, int(W / H * wh))
        return max(wh, int(H / W * ww)), ww

    def windows(self, size: Size) -> tuple[list[Size], Size]:
        """Anchors (top, left) of the windows of an image of working size `size`, and their size."""
        window = min(self.window[0], size[0]), min(self.window[1], size[1])
        rows, columns = (
            sorted({*range(0, length - extent, step), length - extent})
            for length, extent, step in zip(size, window, self.stride, strict=True)
        )
        return list(itertools.product(rows, columns)), window


def views(size: Size, multiscale: bool) -> list[tuple[Size, bool]]:
    """(size, mirrored) of every view of an image: itself, or the paper's 12 (section 4.2)."""
    if not multiscale:
        return [(size, False)]
    sizes = [(max(1, int(size[0] * scale)), max(1, int(size[1] * scale))) for scale in SCALES]
    return [(view, mirrored) for view in sizes for mirrored in (False, True)]
