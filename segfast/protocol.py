"""The inference protocol: how an image becomes windows and views (paper, section 4.2).

Sizes are (height, width) in pixels throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral

from segfast.errors import BadOption

Size = tuple[int, int]
# What `fit` says for the model's own.
MODEL = "model"

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
        fit: (long, short): images are first resized until their sides just fit these; None: they keep their size. Of a
            model that was trained on a folder with an image size; the original resizes in evaluation alone.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    window: Size
    stride: Size
    small_windows: bool = False
    crop_padding: bool = True
    fit: Size | None = None

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

    def plain(self) -> Protocol:
        """The same protocol with tuples for whatever sequences it was made of, so that it can be a key."""
        mean, std = ((rgb[0], rgb[1], rgb[2]) for rgb in (self.mean, self.std))
        window, stride = ((size[0], size[1]) for size in (self.window, self.stride))
        fit = None if self.fit is None else (self.fit[0], self.fit[1])
        return replace(self, mean=mean, std=std, window=window, stride=stride, fit=fit)

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

    def padded(self, window: Size, patch: int) -> Size:
        """The size that the logits of a window stand for: of whole patches, or its own."""
        (h, w), P = window, patch
        return (h + -h % P, w + -w % P) if self.crop_padding else window

    def count(self, size: Size) -> tuple[int, Size]:
        """How many windows an image of working size `size` has, and their size: of `windows`, without making them."""
        window = min(self.window[0], size[0]), min(self.window[1], size[1])
        rows, columns = (
            len(range(0, length - extent, step)) + 1
            for length, extent, step in zip(size, window, self.stride, strict=True)
        )
        return rows * columns, window

    def windows(self, size: Size) -> tuple[tuple[Size, ...], Size]:
        """Origins (top, left) of the windows of an image of working size `size`, and their size."""
        window = min(self.window[0], size[0]), min(self.window[1], size[1])
        rows, columns = (
            sorted({*range(0, length - extent, step), length - extent})
            for length, extent, step in zip(size, window, self.stride, strict=True)
        )
        return tuple(itertools.product(rows, columns)), window


def views(size: Size, multiscale: bool, fit: Size | None = None) -> list[tuple[Size, bool]]:
    """(size, mirrored) of every view of an image: itself, or the paper's 12 (section 4.2).

    Args:
        fit: (long, short): the size is first made to fit, which evaluation on the paper's datasets asks for.
    """
    scales = SCALES if multiscale else (1.0,)
    sizes = [fitted(size, fit, scale) if fit else _scaled(size, scale) for scale in scales]
    return [(view, mirrored) for view in sizes for mirrored in ((False, True) if multiscale else (False,))]


def fitted(size: Size, fit: Size, scale: float = 1.0) -> Size:
    """The largest size of the same ratio whose long and short sides are at most scale · `fit`.

    Original code (mmcv's rescale_size): the bounds are truncated to whole pixels, the sides rounded.
    """
    long, short = (int(bound * scale) for bound in fit)
    factor = min(long / max(size), short / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def check_fit(fit: Size | str | None) -> Size | None:
    """Itself as plain numbers, if it is none or (long, short) in pixels.

    Raises:
        BadOption: it is something else.
    """
    if fit is None:
        return None
    sides = () if isinstance(fit, str) or not isinstance(fit, Iterable) else tuple(fit)
    whole = len(sides) == 2 and all(isinstance(side, Integral) and 1 <= side <= 65536 for side in sides)
    if not whole or sides[0] < sides[1]:
        pair = f"; for one side pass ({fit}, {fit})" if isinstance(fit, Integral) else ""
        raise BadOption(f"fit must be two whole numbers of pixels, the long side and the short; got {fit!r}{pair}")
    return int(sides[0]), int(sides[1])


def _scaled(size: Size, scale: float) -> Size:
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
