"""Where the time goes: latency, throughput and memory of an Engine, stage by stage.

    python -m segfast.benchmark seg-b-mask-16-512-fp16.onnx
    python -m segfast.benchmark seg-b-mask-16-512-fp16.onnx photo.jpg --rounds 50 --multiscale

Without pictures: the shipped photos as they are, and stretched to the model's window (in memory, where
there is nothing to decode). Latency is that of one picture at a time, two rounds of warm-up left out:
decode, resize and lay out, network, merge. Images/s is that of segment_many, which overlaps the stages.
With 20 rounds p99 is all but the slowest. The last line is JSON, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfast import __version__, cli
from segfast.dependencies.packages import versions
from segfast.kernels.quota import cpus
from segfast.machine import memory
from segfast.machine.cpu import cpu_model
from segfast.progress import bar

if TYPE_CHECKING:
    from segfast.engine import Engine
    from segfast.segmentation import Segmentation

STAGES = ("decode", "resize", "network", "merge")
WARM_UP = 2


@dataclass(frozen=True)
class Picture:
    """What is timed: a name for people, and what `Engine.segment` takes."""

    name: str
    image: Any


@dataclass
class Round:
    """The milliseconds of one picture.

    Attributes:
        stages: of each stage, on its own clock.
        total: of all of them, on another.
        windows: how many the network saw.
    """

    stages: dict[str, float]
    total: float
    windows: int


def main() -> int:
    """Time every picture; print the table and the JSON line."""
    options = _parse()

    from segfast.engine import Engine

    choices = {name: getattr(options, name) for name in ("runtime", "device", "threads", "precision")}
    engine = Engine(options.engine, **choices)
    print(engine)
    with ExitStack() as stack:
        named = [Picture(Path(path).name, path) for path in options.images]
        pictures = named or list(examples(engine, stack))
        for picture in pictures:
            engine.prepare(picture.image, multiscale=options.multiscale)  # what cannot be timed is refused at once
        engine.warm_up()
        results = [
            measure(engine, picture, options.rounds, options.multiscale)
            for picture in bar(pictures, "benchmark", unit="picture")
        ]
    peak = memory.peak()
    print("\n".join(table(results, peak)))
    print(json.dumps({**surroundings(engine, options), "peak_memory_bytes": peak, "pictures": results}))
    return 0


def examples(engine: Engine, stack: ExitStack) -> Iterator[Picture]:
    """The shipped photos, as files and at the window's size; a labels artifact takes the latter only."""
    import numpy as np
    from PIL import Image

    H, W = engine.protocol.window
    photos = [file for file in resources.files("segfast.examples").iterdir() if file.name.endswith(".jpg")]
    for file in sorted(photos, key=lambda file: file.name):
        path = stack.enter_context(resources.as_file(file))
        if engine.output != "labels":
            yield Picture(file.name, path)
        with Image.open(path) as image:
            stretched = np.array(image.convert("RGB").resize((W, H), Image.Resampling.BICUBIC))
        yield Picture(f"{file.name} at {H}×{W}", stretched)


def measure(engine: Engine, picture: Picture, rounds: int, multiscale: bool = False) -> dict[str, Any]:
    """One picture's rows of the report: size, windows, milliseconds of every stage, images per second."""
    height, width = segment(engine, picture.image, multiscale)[1].labels.shape
    for _ in range(WARM_UP - 1):
        segment(engine, picture.image, multiscale)
    samples = [segment(engine, picture.image, multiscale)[0] for _ in range(rounds)]
    return {
        "picture": picture.name,
        "size": [height, width],
        "windows": samples[-1].windows,
        "total": _statistics([one.total for one in samples]),
        "stages": {stage: _statistics([one.stages[stage] for one in samples]) for stage in STAGES},
        "images_per_second": round(throughput(engine, picture, rounds, multiscale), 3),
    }


def segment(engine: Engine, image: Any, multiscale: bool = False) -> tuple[Round, Segmentation]:
    """What `Engine.segment` does and gives, timed; what a device has been given is waited for."""
    from segfast.image import read_image

    clock = time.perf_counter
    start = clock()
    pixels = read_image(image)
    decoded = clock()
    request = engine.prepare(pixels, multiscale=multiscale)  # pixels are passed through
    prepared = clock()
    result = engine.infer([request])[0]
    if result.views:
        result.lane.fetch(lambda: result.views[0].logits[:0])  # which waits for the device
    inferred = clock()
    answer = engine.merge(result)
    merged = clock()
    for _ in request:  # once more: many views are made as the network comes to them, a single one in `prepare`
        pass
    views = clock() - merged
    seconds = {
        "decode": decoded - start,
        "resize": prepared - decoded + views,
        "network": inferred - prepared - views,
        "merge": merged - inferred,
    }
    return Round({k: s * 1e3 for k, s in seconds.items()}, (merged - start) * 1e3, request.window_count), answer


def throughput(engine: Engine, picture: Picture, rounds: int, multiscale: bool) -> float:
    """Images per second of `segment_many` over one picture again and again."""
    for _ in engine.segment_many([picture.image] * WARM_UP, multiscale=multiscale):
        pass
    start = time.perf_counter()
    for _ in engine.segment_many([picture.image] * rounds, multiscale=multiscale):
        pass
    return rounds / (time.perf_counter() - start)


def table(results: list[dict[str, Any]], peak: int | None) -> list[str]:
    """The lines for people, in milliseconds; the stages are medians."""
    width = max(len(result["picture"]) for result in results)
    stages = " ".join(f"{stage:>8}" for stage in STAGES)
    lines = [f"{'ms':<{width}} {'size':>11} {'windows':>7} {'p50':>8} {'p90':>8} {'p99':>8} | {stages} | images/s"]
    for result in results:
        size, total = f"{result['size'][0]}×{result['size'][1]}", result["total"]
        parts = " ".join(f"{result['stages'][stage]['p50']:>8.1f}" for stage in STAGES)
        times = " ".join(f"{total[key]:>8.1f}" for key in ("p50", "p90", "p99"))
        head = f"{result['picture']:<{width}} {size:>11} {result['windows']:>7}"
        lines.append(f"{head} {times} | {parts} | {result['images_per_second']:>8.2f}")
    return [*lines, f"peak memory of the process: {'?' if peak is None else f'{peak / 1e9:.2f} GB'}"]


def surroundings(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """What numbers need beside them: the machine, the versions and what was asked."""
    return {
        "benchmark": "segfast.benchmark",
        "engine": repr(engine),
        "runtime": engine.runtime,
        "cpu": cpu_model(),
        "cores": cpus(),
        "system": platform.platform(),
        "versions": {"segfast": __version__, "python": platform.python_version(), **versions()},
        "rounds": options.rounds,
        "multiscale": options.multiscale,
        "threads": options.threads,
    }


def _statistics(values: list[float]) -> dict[str, float]:
    import numpy as np

    numbers = (np.mean(values), *np.percentile(values, (50, 90, 99)))
    return {name: round(float(n), 4) for name, n in zip(("mean", "p50", "p90", "p99"), numbers, strict=True)}


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.benchmark", __doc__)
    parser.add_argument("engine", metavar="ENGINE", help=".onnx or .engine file, checkpoint, or published name")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="pictures (default: the shipped examples)")
    parser.add_argument("--rounds", type=cli.positive, default=20, help="timed per picture (default 20)")
    parser.add_argument("--multiscale", action="store_true", help="average 12 views, as `segment --multiscale` does")
    cli.add_runtime(parser)
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16"), help="of a checkpoint (default: fp16 on a GPU)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
