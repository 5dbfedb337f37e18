"""Fewer tokens: what they cost in mIoU, what they save, and the plot of docs/token-merging.md.

    python -m benchmarks.merging points CHECKPOINT --data DIR --name camvid --merge 0.25@1 0.5@6
    python -m benchmarks.merging speed seg-b-mask-16 --merge 0.25@1 0.5@6
    python -m benchmarks.merging draw

Each adds to one JSON file (--results), and draw reads it. Points are a checkpoint's on the val split by segfast.evaluate's
protocol, in fp32. Speed is the processor time of the network in an exported fp16 file, one thread, all by turns, the least
of several: a machine that has other work to do tells it, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segfast import cli, files
from segfast.token_merge import Merge

if TYPE_CHECKING:
    from segfast.engine import Engine
    from segfast.model import Segmenter

RESULTS, FIGURE = Path("docs/results/token-merging.json"), Path("docs/results/token-merging.png")
NONE = "none"
INK = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def main() -> int:
    """Measure, or draw, as the command line says."""
    options = _parse()
    path = Path(options.results)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"points": {}, "speed": {}}
    if options.what == "draw":
        draw(found, Path(options.out))
        return 0
    merges = [Merge.parse(text) for text in options.merge]
    if options.what == "points":
        for name, miou in points(options.checkpoint, options.data, merges):
            found["points"].setdefault(options.name, {})[name] = miou
            _write(found, path)  # a long run that is interrupted keeps what it has
    else:
        found["speed"].setdefault(options.model, {}).update(speed(options.model, merges, options.rounds))
        _write(found, path)
    return 0


def points(checkpoint: str, data: str, merges: Sequence[Merge]) -> Iterator[tuple[str, float]]:
    """mIoU in percent of a checkpoint on a folder's val split, by what is merged."""
    from segfast.checkpoints.load import load_model
    from segfast.datasets import open_dataset
    from segfast.engine import Engine
    from segfast.evaluation.evaluate import evaluate

    model, dataset = load_model(checkpoint), open_dataset("folder", data, "val")
    for merge in (None, *merges):
        _set(model, merge)
        miou = evaluate(Engine(model, device="cpu", threads=1), dataset).miou
        assert miou is not None
        print(_name(merge), f"{100 * miou:.2f}", flush=True)
        yield _name(merge), round(100 * miou, 2)


def speed(name: str, merges: Sequence[Merge], rounds: int) -> dict[str, float]:
    """Milliseconds of one thread for one window of a family member, by what is merged; its weights are random."""
    import torch

    from segfast.create import create_model
    from segfast.engine import Engine
    from segfast.export import export_onnx

    torch.manual_seed(0)
    model, engines = create_model(name), dict[str, Engine]()
    with tempfile.TemporaryDirectory() as folder:
        for merge in (None, *merges):
            _set(model, merge)
            path = Path(folder) / f"{len(engines)}.onnx"
            export_onnx(model, path)
            engines[_name(merge)] = Engine(path, device="cpu", threads=1)
        window = np.random.default_rng(0).integers(0, 256, (1, *model.config.protocol.window, 3), np.uint8)
        least = _by_turns(engines, window, rounds)
    for merged, seconds in least.items():
        print(f"{merged}: {1000 * seconds:.1f} ms, {least[NONE] / seconds:.2f} times", flush=True)
    return {merged: round(1000 * seconds, 1) for merged, seconds in least.items()}


def _by_turns(engines: dict[str, Engine], window: NDArray[np.uint8], rounds: int) -> dict[str, float]:
    """The least processor time of each engine, in seconds; the first round warms them up."""
    least = dict.fromkeys(engines, float("inf"))
    for number in range(rounds + 1):
        for name, engine in engines.items():
            start = time.process_time()
            engine.run(window)
            least[name] = min(least[name], time.process_time() - start) if number else least[name]
    return least


def draw(found: dict[str, Any], path: Path) -> None:
    """Points lost against speed: a line for each model, a mark for each merge that has both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    (model, times), *_ = found["speed"].items()
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), dpi=100, layout="constrained")
    for (name, miou), colour, mark in zip(found["points"].items(), INK, "osDv", strict=False):
        both = sorted((times[NONE] / times[merge], merge) for merge in miou if merge in times)
        lost = [miou[NONE] - miou[merge] for _, merge in both]
        axes.plot([fast for fast, _ in both], lost, mark, color=colour, label=name, linestyle=":", linewidth=0.8)
    for merge, milliseconds in times.items():
        axes.annotate(
            merge, (times[NONE] / milliseconds, 1), xycoords=("data", "axes fraction"), rotation=60, fontsize=7,
            xytext=(0, 2), textcoords="offset points",
        )  # fmt: skip
        axes.axvline(times[NONE] / milliseconds, color="#dddddd", linewidth=0.6, zorder=0)
    axes.axhline(0.3, color="#888888", linewidth=0.8, linestyle="--")
    axes.set(xlabel=f"speed of {model}'s network, times that without", ylabel="points of mIoU lost, training-free")
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
    print(f"wrote {path}")


def _write(found: dict[str, Any], path: Path) -> None:
    files.write_text(json.dumps(found, indent=1) + "\n", path)


def _set(model: Segmenter, merge: Merge | None) -> None:
    model.merge_tokens(None) if merge is None else model.merge_tokens(merge.fraction, merge.block)


def _name(merge: Merge | None) -> str:
    return NONE if merge is None else str(merge)


def _parse() -> argparse.Namespace:
    parser = cli.parser("benchmarks.merging", __doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    kind = {name: kinds.add_parser(name) for name in ("points", "speed", "draw")}
    kind["points"].add_argument("checkpoint")
    kind["points"].add_argument("--data", required=True, metavar="DIR")
    kind["points"].add_argument("--name", required=True, help="of the model and data, in the plot")
    kind["speed"].add_argument("model", help="family member, such as seg-b-mask-16")
    kind["speed"].add_argument("--rounds", type=int, default=10)
    kind["draw"].add_argument("--out", default=str(FIGURE), metavar="PNG")
    for name, sub in kind.items():
        sub.add_argument("--results", default=str(RESULTS), metavar="FILE")
        if name != "draw":
            sub.add_argument("--merge", nargs="+", required=True, metavar="FRACTION@BLOCK")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
