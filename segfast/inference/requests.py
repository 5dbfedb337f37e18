"""What goes into the network and what comes out: images laid out in views and windows, and the logits of those.

The paper's protocol (section 4.2): an image is one view of itself, or twelve in multi-scale; a view is covered with
windows, which the network sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segfast import kernels
from segfast.errors import NotSupported
from segfast.inference import limits
from segfast.kernels.merge import Windows
from segfast.kernels.reference import Labels
from segfast.pictures.arrays import Pixels
from segfast.processes import forks
from segfast.protocol import Protocol, Size, views
from segfast.runtimes import Lane, to_bytes


class Placement(NamedTuple):
    """Where one view of an image comes from, and where its windows lie.

    Attributes:
        size: the image is resized to, before it is enlarged to `working`, the size that covers the window.
        origins: (top, left) of the windows in it.
        window: their size.
        padded: the size that their logits stand for.
    """

    size: Size
    mirrored: bool
    working: Size
    origins: tuple[Size, ...]
    window: Size
    padded: Size


class Layout(NamedTuple):
    """How images of one size are laid out.

    Attributes:
        need: the memory that a request for them takes; None where it is no more than the image.
    """

    placements: tuple[Placement, ...]
    need: limits.Need | None = None


@lru_cache(8)
def lay_out(size: Size, multiscale: bool, protocol: Protocol, fit: Size | None, network: limits.Network) -> Layout:
    """The views of images of a size and their windows; those of the last few sizes are remembered.

    Raises:
        NotSupported: they pass a limit.
    """
    laid_out = views(size, multiscale, fit)
    need = limits.needed(size, [view for view, _ in laid_out], protocol, network, fit)
    placements = []
    for view, mirrored in laid_out:
        working = protocol.working_size(view)
        origins, window = protocol.windows(working)
        padded = protocol.padded(window, network.patch)
        placements.append(Placement(view, mirrored, working, origins, window, padded))
    return Layout(tuple(placements), need)


def whole_window(size: Size, window: Size, multiscale: bool, fit: Size | None) -> Layout:
    """The layout of an image for a network that gives labels: of exactly one window.

    Raises:
        NotSupported: the image is of another size, or more than itself is asked for.
    """
    view, H, W = views(size, multiscale, fit)[0][0], *window
    if multiscale or size != window or view != size:
        asked = "multi-scale scores" if multiscale else f"an image of {size[0]}×{size[1]}"
        asked += f" resized to {view[0]}×{view[1]}" if view != size and not multiscale else ""
        raise NotSupported(
            f"this artifact gives labels of exactly {H}×{W} pixels, not {asked}; export the model for any size: "
            "python -m segfast.export --output logits, with the same --model or --weights"
        )
    return Layout((Placement(size, False, size, ((0, 0),), size, size),))


class View(NamedTuple):
    """One view of an image, as its windows are cut from it.

    Attributes:
        image: [H, W, 3] in 0 … 255: uint8, float32 where it was resized.
        origins: (top, left) of its windows.
        window: their size.
        padded: the size that their logits stand for.
    """

    image: NDArray[Any]
    origins: tuple[Size, ...]
    window: Size
    padded: Size
    mirrored: bool

    def windows(self) -> list[NDArray[Any]]:
        """The windows [h, w, 3]; they share the view's memory."""
        h, w = self.window
        return [self.image[y : y + h, x : x + w] for y, x in self.origins]


class Request:
    """An image that is ready for the network. It may be run again and again, by any thread of its process.

    A single view is resized at once, the many of a multi-scale request each time their turn comes.

    Args:
        rounded: resized views are rounded to bytes before they are enlarged, as the original's evaluation does
            with datasets' pictures.
        as_bytes: the network takes bytes, so that views are rounded to them at once.
        threads: for resizing.
        bytes_needed: as `limits.Need` counts them; None where it is no more than the image.
        owner: the Engine's token.

    Attributes:
        pixels: RGB [H, W, 3], uint8, at the image's own size.
        bytes_needed: the memory that it takes in all, until it is merged.
    """

    def __init__(
        self,
        pixels: Pixels,
        placements: Sequence[Placement],
        owner: object,
        *,
        rounded: bool = False,
        as_bytes: bool = False,
        threads: int | None = None,
        bytes_needed: int | None = None,
    ):
        self.pixels, self.owner = pixels, owner
        self.bytes_needed = pixels.nbytes if bytes_needed is None else bytes_needed
        self._placements, self._rounded, self._as_bytes, self._threads = placements, rounded, as_bytes, threads
        self._single = [self._view(placements[0])] if len(placements) == 1 else None

    def __len__(self) -> int:
        """How many views it has."""
        return len(self._placements)

    def __iter__(self) -> Iterator[View]:
        """The views. By `map`, which lets go of each before it makes the next."""
        return iter(self._single) if self._single else map(self._view, self._placements)

    @property
    def window_count(self) -> int:
        """How many windows all views have."""
        return sum(len(placement.origins) for placement in self._placements)

    def __reduce__(self) -> str:
        raise NotSupported("a request stays in its process; send the image, and prepare it there")

    def _view(self, placement: Placement) -> View:
        image = resize(self.pixels, placement.size, self._threads)
        image = resize(to_bytes(image) if self._rounded else image, placement.working, self._threads)
        image = to_bytes(image) if self._as_bytes else image
        image = image[:, ::-1] if placement.mirrored else image
        return View(image, placement.origins, placement.window, placement.padded, placement.mirrored)


class Result(NamedTuple):
    """What the network gave for an image. It may be merged at any time, by any thread of its process, whatever runs next.

    Results of images that shared a batch share its memory, and a result keeps its lane.

    Attributes:
        pixels: of the image.
        views: logits of the windows of each view, where they were computed: arrays; or tensors on a GPU, perhaps still
            on their way, and so for `merge` and `lane.fetch` alone to read.
        labels: [H, W], where the network gives those; then there are no views.
        lane: which computed it.
        owner: the Engine's token.
    """

    pixels: Pixels
    views: Sequence[Windows]
    labels: Labels | None
    lane: Lane
    owner: object

    def __reduce__(self) -> str:
        raise NotSupported("a result stays in its process; merge it there, and send the Segmentation")


def resize(image: NDArray[Any], size: Size, threads: int | None = None) -> NDArray[Any]:
    """Bilinear [H, W, 3] → [*size, 3], float32 in the same range; the image itself if it has that size."""
    if image.shape[:2] == size:
        return image
    with forks.running():  # the first time its loops are compiled
        result: NDArray[np.float32] = kernels.resize(image, size, threads=threads)
    return result
