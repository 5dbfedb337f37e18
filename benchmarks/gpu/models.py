"""Images a second of the paper's models at 512², uint8 on the host to labels on the host, beside the original's.

"Original" is its algorithm in plain eager PyTorch, fp32: unfused attention, upsampling of all classes, argmax.
Weights are random; they cost the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.columns import best_classes, normalised
from benchmarks.gpu import ends
from benchmarks.gpu.budget import Row, missed, target
from benchmarks.gpu.clock import Clock
from benchmarks.paper import IMAGES_PER_SECOND
from segfast.config import family_config
from segfast.engine import Engine
from segfast.kernels import reference, upsample_argmax
from segfast.machine.exhaustion import out_of_memory
from segfast.model import Segmenter
from segfast.models import flops
from segfast.runtimes.lanes import LANES
from segfast.runtimes.pytorch import private
from segfast.variants import variant

SIZE = 512
# Those with a target first, then the paper's; then the models that it calls infeasible, or has no number of.
FIRST = ("seg-b-8", "seg-b-16", "seg-l-16", "seg-b-mask-16")
MODELS = (*FIRST, *(name for name in IMAGES_PER_SECOND if name not in FIRST), "seg-s-8", "seg-b-mask-8", "seg-l-8")
# Images a second at the largest batch and at batch 1, share of the measured peak: of an H100.
BATCHED = {"seg-b-8": 320.0, "seg-b-16": 2000.0}
SINGLE = {"seg-l-16": 300.0}
SHARE = {"seg-b-8": 0.60}
# The fused end's share of a step, at most.
END = 0.03
# Of half-precision logits against fp32, the ratio of the norms: the gate of fp16 files.
GATE = 5e-3
THREADS = 2


def plan(clock: Clock) -> Iterator[Row]:
    """Every model, the one with a target first: at batch 1 and at the Engine's largest."""
    for name in ["seg-ti-32"] if clock.rehearsal else MODELS:
        about = {"section": "models", "model": name, "paper_images_per_second": IMAGES_PER_SECOND.get(name, ())}
        yield about, partial(_measure, clock, name)


def _measure(clock: Clock, name: str) -> dict[str, Any]:
    model, engine, images = made(clock, name)
    eager = private(model, clock.device, torch.float32).set_attention(reference.attention)
    error = _check(clock, engine, eager, images)
    batch = largest(clock, engine)
    large = images[np.arange(batch) % len(images)]
    warm(engine, large)
    warm(engine, images[:1])
    ours = _rate(clock, lambda: engine.run(large, labels=True), THREADS) * batch
    single = _rate(clock, lambda: engine.run(images[:1], labels=True), 1)
    lone = _rate(clock, lambda: engine.segment(images[0]), 1)
    their_batch, theirs = _original(clock, eager, images, batch)
    _, their_single = _original(clock, eager, images, 1)
    row: dict[str, Any] = {
        "engine": repr(engine),
        "relative_error": float(f"{error:.2e}"),
        "batch": batch,
        "images_per_second": round(ours, 1),
        "images_per_second_batch_1": round(single, 1),
        "segment_per_second": round(lone, 1),
        "original_batch": their_batch,
        "original_images_per_second": round(theirs, 1),
        "original_images_per_second_batch_1": round(their_single, 1),
        "ratio": round(ours / theirs, 2),
        "share_of_peak": round(ours * flops(model.config, images.shape[1]) / clock.peak, 3),
        "end_share": round(_end_seconds(clock, model, batch) * ours / batch, 4),
    }
    row["targets"] = [] if clock.rehearsal else _targets(name, row)
    if missed(row):
        row["profile"] = clock.profile(lambda: engine.run(large, labels=True))
    return row


def made(clock: Clock, name: str) -> tuple[Segmenter, Engine, Any]:
    """A model of random weights on the device, its Engine, and four images."""
    size = 64 if clock.rehearsal else SIZE
    torch.manual_seed(0)
    with torch.device(clock.device):
        model = Segmenter(family_config(variant(name), 150, size, weights="random")).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    return model, Engine(model, device=clock.device), images


def largest(clock: Clock, engine: Engine) -> int:
    """The most windows that an Engine runs at once."""
    return 2 if clock.rehearsal else int(engine._runtime._lanes.largest)  # type: ignore[attr-defined]


def warm(engine: Engine, windows: Any) -> None:
    """Run windows on every lane that later calls may use, so that none of them captures a graph."""
    with ExitStack() as held:  # lanes that are held are different ones
        lanes = [held.enter_context(engine._runtime.lane()) for _ in range(LANES)]
        for lane in lanes:
            logits = lane.run(list(windows))
            lane.fetch(lambda given=logits: given)


def _targets(name: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    targets = [target("share of the fused end", END, row["end_share"], at_most=True)]
    for what, wanted, key in (
        ("images a second", BATCHED, "images_per_second"),
        ("images a second, batch 1", SINGLE, "images_per_second_batch_1"),
        ("share of the measured peak", SHARE, "share_of_peak"),
    ):
        if name in wanted:
            targets.append(target(what, wanted[name], row[key]))
    return targets


def _end_seconds(clock: Clock, model: Segmenter, batch: int) -> float:
    """What the fused end takes of a step: logits as smooth as a trained model's to labels."""
    grid, side = model.config.grid, model.config.protocol.window
    logits = ends.smooth(clock, batch, grid)
    return clock.seconds({"end": lambda: upsample_argmax(logits, side)}, graphs=True)["end"]


def _check(clock: Clock, engine: Engine, eager: Segmenter, images: Any) -> float:
    """The relative error of the Engine's logits; what is wrong is not timed."""
    with torch.inference_mode():
        exact = (
            torch.cat(
                [eager.patch_logits(normalised(one[None], eager.config.protocol, clock.device)) for one in images]
            )
            .cpu()
            .numpy()
        )
    given = engine.run(images).astype(np.float32)
    error = float(np.linalg.norm(given - exact) / np.linalg.norm(exact))
    if not error < GATE:
        raise AssertionError(f"the Engine's logits err by {error:.1e}, over {GATE:g}")
    return error


def _original(clock: Clock, eager: Segmenter, images: Any, batch: int) -> tuple[int, float]:
    """The largest batch up to `batch` that fits, and images a second."""
    while True:
        large = images[np.arange(batch) % len(images)]

        def call(large: Any = large) -> Any:
            with torch.inference_mode():
                return best_classes(eager(normalised(large, eager.config.protocol, clock.device)))

        try:
            return batch, _rate(clock, call, 1) * batch
        except RuntimeError as error:
            if not out_of_memory(error) or batch == 1:
                raise
        clock.free()
        batch //= 2


def _rate(clock: Clock, call: Callable[[], Any], threads: int) -> float:
    """Calls a second of so many threads, each of which waits for its answers. The lanes are warm: see `warm`."""
    for _ in range(2):
        call()
    start = time.perf_counter()
    call()
    seconds = 0.05 if clock.rehearsal else 1.0
    count = max(3, min(1000, round(seconds / (time.perf_counter() - start))))
    workers = [threading.Thread(target=lambda: [call() for _ in range(count)]) for _ in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return count * threads / (time.perf_counter() - start)
