"""The figures of one picture's classes: their masks (equation 4), their scores, and the model's doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.explain import style
from segfast.explain.masks import ClassMasks
from segfast.explain.scores import ScoreMaps
from segfast.pictures.fonts import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from segfast.classes import Palette

# Maps of a figure at most, and the score that a class must reach somewhere for its map to be among them.
MOST, SEEN = 11, 0.25


def draw_masks(found: ClassMasks) -> Figure:
    """The picture and its class masks, first those of the classes whose cosines are the largest at most patches.

    All have one scale, to the largest cosine of the picture, whatever its sign.
    """
    shown = found.ranked()[:MOST]
    limit = float(np.abs(found.cosines).max()) or 1.0
    maps = [found.enlarged(label) for label in shown]
    titles = [one_line(found.classes[label]) for label in shown]
    return _maps(found.view.pixels, maps, titles, "RdBu_r", "cosine of patch and class", (-limit, limit))


def draw_scores(found: ScoreMaps) -> Figure:
    """The picture and the score maps of its most likely classes, by their mean score; those with nothing to see are left out."""
    means = found.scores.mean((1, 2))
    ranked = np.argsort(-means, kind="stable")[:MOST].tolist()
    shown = [label for place, label in enumerate(ranked) if not place or found.scores[label].max() >= SEEN]
    titles = [f"{one_line(found.answer.classes[label])}  {_percent(float(means[label]))}" for label in shown]
    maps = [found.scores[label] for label in shown]
    return _maps(found.answer.image, maps, titles, "viridis", "softmax score (beside each name, its mean)", (0, 1))


def _maps(
    pixels: NDArray[np.uint8],
    maps: Sequence[NDArray[np.float32]],
    titles: Sequence[str],
    colours: str,
    meaning: str,
    limits: tuple[float, float],
) -> Figure:
    """A picture and maps of its size in rows, above what their colours mean."""
    photo, (H, W), count = style.reduced(pixels), pixels.shape[:2], 1 + len(maps)
    rows = -(-count // (4 if H / W < 1.2 else 6))
    columns = -(-count // rows)
    figure, grid = style.panels(rows, columns, H / W, extra=0.5 + 0.18 * rows)
    cells = [axes for line in grid for axes in line]
    style.show(cells[0], photo, size=(H, W))
    for axes, values in zip(cells[1:], maps, strict=False):
        style.show(axes, style.resized(values, photo.shape[:2]), size=(H, W), colours=colours, limits=limits)
    for axes, title in zip(cells, ("picture", *titles), strict=False):
        axes.set_title(title, pad=3)
    for axes in cells[count:]:
        axes.set_axis_off()
    style.bar(figure, cells, colours, meaning, limits)
    return figure


def draw_doubt(found: ScoreMaps, palette: Palette) -> Figure:
    """The picture, the prediction, and where the model was in doubt: entropy, and margin of the best two classes."""
    answer, photo = found.answer, style.reduced(found.answer.image)
    H, W = answer.image.shape[:2]
    present = style.by_area(answer.labels, len(answer.classes))
    figure, grid = style.panels(1, 4, H / W, extra=1.1)
    cells = [axes for line in grid for axes in line]
    style.show(cells[0], photo, size=(H, W))
    style.show(cells[1], style.reduced(style.tint(answer.image, answer.labels, palette)), size=(H, W))
    for axes, values, colours in ((cells[2], found.entropy, "magma"), (cells[3], found.margin, "magma_r")):
        style.show(axes, style.resized(values, photo.shape[:2]), size=(H, W), colours=colours)
    for axes, name in zip(cells, ("picture", "prediction", "entropy", "margin"), strict=True):
        axes.set_title(name, pad=3)
    style.bar_below(figure, cells[2], "magma", "share of log K")
    style.bar_below(figure, cells[3], "magma_r", "best score less the second")
    style.legend(figure, present, answer.classes, palette)
    return figure


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.0005 else "<0.1%"
