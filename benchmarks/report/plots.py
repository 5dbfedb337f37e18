"""The pictures of a run: speed against mIoU, seconds against tokens, stages. PNG in memory, the same for the same run.

Readable in black and white: whose point it is shows in its marker, the precision in the line, the stage in its hatch.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.report import tables
from benchmarks.report.markdown import duration
from benchmarks.report.results import Column, Results, Stage, Timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
INK, PALE, ORANGE = "#222222", "#8a8a8a", "#D55E00"
# Okabe and Ito's palette, which the colour-blind tell apart.
COLOURS = {"": INK, "ONNX Runtime": "#0072B2", "OpenVINO": ORANGE, "PyTorch": "#009E73", "TensorRT": "#CC79A7"}
MARKERS = {"": "o", "ONNX Runtime": "s", "OpenVINO": "D", "PyTorch": "v", "TensorRT": "P"}
LINES = {"fp32": "-", "bf16": "--", "fp16": ":"}
#         stage: colour, hatch
STAGES = {
    "decode": ("#56B4E9", "///"),
    "resize": ("#F0E442", "..."),
    "network": ("#c9c9c9", ""),
    "merge": ("#E69F00", "xxx"),
}


def draw(results: Results) -> dict[str, bytes]:
    """The pictures that a run has rows for, by kind: `speed`, `scaling`, `stages`."""
    import matplotlib

    plotted = [row for row in results.models if row.paper_miou and (row.best or row.eager)]
    scaled = [
        row for row in results.scaling if row.tokens and row.patch and any(c.seconds for c in row.columns.values())
    ]
    staged = [stage for stage in results.stages if sum(_parts(stage.seconds).values()) > 0]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not what the user's matplotlibrc says
        matplotlib.rcParams.update({"font.size": 9, "hatch.linewidth": 0.6, "text.parse_math": False})
        figures = {
            "speed": speed(results, plotted) if plotted else None,
            "scaling": scaling(results, scaled) if scaled else None,
            "stages": stages(results, staged) if staged else None,
        }
        return {kind: _png(figure) for kind, figure in figures.items() if figure}


def speed(results: Results, rows: Sequence[Timed]) -> Figure:
    """The paper's Figure 4: images per second against mIoU, its points beside ours, a line for each model."""
    rows = _largest_batches(rows)
    figure, (axes,) = _figure(8.4, 5.2)
    batch = "batch 1" if all(row.batch == 1 for row in rows) else "largest batch"
    series = {
        f"eager fp32, {batch}": ("o", "white", INK, [(row.eager, row) for row in rows]),
        f"segfast, its fastest, {batch}": ("D", ORANGE, ORANGE, [(row.best, row) for row in rows]),
    }
    for row in rows:
        xs = [*row.paper_speeds, *(c.images_per_second for c in (row.eager, row.best) if c and c.images_per_second)]
        axes.plot([min(xs), max(xs)], [row.paper_miou or 0] * 2, color=PALE, linewidth=0.5, alpha=0.6, zorder=1)
    for title, (marker, face, edge, points) in series.items():
        known = [(column.images_per_second, row.paper_miou) for column, row in points if column]
        axes.plot(*_columns(known), marker, label=title, markerfacecolor=face, markeredgecolor=edge, markersize=6)
    paper = [(value, row.paper_miou) for row in rows for value in row.paper_speeds]
    if paper:
        axes.plot(
            *_columns(paper), "^", label="the paper, V100, largest batch", color=COLOURS["ONNX Runtime"], markersize=7
        )
    axes.set_xscale("log")
    sizes = ", ".join(f"{size}×{size}" for size in sorted({row.size for row in rows}))
    axes.set_xlabel(f"images per second, {sizes}")
    axes.set_ylabel("mIoU of the paper, single scale, ADE20K")
    figure.suptitle(results.device["name"], fontsize=10)
    _plain_ticks(axes.xaxis)
    _legend_above(axes)
    _names_at_right(axes, {tables.name(row, rows): row.paper_miou or 0 for row in rows})
    return figure


def scaling(results: Results, rows: Sequence[Timed]) -> Figure:
    """Milliseconds of an image against tokens, a panel for each patch; the legend has the fitted exponents."""
    from matplotlib.ticker import LogLocator

    patches = sorted({row.patch for row in rows if row.patch}, reverse=True)
    columns = {name: column for row in rows for name, column in row.columns.items() if column.seconds}
    figure, panels = _figure(10.4, 4.6, len(patches))
    for axes, patch in zip(panels, patches, strict=True):
        for name, column in sorted(columns.items(), key=lambda item: item[1].place):
            known = [(row, row.columns[name]) for row in rows if row.patch == patch and name in row.columns]
            points = sorted(
                (row.tokens, 1e3 * of.seconds / row.batch) for row, of in known if row.tokens and of.seconds
            )
            axes.plot(*_columns(points), label=_exponents(results, column, patches), **_style(column))
        axes.set(yscale="log", title=f"patch {patch}", xlabel="tokens")
        axes.set_xscale("log", base=4)
        axes.grid(which="major", alpha=0.3)
        _plain_ticks(axes.xaxis)
        _plain_ticks(axes.yaxis)
    low, high = panels[0].get_ylim()
    if high < 300 * low:  # a tick a decade would be too few
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].set_ylabel("milliseconds of an image")
    title = f"exponent at patch {', '.join(map(str, patches))}" if results.exponents else None
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, title=title, fontsize=8
    )
    figure.suptitle(f"{results.device['name']}: {', '.join(sorted({row.model for row in rows}))}", fontsize=10)
    return figure


def stages(results: Results, rows: Sequence[Stage]) -> Figure:
    """A bar for each photo: its stages as shares of their sum, the numbers above."""
    figure, (axes,) = _figure(8.4, 1.3 + 0.62 * len(rows))
    for place, stage in enumerate(rows):
        parts = _parts(stage.seconds)
        whole, left = sum(parts.values()), 0.0
        for kind, seconds in parts.items():
            colour, hatch = STAGES[kind]
            share = seconds / whole
            axes.barh(
                place,
                share,
                0.42,
                left,
                color=colour,
                hatch=hatch,
                edgecolor=INK,
                linewidth=0.6,
                label=kind if not place else None,
            )
            left += share
        told = " · ".join(f"{kind} {duration(seconds)}" for kind, seconds in parts.items())
        total = stage.seconds.get("total", whole)
        axes.text(0, place - 0.27, told, va="bottom", fontsize=8, color=INK)
        axes.text(1, place - 0.27, f"total {duration(total)}", va="bottom", ha="right", fontsize=8, weight="bold")
    axes.set_yticks(range(len(rows)), [stage.id for stage in rows])
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.6, -0.75))
    figure.suptitle(results.device["name"], fontsize=10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=len(STAGES), frameon=False, handlelength=2.5)
    return figure


def _parts(seconds: dict[str, float]) -> dict[str, float]:
    return {kind: seconds.get(kind, 0.0) for kind in STAGES}


def _largest_batches(rows: Sequence[Timed]) -> list[Timed]:
    """A row for each model: that of the largest batch, as the paper's."""
    best: dict[str, Timed] = {}
    for row in rows:
        if row.model not in best or row.batch > best[row.model].batch:
            best[row.model] = row
    return list(best.values())


def _exponents(results: Results, column: Column, patches: Sequence[int]) -> str:
    """A column's title, with how its seconds grow at each patch."""
    found = results.exponents.get(column.name, {})
    told = [f"{found[key]:.2f}" if (key := f"patch {patch}") in found else "–" for patch in patches]
    return f"{column.title}:  {', '.join(told)}" if found else column.title


def _style(column: Column) -> dict[str, Any]:
    """Colour and marker tell the runtime, the line the precision, a filled marker what is ours."""
    colour = COLOURS[column.runtime] if column.runtime or column.stock else (INK if "eager" in column.name else PALE)
    return {
        "color": colour,
        "marker": MARKERS[column.runtime],
        "linestyle": LINES.get(column.precision, "-."),
        "linewidth": 1.4 if column.ours else 0.9,
        "markersize": 5,
        "markerfacecolor": colour if column.ours else "white",
    }


def _names_at_right(axes: Axes, heights: dict[str, float]) -> None:
    """Names beside the right edge, at their heights as far as they do not overlap, with a line to where they belong."""
    low, high = min(heights.values()), max(heights.values())
    room = (high - low or 1.0) * 0.06
    axes.set_ylim(low - room, high + room)
    least = (high - low + 2 * room) / 24  # a line of text
    placed = _spread(sorted(heights.items(), key=lambda item: item[1]), least)
    for name, (height, shown) in placed.items():
        axes.annotate(
            name,
            (1, height),
            (1.035, shown),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            arrowprops={
                "arrowstyle": "-",
                "color": PALE,
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def _spread(items: Sequence[tuple[str, float]], least: float) -> dict[str, tuple[float, float]]:
    """Names → (height, shown height): rising, `least` apart; neighbours that collide are centred on their mean."""
    groups: list[list[tuple[str, float]]] = []
    for item in items:
        groups.append([item])
        while len(groups) > 1 and _bottom(groups[-1], least) < _bottom(groups[-2], least) + len(groups[-2]) * least:
            last = groups.pop()
            groups[-1] += last
    return {
        name: (height, _bottom(group, least) + place * least)
        for group in groups
        for place, (name, height) in enumerate(group)
    }


def _bottom(group: Sequence[tuple[str, float]], least: float) -> float:
    return sum(height for _, height in group) / len(group) - (len(group) - 1) * least / 2


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of inches, and its panels, which share both scales."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0])


def _legend_above(axes: Axes) -> None:
    axes.grid(which="major", axis="x", alpha=0.3)
    axes.legend(loc="lower left", fontsize=8.5)


def _plain_ticks(axis: Any) -> None:
    """A logarithmic axis with 0.1, 1, 10 or 64, 256, 1,024 in place of powers."""
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(lambda value, _: "")


def _columns(points: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    xs_ys = list(zip(*points, strict=True))
    return [list(values) for values in xs_ys] or [[], []]


def _png(figure: Figure) -> bytes:
    """Without the date and the versions that would make it another picture every time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
