"""A contact sheet: masks over their pictures, to look at before a model is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segfast.datasets.base import IGNORE, Dataset
from segfast.errors import BadData, BadImage
from segfast.pictures.fonts import drawable, legend_name
from segfast.pictures.legend import legend_lines

SIDE, GAP, TEXT, COLUMNS = 260, 10, 15, 4  # pixels, and tiles in a row
INK, PALE, PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)
_IGNORED = (0, 0, 0)
_STRENGTH = 0.55  # of a mask's colour over the picture


def draw(splits: Sequence[Dataset], shown: int) -> Image.Image:
    """Pictures of every split, evenly chosen, under their masks; what is ignored is hatched in black; a legend below."""
    tiles = [_tile(dataset, index) for dataset in splits for index in _chosen(len(dataset), shown)]
    columns = max(1, min(COLUMNS, len(tiles)))
    step, rise = SIDE + GAP, SIDE + TEXT + 2 * GAP
    legend = _legend(splits[0], columns * step + GAP)
    top = -(-len(tiles) // columns) * rise + GAP
    sheet = Image.new("RGB", (columns * step + GAP, top + legend.height), PAPER)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (GAP + place % columns * step, GAP + place // columns * rise))
    sheet.paste(legend, (0, top))
    return sheet


def over(image: NDArray[np.uint8], labels: NDArray[np.uint8], palette: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """A picture [H, W, 3] under the colours of its labels [H, W]; what is ignored is hatched."""
    colours = np.zeros((256, 3), np.float32)
    colours[: len(palette)] = palette
    mixed = (1 - _STRENGTH) * image + _STRENGTH * colours[labels]
    y, x = np.indices(labels.shape)
    ignored = labels == IGNORE
    mixed[ignored] = image[ignored]
    width = max(2, max(labels.shape) // 80)
    mixed[ignored & ((x + y) // width % 3 == 0)] = _IGNORED
    return mixed.round().astype(np.uint8)


def _chosen(count: int, shown: int) -> list[int]:
    return sorted({round(index) for index in np.linspace(0, count - 1, min(shown, count))})


def _tile(dataset: Dataset, index: int) -> Image.Image:
    """A picture with its mask and its name; a faulty sample says so."""
    tile = Image.new("RGB", (SIDE, SIDE + TEXT + GAP), PAPER)
    name = f"{dataset.split}: {dataset.key(index)}"
    try:
        image, labels = dataset.image(index), dataset.labels(index)
        if image.shape[:2] != labels.shape:
            raise BadData("sizes differ")
        picture = Image.fromarray(over(image, labels, dataset.palette))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        tile.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    except (BadData, BadImage):
        ImageDraw.Draw(tile).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=(235, 30, 45))
        name = f"FAULTY {name}"
    _write(tile, name)
    return tile


def _write(tile: Image.Image, text: str) -> None:
    """One line below the picture, cut at its beginning where it is too long."""
    text, font = drawable(text, TEXT)
    while len(text) > 1 and font.getlength(text) > SIDE:
        text = text[1:]
    ImageDraw.Draw(tile).text((0, SIDE + 4), text, fill=INK, font=font)


def _legend(dataset: Dataset, width: int) -> Image.Image:
    """A swatch and a name for every class, in lines."""
    entries = [
        (*legend_name(name, index, TEXT), colour)
        for index, (name, colour) in enumerate(zip(dataset.classes, dataset.palette, strict=True))
    ]
    entries.append((*drawable("ignored (hatched)", TEXT), _IGNORED))
    return legend_lines(entries, width, TEXT, GAP)
