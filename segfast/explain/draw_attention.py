"""The figures of attention: maps over the picture (Figures 1 and 6), and attended distance (Figure 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.explain import style
from segfast.explain.attention import AttentionMaps, Query
from segfast.explain.distance import Distances
from segfast.explain.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# This share of a map's pixels is below the lightest colour: single peaks would leave the rest dark.
_BRIGHT = 0.995


def draw_attention(found: AttentionMaps, *, each_head: bool = False) -> Figure:
    """A row for each query, a column for each layer; the first column marks the patch.

    Every map has its own scale, from none to its largest weights.

    Args:
        each_head: a row for each head of a query, rather than their mean.
    """
    photo, heads = style.reduced(found.view.pixels), found.heads if each_head else (None,)
    rows = [(query, head) for query in range(len(found.queries)) for head in range(len(heads))]
    H, W = found.view.pixels.shape[:2]
    figure, grid = style.panels(len(rows), 1 + len(found.layers), H / W, extra=0.5)
    for (query, head), line in zip(rows, grid, strict=True):
        name = _name(found.queries[query]) + ("" if heads[head] is None else f"\nhead {heads[head]}")
        _show_query(line[0], photo, found.view, found.queries[query], name)
        maps = found.maps[query, :, head] if each_head else found.maps[query].mean(1)  # [L, h, w]
        for axes, enlarged in zip(line[1:], found.view.enlarge(maps), strict=True):
            _show_map(axes, photo, enlarged)
    for axes, layer in zip(grid[0][1:], found.layers, strict=True):
        axes.set_title(f"{found.part} layer {layer}" if layer == found.layers[0] else f"layer {layer}", pad=3)
    every = [axes for line in grid for axes in line]
    style.bar(figure, every, "inferno", "", ends=("no attention", "the most in the map"))
    return figure


def _name(query: Query) -> str:
    return query if isinstance(query, str) else f"patch ({query[0]}, {query[1]})"


def _show_query(axes: Axes, photo: NDArray[np.uint8], view: View, query: Query, name: str) -> None:
    """The photo, with the patch marked; what has no place is only named."""
    from matplotlib.patches import Rectangle

    H, W = view.pixels.shape[:2]
    style.show(axes, photo, size=(H, W))
    axes.set_ylabel(name, labelpad=3, color=style.INK)
    if isinstance(query, str):
        return
    left, top, width, height = view.box(query)
    for colour, line in (("black", 2.4), (style.MARK, 1.2)):
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=line))


def _show_map(axes: Axes, photo: NDArray[np.uint8], enlarged: NDArray[np.float32]) -> None:
    """A map in colour; where it is dark, the photo's outlines shine through."""
    from matplotlib import colormaps

    size = enlarged.shape[0], enlarged.shape[1]
    scaled = np.clip(enlarged / max(float(np.quantile(enlarged, _BRIGHT)), 1e-12), 0, 1)
    small = style.resized(scaled, photo.shape[:2])
    colours = colormaps["inferno"](small)[..., :3]
    behind = style.grey(photo)[..., None] / 255 * 0.35
    style.show(axes, np.clip(colours + behind * (1 - small[..., None]), 0, 1), size=size)


def draw_distances(found: Distances, name: str) -> Figure:
    """A dot for each head at its layer, and their mean as a line (Figure 7); up to six heads have colours of their own."""
    layers, heads = found.pixels.shape
    figure = style.new_figure(4.6, 3.1)
    axes = figure.subplots()
    numbers = np.arange(1, layers + 1)
    few = heads <= 6
    for head, colour in enumerate(style.head_colours(heads) if few else [style.DOT] * heads):
        label = f"head {head + 1}" if few else None if head else "a head"
        axes.scatter(numbers, found.pixels[:, head], s=16, color=colour, label=label, zorder=3, linewidths=0)
    axes.plot(numbers, found.pixels.mean(1), color=style.INK, linewidth=0.9, label="mean of the heads", zorder=2)
    axes.set_xlabel("layer of the encoder")
    axes.set_ylabel("mean attention distance in input pixels")
    axes.set_ylim(0, 1.08 * max(1.0, float(found.pixels.max())))
    axes.set_xticks(numbers if layers <= 16 else numbers[::2])
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    pictures = "1 picture" if found.pictures == 1 else f"mean of {found.pictures} pictures"
    axes.set_title(f"{name}, {heads} heads, {pictures}{_sizes(found)}", loc="left")
    figure.legend(loc="outside lower center", ncols=4, handletextpad=0.3)
    return figure


def _sizes(found: Distances) -> str:
    """The one size of the pictures, if all have the same."""
    (height, width), *others = dict.fromkeys(found.sizes)
    return "" if others else f", seen at {height} × {width}"
