"""What the figures share: type, sizes, how pictures are laid on them, and how they become PNG."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfast import files
from segfast.dependencies.imports import need
from segfast.pictures.fonts import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

    from segfast.classes import Palette

DPI = 200
WIDTH = 7.0  # inches: the text of a two-column paper
_WIDEST = 1.75  # inches of one picture among others
INK, PALE = "#222222", "#767676"
MARK = "#00e5ff"  # on photos
DOT = "#3b6fb6"  # where colours stand for nothing
_MOST_PIXELS = 900  # a picture's long side in a figure; print shows no more of it


@contextmanager
def drawing() -> Iterator[None]:
    """A block in which Matplotlib draws as these figures ask, whatever the user's matplotlibrc says.

    Raises:
        MissingRuntime: Matplotlib is not installed.
    """
    need("train", "matplotlib")
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": 8,
                "axes.titlesize": 8,
                "axes.labelsize": 8,
                "axes.edgecolor": INK,
                "axes.linewidth": 0.6,
                "text.color": INK,
                "text.parse_math": False,
                "legend.frameon": False,
                "legend.fontsize": 7.5,
                "xtick.labelsize": 7.5,
                "ytick.labelsize": 7.5,
                "savefig.dpi": DPI,
            }
        )
        yield


def new_figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """An empty figure of about so many inches, laid out by its content; empty margins are cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def panels(rows: int, columns: int, ratio: float, *, extra: float = 0.0) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of pictures, all `ratio` = height / width, as wide as the text unless they are few.

    Args:
        extra: height in inches that titles, bars and legends take.
    """
    width = min(WIDTH, columns * _WIDEST)
    figure = new_figure(width, rows * (width / columns) * ratio + extra, "compressed")
    tighten(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in grid]


def tighten(figure: Figure) -> None:
    """Leave little room between the parts of a figure."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.02, h_pad=0.025, wspace=0.01, hspace=0.01)


def show(
    axes: Axes,
    picture: NDArray[np.generic],
    *,
    size: tuple[int, int] | None = None,
    colours: str | None = None,
    limits: tuple[float, float] = (0, 1),
) -> None:
    """A picture, or a map in `colours`, on axes without ticks, in the coordinates of its own pixels.

    Args:
        size: (height, width), whose coordinates are used instead.
        limits: values of a map that the first and the last colour stand for.
    """
    H, W = size or (picture.shape[0], picture.shape[1])
    axes.imshow(picture, extent=(0, W, H, 0), interpolation="antialiased", cmap=colours, vmin=limits[0], vmax=limits[1])
    axes.set(xlim=(0, W), ylim=(H, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)


def reduced(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photo, no larger than a figure shows."""
    H, W = pixels.shape[:2]
    scale = _MOST_PIXELS / max(H, W)
    if scale >= 1:
        return pixels
    size = max(1, round(W * scale)), max(1, round(H * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def tint(
    pixels: NDArray[np.uint8], labels: NDArray[np.integer], palette: Palette, opacity: float = 0.7
) -> NDArray[np.uint8]:
    """A photo in grey under the colours of its classes, which white lines part, uint8 [H, W, 3].

    The photo's own colours would change those of the classes, and the lines show where two similar colours meet.
    """
    colours = np.array(palette, np.uint8)[labels]
    behind = Image.fromarray(grey(pixels)).convert("RGB")
    tinted = np.array(Image.blend(behind, Image.fromarray(colours), opacity))
    tinted[_outlines(labels, max(1, round(max(labels.shape) / _MOST_PIXELS)))] = 255
    return tinted


def _outlines(labels: NDArray[np.integer], thickness: int) -> NDArray[np.bool_]:
    """Where classes meet, in lines of that many pixels above and left of it, [H, W]."""
    lines = np.zeros(labels.shape, bool)
    for shift in range(1, thickness + 1):
        lines[:-shift] |= labels[:-shift] != labels[shift:]
        lines[:, :-shift] |= labels[:, :-shift] != labels[:, shift:]
    return lines


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photo in grey, uint8 [H, W]."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def legend(figure: Figure, labels: Sequence[int], classes: Sequence[str], palette: Palette) -> None:
    """The names and colours of classes below everything else."""
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=_unit(palette[label]), edgecolor=PALE, linewidth=0.4, label=one_line(classes[label]))
        for label in labels
    ]
    columns = legend_columns(figure, classes, labels)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=1.1, handleheight=1.1)


def _unit(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def legend_columns(figure: Figure, classes: Sequence[str], labels: Sequence[int]) -> int:
    """How many of the names stand beside each other, in as few lines as they fit in, all about as long."""
    widest = max((len(classes[label]) for label in labels), default=1)
    fit = max(1, int(figure.get_figwidth() / (0.45 + 0.065 * widest)))
    lines = max(1, -(-len(labels) // fit))
    return max(1, -(-len(labels) // lines))


def save(figure: Figure, path: str | os.PathLike[str], dpi: int = DPI) -> None:
    """Write a figure as PNG, atomically.

    Raises:
        BadOption: the name has another suffix.
        CannotWrite: the destination is full, read-only or missing.
    """
    files.check_suffix(path, ".png")
    with files.publish(path) as temporary:
        figure.savefig(
            temporary, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.03, metadata={"Software": None}
        )


def resized(values: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map [H, W] at the size of a figure's photo, averaged where it becomes smaller."""
    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def by_area(labels: NDArray[np.integer], count: int) -> list[int]:
    """The labels that are there, of `count` classes, the most frequent first."""
    areas = np.bincount(labels.ravel(), minlength=count)
    return [int(label) for label in np.argsort(-areas, kind="stable") if areas[label]]


def head_colours(count: int) -> NDArray[np.float64]:
    """A colour for each head."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.05, 0.9, count))


def bar(
    figure: Figure,
    axes: list[Axes],
    colours: str,
    label: str,
    limits: tuple[float, float] = (0, 1),
    ends: tuple[str, str] | None = None,
) -> None:
    """What colours mean, below all axes; with `ends` in words."""
    meaning = _meaning(colours, limits)
    drawn = figure.colorbar(meaning, ax=axes, location="bottom", fraction=0.05, pad=0.02, aspect=50, shrink=0.5)
    _finish(drawn, label)
    if ends:
        drawn.set_ticks(list(limits), labels=list(ends))


def bar_below(figure: Figure, axes: Axes, colours: str, label: str) -> None:
    """What colours mean, from 0 to 1, right below one of several axes, which keeps its place among them."""
    place = axes.inset_axes((0.06, -0.1, 0.88, 0.04))
    drawn = figure.colorbar(_meaning(colours, (0, 1)), cax=place, orientation="horizontal")
    axes.set_xlabel("\n" * 3)  # the layout leaves room for labels, and for what is laid on it does not
    _finish(drawn, label)
    drawn.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])


def _meaning(colours: str, limits: tuple[float, float]) -> ScalarMappable:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(*limits), colours)


def _finish(drawn: Colorbar, label: str) -> None:
    drawn.outline.set_linewidth(0.4)  # type: ignore[operator]
    drawn.ax.tick_params(length=2, labelsize=7)
    drawn.set_label(label, fontsize=7.5)
