"""The answer of an Engine for one image."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segfast import files
from segfast.errors import BadOption, NotSupported
from segfast.pictures.text import legend_name

Labels = NDArray[np.unsignedinteger[Any]]


class Segmentation:
    """Labels of one image, at its own size.

    `np.asarray(segmentation)` is its labels. It can be pickled, and takes no Engine along: scores that were not
    computed yet travel as the logits they come from.

    Attributes:
        labels: class index of every pixel, [H, W], uint8 (uint16 over 256 classes).
        classes: K names, no two alike, so that they can be keys.
        palette: K RGB colours.
        image: the pixels that were segmented, uint8 [H, W, 3].
    """

    def __init__(
        self,
        labels: Labels,
        classes: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
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
        """Softmax scores [K, H, W], fp32, averaged over the views; computed when first asked for.

        Until then an answer keeps the logits they come from, on the device that computed them: for
        each window of 512×512 and 150 classes 0.3 MB on a GPU in half precision with patches of 16,
        1.2 MB with 8, and twice that in fp32.

        Raises:
            NotSupported: the artifact gives labels only; or there are over 2^31 - 1024 scores, or more than
                memory holds.
        """
        compute = self._compute_scores  # first: another thread may be done with it
        if self._scores is None:
            if compute is None:
                raise NotSupported("this artifact gives labels only; export it with --output logits to get scores")
            self._scores = compute()
            self._compute_scores = None  # the logits go
        return self._scores

    @property
    def areas(self) -> dict[str, float]:
        """Share of the image, 0 … 1, of every class that is present, largest first."""
        return {self.classes[label]: count / self.labels.size for label, count in self._counts()}

    def overlay(self, *, opacity: float = 0.5, legend: bool = True) -> Image.Image:
        """The image under the colours of its classes, beside a legend of those present, largest first.

        Args:
            opacity: of the colours, 0 … 1.

        Raises:
            BadOption: the opacity is outside that.
        """
        if not 0 <= opacity <= 1:
            raise BadOption(f"opacity must lie between 0 and 1; got {opacity!r}")
        colours = np.array(self.palette, np.uint8)[self.labels]  # [H, W, 3]
        picture = Image.blend(Image.fromarray(self.image), Image.fromarray(colours), opacity)
        return self._with_legend(picture) if legend else picture

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Write the labels as PNG: a palette image, so that viewers show the colours and readers get the labels.

        Over 256 classes it is 16-bit grey.

        Args:
            path: a name that ends in `.png`, or a file open for writing bytes, such as `io.BytesIO()`.

        Raises:
            BadOption: the name ends otherwise, or the file takes text.
            CannotWrite: the destination is full, read-only or missing.
        """
        picture = Image.fromarray(self.labels)
        if self.labels.dtype == np.uint8:
            picture.putpalette([channel for colour in self.palette for channel in colour])
        files.write_png(picture, path)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.labels, dtype, copy=copy)

    def __repr__(self) -> str:
        H, W = self.labels.shape
        counts = self._counts()
        shares = ", ".join(f"{self.classes[label]} {count / self.labels.size:.0%}" for label, count in counts[:3])
        return f"Segmentation({H}×{W}, {len(counts)} of {len(self.classes)} classes: {shares})"

    def _counts(self) -> list[tuple[int, int]]:
        """(label, pixels) of every class that is present, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return [(int(label), int(counts[label])) for label in order if counts[label]]

    def _with_legend(self, picture: Image.Image) -> Image.Image:
        size = int(np.clip(picture.height / 28, 12, 48))  # of the text, in pixels
        font = ImageFont.load_default(size)
        rows = [
            _Row(*legend_name(self.classes[label], label, size), f"  {_percent(count / self.labels.size)}", label)
            for label, count in self._counts()
        ]
        line, margin = round(size * 1.6), round(size * 0.6)
        per_column = max(1, (picture.height - 2 * margin) // line)
        columns = [rows[start : start + per_column] for start in range(0, len(rows), per_column)]
        widths = [int(max(row.width(font) for row in column)) + size + 3 * margin for column in columns]
        canvas = Image.new(
            "RGB", (picture.width + sum(widths) + margin, max(picture.height, line + 2 * margin)), "white"
        )
        canvas.paste(picture)
        draw, left = ImageDraw.Draw(canvas), picture.width + margin
        for column, width in zip(columns, widths, strict=True):
            for place, row in enumerate(column):
                top, start = margin + place * line, left + size + margin
                draw.rectangle((left, top, left + size, top + size), fill=self.palette[row.label], outline="gray")
                draw.text((start, top + size / 2), row.name, fill="black", font=row.font, anchor="lm")
                share = start + row.font.getlength(row.name)
                draw.text((share, top + size / 2), row.share, fill="black", font=font, anchor="lm")
            left += width
        return canvas


class _Row(NamedTuple):
    """A class in the legend: its name in a font that has the letters, and its share in Pillow's own."""

    name: str
    font: Any
    share: str
    label: int

    def width(self, font: Any) -> float:
        """In pixels, the share in `font`."""
        return float(self.font.getlength(self.name) + font.getlength(self.share))


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.00095 else "<0.1%"
