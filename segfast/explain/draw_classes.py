"""The figure of class embeddings: a map of the classes, and their similarities (Figure 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.explain import style
from segfast.explain.embeddings import ClassEmbeddings
from segfast.pictures.fonts import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from segfast.classes import Palette

# With more classes than these, dots and names are smaller, and the two parts stand below each other.
_FEW = 40


def draw_embeddings(found: ClassEmbeddings, palette: Palette, name: str) -> Figure:
    """The class embeddings in the plane of their two largest singular directions, and the cosines of any two.

    Beyond 40 classes the two stand below each other. The matrix is sorted so that similar classes are neighbours.
    """
    K = len(found.classes)
    tall = K > _FEW
    figure = style.new_figure(style.WIDTH, 12.5 if tall else 3.6)
    plane, matrix = figure.subplots(2, 1, height_ratios=(1, 1)) if tall else figure.subplots(1, 2)
    _draw_plane(figure, plane, found, palette)
    plane.set_title(f"class embeddings of {name}", loc="left")
    _draw_similarity(figure, matrix, found)
    return figure


def _draw_plane(figure: Figure, axes: Axes, found: ClassEmbeddings, palette: Palette) -> None:
    x, y = found.plane.T
    colours = np.array(palette) / 255
    axes.axhline(0, color="#dddddd", linewidth=0.5, zorder=0)
    axes.axvline(0, color="#dddddd", linewidth=0.5, zorder=0)
    few = len(found.classes) <= _FEW
    axes.scatter(x, y, s=26 if few else 12, c=colours, edgecolors=style.INK, linewidths=0.4, zorder=3)
    axes.margins(0.14 if few else 0.06)
    axes.set_xlabel(f"first singular direction ({found.explained[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({found.explained[1]:.0%})")
    axes.spines[["top", "right"]].set_visible(False)
    place_names(figure, axes, found, 7.5 if few else 5.5)


def place_names(figure: Figure, axes: Axes, found: ClassEmbeddings, size: float) -> None:
    """A name beside each dot, on the side where it covers fewest dots and names placed before it."""
    figure.draw_without_rendering()  # the axes get their place
    dots = axes.transData.transform(found.plane)
    taken = [np.array((x - 4, y - 4, x + 4, y + 4)) for x, y in dots]
    frame, point = np.asarray(axes.get_window_extent().extents), figure.dpi / 72
    for place, dot, name in zip(found.plane, dots, found.classes, strict=True):
        text = axes.annotate(one_line(name), (place[0], place[1]), (0, 0), textcoords="offset points", fontsize=size)
        extent = text.get_window_extent()
        boxes = [_box(dot, side, extent.width, extent.height, 5 * point) for side in _SIDES]
        others = np.array(taken)
        costs = [_covered(box, others) + 10 * _outside(box, frame) for box in boxes]
        best = int(np.argmin(costs))
        x, y = (boxes[best][:2] - dot) / point
        text.set_position((x, y))
        taken.append(boxes[best])


# Where a name may stand: its middle to the right of the dot, to its left, above, …
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def _box(
    dot: NDArray[np.float64], side: tuple[int, int], width: float, height: float, away: float
) -> NDArray[np.float64]:
    """(left, bottom, right, top) of a text on one side of a dot, in pixels."""
    across, along = side
    away = away if not (across and along) else 0.6 * away
    left = dot[0] + (away if across > 0 else -away - width if across < 0 else -width / 2)
    bottom = dot[1] + (away if along > 0 else -away - height if along < 0 else -height / 2)
    return np.array((left, bottom, left + width, bottom + height))


def _covered(box: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The area that a box shares with others [n, 4]."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.maximum(sides, 0), axis=1).sum())


def _outside(box: NDArray[np.float64], frame: NDArray[np.float64]) -> float:
    """How far a box leaves a frame."""
    return float(np.maximum(frame[:2] - box[:2], 0).sum() + np.maximum(box[2:] - frame[2:], 0).sum())


def _draw_similarity(figure: Figure, axes: Axes, found: ClassEmbeddings) -> None:
    order = neighbours_first(found.similarity)
    picture = axes.imshow(
        found.similarity[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
    )
    bar = figure.colorbar(picture, cax=axes.inset_axes((1.03, 0, 0.045, 1)))
    bar.set_label("cosine similarity")
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    names, places = [one_line(found.classes[index]) for index in order], np.arange(len(order))
    small = 7 if len(order) <= _FEW else 3.4
    axes.set_xticks(places, names, rotation=90, fontsize=small)
    axes.set_yticks(places, names, fontsize=small)
    axes.tick_params(length=0, pad=2)


def neighbours_first(similarity: NDArray[np.float64]) -> list[int]:
    """The classes in an order in which each is followed by the one most similar to it of those that are left."""
    left = list(range(1, len(similarity)))
    order = [0]
    while left:
        nearest = max(left, key=lambda label: similarity[order[-1], label])
        left.remove(nearest)
        order.append(nearest)
    return order
