"""The figure of several models on one picture, with close-ups (Figure 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segfast.explain import style
from segfast.explain.comparison import Box, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from segfast.classes import Palette


def draw_comparison(found: Comparison, palette: Palette) -> Figure:
    """The picture and each model's answer in a row, and below it the close-ups of every column.

    The last column is where the models do not all agree.
    """
    from matplotlib.gridspec import GridSpec

    first = found.answers[0]
    H, W = first.image.shape[:2]
    labels = np.concatenate([answer.labels.ravel() for answer in found.answers])
    present = style.by_area(labels, len(first.classes))
    layers = [
        first.image,
        *(style.tint(first.image, answer.labels, palette) for answer in found.answers),
        _differing(found),
    ]
    columns, wide = len(layers), style.WIDTH / len(layers)
    ratios = [H / W, *(1.0 / max(1, len(found.boxes)) for _ in range(1 if found.boxes else 0))]
    figure = style.new_figure(style.WIDTH, wide * sum(ratios) + 0.42)
    style.tighten(figure)
    per = max(1, len(found.boxes))
    grid = GridSpec(len(ratios), columns * per, figure=figure, height_ratios=ratios)
    names = ("picture", *found.names, "not all agree")
    for column, (layer, name) in enumerate(zip(layers, names, strict=True)):
        axes = figure.add_subplot(grid[0, column * per : (column + 1) * per])
        style.show(axes, style.reduced(layer), size=(H, W))
        _title(figure, axes, name, wide)
        for place, box in enumerate(found.boxes):
            colour = _COLOURS[place % len(_COLOURS)]
            _frame(axes, box, colour)
            close = figure.add_subplot(grid[1, column * per + place])
            style.show(close, layer[box.slices])
            for spine in close.spines.values():
                spine.set(edgecolor=colour, linewidth=1.4)
    style.legend(figure, present, first.classes, palette)
    return figure


def _title(figure: Figure, axes: Axes, name: str, wide: float) -> None:
    """A name above a picture that is so many inches wide, in smaller letters if it would not fit."""
    title = axes.set_title(name, pad=3)
    room = 0.95 * wide * figure.dpi / title.get_window_extent().width
    title.set_fontsize(float(title.get_fontsize()) * min(1.0, room))


_COLOURS = (style.MARK, "#ff9d00", "#ff4dd8")


def _differing(found: Comparison) -> np.ndarray:
    """The picture in grey, red where the models do not all agree."""
    grey = (style.grey(found.answers[0].image)[..., None] * 0.6 + 90).repeat(3, 2).astype(np.uint8)
    grey[found.disagreement] = (235, 30, 45)
    return grey


def _frame(axes: Axes, box: Box, colour: str) -> None:
    from matplotlib.patches import Rectangle

    for edge, line in (("black", 2.0), (colour, 1.2)):
        axes.add_patch(Rectangle((box.left, box.top), box.side, box.side, fill=False, edgecolor=edge, linewidth=line))
