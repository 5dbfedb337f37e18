"""The figures of one picture's scores: a map for each class (equation 4), and the model's doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segfast.explain import style
from segfast.explain.scores import ScoreMaps
from segfast.pictures.fonts import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from segfast.classes import Palette

# Score maps of a figure at most, and the score that a class must reach somewhere for its map to be among them.
MOST, SEEN = 11, 0.25


def draw_masks(found: ScoreMaps) -> Figure:
    """The picture and the score maps of its most likely classes, by their mean score; those with nothing to see are left out."""
    photo = style.reduced(found.answer.image)
    H, W = found.answer.image.shape[:2]
    means = found.scores.mean((1, 2))
    ranked = np.argsort(-means, kind="stable")[:MOST].tolist()
    shown = [label for place, label in enumerate(ranked) if not place or found.scores[label].max() >= SEEN]
    rows = -(-(1 + len(shown)) // (4 if H / W < 1.2 else 6))
    columns = -(-(1 + len(shown)) // rows)
    figure, grid = style.panels(rows, columns, H / W, extra=0.5 + 0.18 * rows)
    cells = [axes for line in grid for axes in line]
    style.show(cells[0], photo, size=(H, W))
    cells[0].set_title("picture", pad=3)
    for axes, label in zip(cells[1:], shown, strict=False):
        small = style.resized(found.scores[label], photo.shape[:2])
        style.show(axes, small, size=(H, W), colours="viridis")
        axes.set_title(f"{one_line(found.answer.classes[label])}  {_percent(float(means[label]))}", pad=3)
    for axes in cells[1 + len(shown) :]:
        axes.set_axis_off()
    style.bar(figure, cells, "viridis", "softmax score (beside each name, its mean)")
    return figure


def draw_doubt(found: ScoreMaps, palette: Palette) -> Figure:
    """The picture, the prediction, and where the model was in doubt: entropy, and margin of the best two classes."""
    answer, photo = found.answer, style.reduced(found.answer.image)
    H, W = answer.image.shape[:2]
    present = style.by_area(answer.labels, len(answer.classes))
    figure, grid = style.panels(1, 4, H / W, extra=0.9)
    cells = [axes for line in grid for axes in line]
    style.show(cells[0], photo, size=(H, W))
    style.show(cells[1], style.reduced(style.tint(answer.image, answer.labels, palette)), size=(H, W))
    for axes, values, colours in ((cells[2], found.entropy, "magma"), (cells[3], found.margin, "magma_r")):
        style.show(axes, style.resized(values, photo.shape[:2]), size=(H, W), colours=colours)
    for axes, name in zip(cells, ("picture", "prediction", "entropy", "margin"), strict=True):
        axes.set_title(name, pad=3)
    style.bar(figure, cells[2], "magma", "share of log K")
    style.bar(figure, cells[3], "magma_r", "best score less the second")
    style.legend(figure, present, answer.classes, palette)
    return figure


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.0005 else "<0.1%"
