"""Draw a run's curves, loss and mIoU by iteration, as one picture.

python -m segfast.train.curve RUN
python -m segfast.train.curve RUN OTHER -o curves.png
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from segfast import cli, files
from segfast.dependencies.imports import need
from segfast.errors import BadOption
from segfast.train.record import LOG, Row, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Losses are averaged over so many reports, which leaves the trend.
SMOOTHED = 10


def main() -> int:
    """Draw the runs that the command line names."""
    parser = cli.parser("segfast.train.curve", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs")
    parser.add_argument("-o", "--out", metavar="PNG", help="picture to write (default: RUN/curve.png)")
    options = parser.parse_args()
    out = Path(options.out or Path(options.runs[0]) / "curve.png")
    files.check_suffix(out, ".png")
    draw([Path(run) for run in options.runs], out)
    print(out)
    return 0


def draw(runs: list[Path], out: Path) -> None:
    """Write the curves of runs as PNG.

    Raises:
        BadOption: a folder holds no log of a run.
        MissingRuntime: Matplotlib is not installed.
        CannotWrite: the destination is full, read-only or missing.
    """
    need("train", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logs = {run: read_log(run / LOG) for run in runs}
    if empty := [str(run) for run, rows in logs.items() if not rows]:
        raise BadOption(f"there is no {LOG} of a run in {', '.join(empty)}; name the --out of segfast.train")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, miou = figure.subplots(1, 2)
    for run, rows in logs.items():
        name = run.resolve().name if len(runs) > 1 else None
        loss.plot(*_smoothed(_series(rows, "train", "loss")), label=name, linewidth=1.4)
        _plot_miou(miou, *_series(rows, "evaluation", "miou"), name)
    for axes, title in ((loss, "training loss (cross-entropy)"), (miou, "validation mIoU, %")):
        axes.set(title=title, xlabel="iteration")
        axes.grid(alpha=0.3)
        axes.margins(y=0.15)
        if len(runs) > 1:
            axes.legend(frameon=False)
    with files.publish(out) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _plot_miou(axes: Axes, steps: list[int], values: list[float], name: str | None) -> None:
    """In percent, the best in figures."""
    percent = [100 * value for value in values]
    axes.plot(steps, percent, "o-", label=name, linewidth=1.4, markersize=4)
    if percent:
        place = max(range(len(percent)), key=percent.__getitem__)
        best = steps[place], percent[place]
        axes.annotate(f"{best[1]:.2f}", best, textcoords="offset points", xytext=(0, 6), ha="center", fontsize=9)


def _series(rows: list[Row], kind: str, value: str) -> tuple[list[int], list[float]]:
    found = [(row["iteration"], row[value]) for row in rows if row.get("kind") == kind and row.get(value) is not None]
    return [step for step, _ in found], [number for _, number in found]


def _smoothed(series: tuple[list[int], list[float]]) -> tuple[list[int], list[float]]:
    """Means of neighbours, of fewer where the series is short."""
    steps, values = series
    width = min(SMOOTHED, max(1, len(values) // 10))
    totals = [0.0, *itertools.accumulate(values)]
    means = [(totals[end] - totals[end - width]) / width for end in range(width, len(values) + 1)]
    return steps[width - 1 :], means


if __name__ == "__main__":
    cli.run(main)
