"""What was found, as a table and as a picture: images a second by points lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segfast import files
from segfast.dependencies.imports import need
from segfast.tuning.search import Row


def table(rows: Sequence[Row], winner: Row | None) -> list[str]:
    """The lines for people, the fastest first; the winner has a star."""
    heads = ("", "candidate", "runs in", "images/s", "ms", "lost", "memory", "file")
    ordered = sorted(rows, key=lambda row: -row.rate)
    cells = [heads, *(_cells(row, row is winner) for row in ordered)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    left = (True, True, True, *(False,) * 5)
    lines = []
    for line, note in zip(cells, ["", *(row.note for row in ordered)], strict=True):
        padded = [
            f"{cell:<{width}}" if flush else f"{cell:>{width}}"
            for cell, width, flush in zip(line, widths, left, strict=True)
        ]
        lines.append("  ".join([*padded, note]).rstrip())
    return lines


def draw(rows: Sequence[Row], winner: Row | None, max_loss: float, words: str, path: Path) -> None:
    """Write the frontier as PNG: of every candidate its fastest setting.

    Raises:
        MissingRuntime: Matplotlib is not installed.
        CannotWrite: the destination is full, read-only or missing.
    """
    need("train", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = fastest(rows)
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edge = frontier(shown)
    axes.plot([_lost(row) for row in edge], [row.rate for row in edge], color="#7a8794", linewidth=1.2, zorder=1)
    axes.axvline(max_loss, color="#b0413e", linewidth=1, linestyle="--")
    axes.annotate(
        f"--max-loss {max_loss:g}", (max_loss, 0), (3, 4), textcoords="offset points", color="#b0413e", fontsize=8
    )
    for row in shown:
        best = winner is not None and row.candidate == winner.candidate
        axes.scatter(
            _lost(row),
            row.rate,
            s=90 if best else 34,
            marker="*" if best else "o",
            color="#1f6f50" if best else "#2b5d8c",
            zorder=2,
        )
        axes.annotate(str(row.candidate), (_lost(row), row.rate), (6, 5), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel=words, ylabel="images/s, segment_many", ylim=(0, 1.15 * max((row.rate for row in shown), default=1.0))
    )
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    with files.publish(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def fastest(rows: Sequence[Row]) -> list[Row]:
    """Of every candidate that was judged and timed its fastest row."""
    best: dict[str, Row] = {}
    for row in rows:
        if (
            row.speed is not None
            and row.lost is not None
            and row.rate > best.get(str(row.candidate), Row(row.candidate, row.setting)).rate
        ):
            best[str(row.candidate)] = row
    return list(best.values())


def frontier(rows: Sequence[Row]) -> list[Row]:
    """Rows than which none is both faster and loses less, by what they lose."""
    edge: list[Row] = []
    for row in sorted(rows, key=lambda row: (_lost(row), -row.rate)):
        if not edge or row.rate > edge[-1].rate:
            edge.append(row)
    return edge


def _lost(row: Row) -> float:
    return 0.0 if row.lost is None else row.lost


def _cells(row: Row, best: bool) -> tuple[str, ...]:
    speed, setting = row.speed, "" if row.speed is None else str(row.setting)
    peak = None if speed is None else speed.peak_bytes
    return (
        "*" if best else "",
        str(row.candidate),
        setting,
        "-" if speed is None else f"{speed.images_per_second:.2f}",
        "-" if speed is None else f"{speed.milliseconds:.1f}",
        "-" if row.lost is None else f"{row.lost:.2f}",
        "-" if peak is None else f"{peak / 1e9:.2f} GB",
        "-" if row.path is None else f"{row.path.stat().st_size / 1e6:.0f} MB",
    )
