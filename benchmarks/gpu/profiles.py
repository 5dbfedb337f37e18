"""Where a step's time goes: the kernels of Seg-B/8 at batch 8, and those of the same network without graphs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.budget import Row
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.models import made, warm

MODEL, BATCH = "seg-b-8", 8
ROWS = 40


def plan(clock: Clock) -> Iterator[Row]:
    """The profile of one step."""
    name, batch = ("seg-ti-32", 2) if clock.rehearsal else (MODEL, BATCH)
    yield {"section": "profile", "model": name, "B": batch}, partial(_measure, clock, name, batch)


def _measure(clock: Clock, name: str, batch: int) -> dict[str, Any]:
    _, engine, images = made(clock, name)
    windows = images[np.arange(batch) % len(images)]
    warm(engine, windows)
    profile = clock.profile(lambda: engine.run(windows, labels=True), ROWS)
    return {
        "engine": repr(engine),
        "microseconds": round(sum(one["microseconds"] for one in profile), 1),
        "profile": profile,
    }
