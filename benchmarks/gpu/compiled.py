"""Images a second of `torch.compile(mode="reduce-overhead")`: in a process of its own, without any of our engines.

Its CUDA graphs free workspaces of cuBLAS that other graphs of the process have taken into theirs, so that
it must never share one with an Engine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.columns import best_classes, normalised
from benchmarks.gpu.budget import Row
from benchmarks.gpu.clock import Clock
from segfast.config import family_config
from segfast.model import Segmenter
from segfast.runtimes.batches import largest_batch
from segfast.variants import variant

SIZE = 512
MODELS = ("seg-b-8", "seg-b-16", "seg-l-16")
# Of half-precision logits against fp32, the ratio of the norms: the gate of fp16 files.
GATE = 5e-3


def plan(clock: Clock) -> Iterator[Row]:
    """Each model at batch 1 and at an Engine's largest, in fp16."""
    for name in ["seg-ti-32"] if clock.rehearsal else MODELS:
        size = 64 if clock.rehearsal else SIZE
        for batch in (2,) if clock.rehearsal else (largest_batch((SIZE // variant(name).patch) ** 2), 1):
            yield {"section": "compiled", "model": name, "B": batch}, partial(_measure, clock, name, size, batch)


def _measure(clock: Clock, name: str, size: int, batch: int) -> dict[str, Any]:
    torch.manual_seed(0)
    with torch.device(clock.device):
        model = Segmenter(family_config(variant(name), 150, size, weights="random")).eval()
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    given = partial(normalised, images, model.config.protocol, clock.device)
    with torch.inference_mode():
        exact = model.patch_logits(given()[:1])
        half = model if clock.rehearsal else model.half()
        dtype = next(half.parameters()).dtype
        error = ((half.patch_logits(given()[:1].to(dtype)) - exact).norm() / exact.norm()).item()
        assert error < GATE, f"relative error {error:.1e}"
        torch.compiler.reset()  # of the model before
        # The rehearsal's compiler captures and runs the same graph, without the minutes that Inductor takes.
        how: Any = {"backend": "eager"} if clock.rehearsal else {"mode": "reduce-overhead"}
        network = torch.compile(half, **how)
        start = time.perf_counter()
        rate, calls = _rate(clock, lambda: best_classes(network(given().to(dtype))))
    return {
        "images_per_second": round(rate * batch, 1),
        "calls": calls,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _rate(clock: Clock, call: Any) -> tuple[float, int]:
    """Calls a second, once it is compiled and captured, and how many were counted."""
    for _ in range(3):
        call()
    least, start, calls = 0.05 if clock.rehearsal else 2.0, time.perf_counter(), 0
    while time.perf_counter() - start < least:
        call()
        calls += 1
    return calls / (time.perf_counter() - start), calls
