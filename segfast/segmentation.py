"""What an Engine gives for one image."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from segfast import files
from segfast.classes import Names, Palette
from segfast.errors import BadOption, NotSupported
from segfast.pictures.legend import with_legend

if TYPE_CHECKING:
    from segfast.kernels.reference import Labels


class Segmentation:
    """The labels of one image, at its own size.

    `np.asarray(segmentation)` is its labels. It can be pickled without its Engine: scores that are not computed
    yet are pickled as the logits they come from.

    Attributes:
        labels: class index of every pixel, [H, W], uint8 (uint16 for more than 256 classes).
        classes: K distinct names.
        palette: K RGB colours.
        image: the pixels that were segmented, uint8 [H, W, 3].
    """

    def __init__(
        self,
        labels: Labels,
        classes: Names,
        palette: Palette,
        image: NDArray[np.uint8],
        scores: Callable[[], NDArray[np.float32]] | None = None,
    ):
        self.labels = labels
        self.classes = classes
        self.palette = palette
        self.image = image
        self._compute_scores = scores
        self._scores: NDArray[np.float32] | None = None

    @property
    def scores(self) -> NDArray[np.float32]:
        """Softmax scores [K, H, W], fp32, averaged over the views; computed on first access.

        Until then the logits they come from are kept on the device that computed them: for each window of
        512×512 and 150 classes 0.3 MB on a GPU in half precision with patches of 16, 1.2 MB with 8, and twice
        that in fp32.

        Raises:
            NotSupported: the artifact gives labels only; or there are over 2^31 - 1024 scores, or more than
                memory holds.
        """
        compute = self._compute_scores  # taken first: another thread may drop it meanwhile
        if self._scores is None:
            if compute is None:
                raise NotSupported("this artifact gives labels only; export it with --output logits to get scores")
            self._scores = compute()
            self._compute_scores = None  # frees the logits
        return self._scores

    @property
    def areas(self) -> dict[str, float]:
        """Share of the image, 0 … 1, of every class present, largest first."""
        return {self.classes[label]: share for label, share in self._shares()}

    def overlay(self, *, opacity: float = 0.5, legend: bool = True) -> Image.Image:
        """The image tinted with the colours of its classes, beside a legend of those present, largest first.

        Args:
            opacity: of the colours, 0 … 1.

        Raises:
            BadOption: the opacity is out of range.
        """
        if not 0 <= opacity <= 1:
            raise BadOption(f"opacity must lie between 0 and 1; got {opacity!r}")
        colours = np.array(self.palette, np.uint8)[self.labels]  # [H, W, 3]
        picture = Image.blend(Image.fromarray(self.image), Image.fromarray(colours), opacity)
        return with_legend(picture, self._shares(), self.classes, self.palette) if legend else picture

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Write the labels as PNG with a palette: viewers show the colours, and readers get the labels.

        For more than 256 classes it is 16-bit grey.

        Args:
            path: a name that ends in `.png`, or a file open for writing bytes, such as `io.BytesIO()`.

        Raises:
            BadOption: the name has another suffix, or the file takes text.
            CannotWrite: the destination is full, read-only or missing.
        """
        files.write_png(self.picture(), path)

    def picture(self) -> Image.Image:
        """The labels as a picture with a palette; 16-bit grey for more than 256 classes."""
        picture = Image.fromarray(self.labels)
        if self.labels.dtype == np.uint8:
            picture.putpalette([channel for colour in self.palette for channel in colour])
        return picture

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        return np.array(self.labels, dtype, copy=copy)

    def __repr__(self) -> str:
        H, W = self.labels.shape
        shares = self._shares()
        largest = ", ".join(f"{self.classes[label]} {share:.0%}" for label, share in shares[:3])
        return f"Segmentation({H}×{W}, {len(shares)} of {len(self.classes)} classes: {largest})"

    def _shares(self) -> list[tuple[int, float]]:
        """(label, share of the image) of every class present, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return [(int(label), int(counts[label]) / self.labels.size) for label in order if counts[label]]
