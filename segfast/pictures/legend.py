"""Legends of classes: in columns beside an overlay, with shares, and in lines below a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segfast.classes import Names, Palette
from segfast.pictures.fonts import Font, legend_name


def with_legend(
    picture: Image.Image, shares: Sequence[tuple[int, float]], classes: Names, palette: Palette
) -> Image.Image:
    """The picture, and on its right a legend of classes, given as (label, share of the image)."""
    size = int(np.clip(picture.height / 28, 12, 48))  # of the text, in pixels
    font = ImageFont.load_default(size)
    rows = [
        _Row(*legend_name(classes[label], label, size), f"  {_percent(share)}", palette[label])
        for label, share in shares
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


def legend_lines(entries: Sequence[tuple[str, Font, Sequence[int]]], width: int, size: int, gap: int) -> Image.Image:
    """A swatch and a name for every entry, in as many lines as a picture of that width takes.

    Args:
        entries: (name, a font that has its letters, RGB colour).
        size, gap: height of the text, and room around it, in pixels.
    """
    places, left, line = [], gap, 0
    for name, font, _ in entries:
        room = size + 6 + int(font.getlength(name)) + 2 * gap
        if left > gap and left + room > width:
            left, line = gap, line + 1
        places.append((left, line * (size + gap)))
        left += room
    legend = Image.new("RGB", (width, (line + 1) * (size + gap) + gap), "white")
    pen = ImageDraw.Draw(legend)
    for (name, font, colour), (x, y) in zip(entries, places, strict=True):
        pen.rectangle((x, y, x + size, y + size), fill=tuple(colour), outline=(110, 110, 110))
        pen.text((x + size + 6, y + size / 2), name, fill=(30, 30, 30), font=font, anchor="lm")
    return legend


class _Row(NamedTuple):
    """A class in the legend: its name in a font that has the letters, its share in Pillow's own."""

    name: str
    font: Font
    share: str
    colour: tuple[int, int, int]

    def width(self, font: Font) -> float:
        """In pixels; `font` is that of the share."""
        return self.font.getlength(self.name) + font.getlength(self.share)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.00095 else "<0.1%"
