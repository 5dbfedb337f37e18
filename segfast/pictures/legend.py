"""The legend beside an overlay: a swatch, the name and the share of every class, in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segfast.pictures.fonts import Font, legend_name


class Entry(NamedTuple):
    """A class in the legend: its name, label, RGB colour, and share of the image, 0 … 1."""

    name: str
    label: int
    colour: tuple[int, int, int]
    share: float


def with_legend(picture: Image.Image, entries: Sequence[Entry]) -> Image.Image:
    """The picture, with a legend of these classes on its right."""
    size = int(np.clip(picture.height / 28, 12, 48))  # of the text, in pixels
    font = ImageFont.load_default(size)
    rows = [
        _Row(*legend_name(entry.name, entry.label, size), f"  {_percent(entry.share)}", entry.colour)
        for entry in entries
    ]
    line, margin = round(size * 1.6), round(size * 0.6)
    per_column = max(1, (picture.height - 2 * margin) // line)
    columns = [rows[start : start + per_column] for start in range(0, len(rows), per_column)]
    widths = [int(max(row.width(font) for row in column)) + size + 3 * margin for column in columns]
    width, height = picture.width + sum(widths) + margin, max(picture.height, line + 2 * margin)
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(picture)
    draw, left = ImageDraw.Draw(canvas), picture.width + margin
    for column, width in zip(columns, widths, strict=True):
        for place, row in enumerate(column):
            top, start = margin + place * line, left + size + margin
            draw.rectangle((left, top, left + size, top + size), fill=row.colour, outline="gray")
            draw.text((start, top + size / 2), row.name, fill="black", font=row.font, anchor="lm")
            share = start + row.font.getlength(row.name)
            draw.text((share, top + size / 2), row.share, fill="black", font=font, anchor="lm")
        left += width
    return canvas


class _Row(NamedTuple):
    """An entry as it is drawn: its name in a font that has the letters, its share in Pillow's own."""

    name: str
    font: Font
    share: str
    colour: tuple[int, int, int]

    def width(self, font: Font) -> float:
        """In pixels; `font` is that of the share."""
        return self.font.getlength(self.name) + font.getlength(self.share)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.00095 else "<0.1%"
