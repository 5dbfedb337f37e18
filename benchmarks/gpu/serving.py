"""Sixteen threads that segment while another makes engines, waits for the whole device and collects garbage."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.budget import Row
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.models import made
from segfast.engine import Engine

SECONDS, THREADS = 20.0, 16
MODEL = "seg-ti-16"
# Of memory after it, against before: engines that were let go of are gone.
LEAK = 64 << 20


def plan(clock: Clock) -> Iterator[Row]:
    """One storm."""
    name, threads, seconds = ("seg-ti-32", 4, 0.5) if clock.rehearsal else (MODEL, THREADS, SECONDS)
    about = {
        "section": "serving",
        "model": name,
        "case": f"{threads} threads beside engines made, waits and collections",
    }
    yield about, partial(_measure, clock, name, threads, seconds)


def _measure(clock: Clock, name: str, threads: int, seconds: float) -> dict[str, Any]:
    model, engine, windows = made(clock, name)
    size = windows.shape[1]
    larger = [np.random.default_rng(i).integers(0, 256, (size + 17 * i, size + 40, 3), np.uint8) for i in range(1, 4)]
    images = [*windows, *larger]
    engine.warm_up()  # a capture would make others' waits raise
    expected = [engine.segment(image).labels for image in images]
    held = _held(clock)
    found = storm(engine, images, expected, partial(_disturb, clock, model), threads, seconds)
    growth = None if held is None else _held(clock) - held
    row = found | {"grown_bytes": growth, "engine": repr(engine)}
    if found["wrong"] or found["failures"]:
        row["error"] = f"{found['wrong']} answers were wrong; {'; '.join(found['failures'][:3])}"[:500]
    elif growth is not None and growth > LEAK:
        row["error"] = f"{growth >> 20} MiB more are held than before"
    return row


def storm(
    engine: Engine, images: list[Any], expected: list[Any], disturb: Callable[[], None], threads: int, seconds: float
) -> dict[str, Any]:
    """Calls of many threads, compared with those of one, while another thread does what disturbs them.

    Returns:
        calls, wrong answers, disturbances, and what failed.
    """
    end = time.monotonic() + seconds
    counts, failures = {"calls": 0, "wrong": 0, "disturbances": 0}, []
    lock = threading.Lock()

    def count(*names: str) -> None:
        with lock:
            for name in names:
                counts[name] += 1

    def repeat(step: Callable[[int], None], turn: int) -> None:
        try:
            while True:  # at least once
                step(turn)
                turn += 1
                if time.monotonic() > end:
                    return
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}"[:200])

    def serve(turn: int) -> None:
        labels = engine.segment(images[turn % len(images)]).labels
        count("calls", *([] if np.array_equal(labels, expected[turn % len(images)]) else ["wrong"]))

    def trouble(_: int) -> None:
        disturb()
        count("disturbances")

    workers = [threading.Thread(target=repeat, args=(step, i)) for i, step in enumerate([serve] * threads + [trouble])]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {**counts, "failures": failures}


def _disturb(clock: Clock, model: Any) -> None:
    """What other code of the process may do at any time."""
    Engine(model, device=clock.device).run(np.zeros((1, *model.config.protocol.window, 3), np.uint8))
    clock.synchronise()
    gc.collect()


def _held(clock: Clock) -> Any:
    """Bytes of the device that PyTorch holds for tensors; None on a CPU."""
    gc.collect()
    if clock.rehearsal:
        return None
    clock.synchronise()
    return torch.cuda.memory_allocated()
