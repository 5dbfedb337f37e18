"""The figure of class embeddings: a map of the classes, and their similarities (Figure 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segfast.explain import style
from segfast.explain.embeddings import ClassEmbeddings
from segfast.pictures.fonts import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from segfast.classes import Palette

# With more classes than these, dots are smaller and the matrix has no names.
_FEW, _NAMED = 40, 60


def draw_embeddings(found: ClassEmbeddings, palette: Palette, name: str) -> Figure:
    """The class embeddings in the plane of their two largest singular directions, and the cosines of any two.

    Beyond 40 classes the two stand below each other, and the matrix is sorted so that similar classes are neighbours.
    """
    K = len(found.classes)
    tall = K > _FEW
    figure = style.new_figure(style.WIDTH, 12.5 if tall else 3.6)
    plane, matrix = figure.subplots(2, 1, height_ratios=(1, 1)) if tall else figure.subplots(1, 2)
    _draw_plane(plane, found, palette)
    plane.set_title(f"class embeddings of {name}", loc="left")
    _draw_similarity(figure, matrix, found)
    return figure


def _draw_plane(axes: Axes, found: ClassEmbeddings, palette: Palette) -> None:
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
    place_names(axes, found, 7.5 if few else 5.5)


def place_names(axes: Axes, found: ClassEmbeddings, size: float) -> None:
    """A name beside each dot, on the side where it covers fewest dots and names placed before it."""
    axes.figure.draw_without_rendering()
    dots = axes.transData.transform(found.plane)
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    taken = [np.array((x - 4, y - 4, x + 4, y + 4)) for x, y in dots]
    sides = [(5, 0, "left", "center"), (-5, 0, "right", "center"), (0, 5, "center", "bottom"), (0, -5, "center", "top"),
             (4, 4, "left", "bottom"), (-4, 4, "right", "bottom"), (4, -4, "left", "top"), (-4, -4, "right", "top")]  # fmt: skip
    frame = axes.get_window_extent().extents
    for (x, y), name in zip(found.plane, found.classes, strict=True):
        tried = []
        for dx, dy, across, along in sides:
            text = axes.annotate(
                one_line(name), (x, y), (dx, dy), textcoords="offset points", ha=across, va=along, fontsize=size
            )
            box = text.get_window_extent(renderer).extents
            outside = float(np.maximum(frame[:2] - box[:2], 0).sum() + np.maximum(box[2:] - frame[2:], 0).sum())
            tried.append((sum(_overlap(box, other) for other in taken) + 10 * outside, len(tried), text, box))
        tried.sort(key=lambda one: one[:2])
        for _, _, text, _ in tried[1:]:
            text.remove()
        taken.append(tried[0][3])


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(np.prod(np.maximum(sides, 0)))


def _draw_similarity(figure: Figure, axes: Axes, found: ClassEmbeddings) -> None:
    order = neighbours_first(found.similarity)
    picture = axes.imshow(found.similarity[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    bar = figure.colorbar(picture, cax=axes.inset_axes((1.03, 0, 0.045, 1)))
    bar.set_label("cosine similarity")
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    names, places = [one_line(found.classes[index]) for index in order], np.arange(len(order))
    small = 7 if len(order) <= _FEW else 3.4
    axes.set_xticks(places, names, rotation=90, fontsize=small)
    axes.set_yticks(places, names, fontsize=small)
    axes.tick_params(length=0, pad=2)


def neighbours_first(similarity: np.ndarray) -> list[int]:
    """The classes in an order in which each is followed by the one most similar to it of those that are left."""
    left = list(range(1, len(similarity)))
    order = [0]
    while left:
        nearest = max(left, key=lambda label: similarity[order[-1], label])
        left.remove(nearest)
        order.append(nearest)
    return order
