"""What a request would take, told before any of it is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from segfast.errors import NotSupported
from segfast.kernels.checks import MOST
from segfast.kernels.reference import label_dtype
from segfast.machine import memory
from segfast.protocol import Protocol, Size

# How many times as long as wide an image may be that has to be enlarged until it covers the window: one of 1×300
# would become 512×153600, hundreds of windows for 300 pixels.
RATIO = 100
# Windows of one image, all its views together. A picture of 64 megapixels takes about 300, and 7,000 in 12 views.
WINDOWS = 1 << 16
# Bytes that `segment_many` holds before it reads another image: what some 50 of a megapixel take, or 2 of 64.
HELD = 1 << 30
# Bytes that nobody asks about: they are there, and asking takes a while.
SMALL = 1 << 28

CHANNELS, FLOAT = 3, 4
_SMALLER = "make it smaller, or cut it and pass the parts"


class Network(NamedTuple):
    """What the logits of a window take.

    Attributes:
        patch: its side in pixels.
        classes: K.
        on_host: they lie in the host's memory; a device's own is its runtime's affair.
    """

    patch: int
    classes: int
    on_host: bool

    def logits(self, window: Size) -> int:
        """Numbers [K, h, w] of one window."""
        return self.classes * math.prod(-(-side // self.patch) for side in window)


class _Share(NamedTuple):
    """What one view of an image takes.

    Attributes:
        enlarged: to cover the window.
        windows: how many.
        logits: numbers of theirs.
        resized: numbers of each image that it is resized to on the way, fp32.
        bytes: of all that is resized.
    """

    enlarged: bool
    windows: int
    logits: int
    resized: list[int]
    bytes: int


class Need(NamedTuple):
    """The memory that a request takes.

    Attributes:
        name: of the request, for messages.
        bytes: of it all, in the host's memory.
        remedy: how it becomes smaller.
    """

    name: str
    bytes: int
    remedy: str

    def check(self) -> None:
        """See that memory holds it: what there is, where that is known.

        Of images that are held at once, each is looked at by itself.

        Raises:
            NotSupported: it does not.
        """
        if self.bytes > SMALL and (free := memory.available()) is not None and self.bytes > free:
            raise NotSupported(
                f"{self.name} takes {self.bytes / 1e9:.1f} GB of memory, of which {free / 1e9:.1f} GB are free; "
                f"{self.remedy}"
            )


def needed(size: Size, laid_out: Sequence[Size], protocol: Protocol, network: Network, fit: Size | None) -> Need:
    """What the views of an image take that are made, run and merged.

    Args:
        size: of the image.
        laid_out: sizes of its views, before they are enlarged to cover the window.
        fit: as of `Engine.segment`.

    Raises:
        NotSupported: they pass a limit; the message says how the request becomes smaller.
    """
    name = f"an image of {size[0]}×{size[1]}"
    remedy = f"take a smaller fit, or {_SMALLER}" if fit else _SMALLER
    remedy = f"leave multiscale out, or {remedy}" if len(laid_out) > 1 else remedy
    shares = [_share(size, view, protocol, network, fit is not None) for view in laid_out]
    if max(size) > RATIO * min(size) and any(share.enlarged for share in shares):
        h, w = protocol.working_size(laid_out[0])
        raise NotSupported(
            f"{name} would have to become one of {h}×{w} to cover the window, for which it may be at most {RATIO} "
            "times as long as wide; crop its long side, or pad its short one"
        )
    windows = sum(share.windows for share in shares)
    if windows > WINDOWS:
        raise NotSupported(
            f"{name} takes {windows:,} windows, more than {WINDOWS:,}; take a larger stride, or {remedy}"
        )
    logits = [share.logits for share in shares]
    _check_count(name, max(math.prod(size), *logits, *(number for share in shares for number in share.resized)), remedy)
    image = math.prod(size) * (CHANNELS + label_dtype(network.classes)().itemsize)
    # Those of a view are put together from those of its batches.
    held = FLOAT * (sum(logits) + max(logits)) if network.on_host else 0
    return Need(name, max(share.bytes for share in shares) + held + image, remedy)


def size_of(image: Any) -> Size | None:
    """(H, W) of a uint8 array or tensor [H, W, 3]; None for what must be read to be known, and for what is no image."""
    shape, dtype = getattr(image, "shape", ()), str(getattr(image, "dtype", ""))
    bytes_ = dtype.removeprefix("torch.") == "uint8"
    if not bytes_ or not isinstance(shape, tuple) or len(shape) != 3 or shape[2] != CHANNELS or 0 in shape:
        return None
    return int(shape[0]), int(shape[1])


def check_scores(size: Size, classes: int) -> None:
    """See that the scores [K, H, W] of an image can be had.

    Raises:
        NotSupported: they cannot.
    """
    name = f"every score of {classes} classes for an image of {size[0]}×{size[1]}"
    remedy = "make the image smaller, or cut it and ask for the scores of the parts"
    _check_count(name, classes * math.prod(size), remedy)
    Need(name, FLOAT * classes * math.prod(size), remedy).check()


def _share(size: Size, view: Size, protocol: Protocol, network: Network, rounded: bool) -> _Share:
    working = protocol.working_size(view)
    windows, extent = protocol.count(working)
    scaled, enlarged = (
        CHANNELS * math.prod(large) if large != small else 0 for small, large in ((size, view), (view, working))
    )
    # Rounding one to bytes makes two more of it on the way.
    taken = FLOAT * (scaled * (3 if rounded else 1) + enlarged)
    return _Share(working != view, windows, windows * network.logits(extent), [scaled, enlarged], taken)


def _check_count(name: str, numbers: int, remedy: str) -> None:
    """What the kernels count in 32 bits."""
    if numbers > MOST:
        raise NotSupported(f"{name} takes an array of {numbers:,} numbers, more than {MOST:,}; {remedy}")
