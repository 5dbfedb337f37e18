"""TensorRT and TensorRT-RTX: an engine built here and compared with its ONNX file, then windows of two dtypes by turns.

A rehearsal takes the turns with an engine of the CPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.budget import Row
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.models import made
from segfast.dependencies import tensorrt as trt
from segfast.engine import Engine

MODEL, CALLS = "seg-b-mask-16", 1000
# Bytes of the GPU in anybody's use after those calls, against before.
LEAK = 64 << 20


def plan(clock: Clock) -> Iterator[Row]:
    """Each compiler."""
    name, calls = ("seg-ti-32", 10) if clock.rehearsal else (MODEL, CALLS)
    for kind in trt.COMPILERS:
        yield {"section": "tensorrt", "compiler": kind, "model": name}, partial(_measure, clock, kind, name, calls)


def _measure(clock: Clock, kind: str, name: str, calls: int) -> dict[str, Any]:
    model, engine, windows = made(clock, name)
    if clock.rehearsal:
        return turns(engine, windows[0], calls) | {"engine": repr(engine)}
    del engine
    trt.load(kind)
    from segfast.export import build_engine, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx, path = Path(folder) / "x.onnx", Path(folder) / "x.engine"
        export_onnx(model.cpu(), onnx)
        start = time.monotonic()
        report = build_engine(onnx, path, compiler=kind)
        built: dict[str, Any] = {"build_seconds": round(time.monotonic() - start, 1), "report": str(report)}
        if report.verification is not None and report.verification.failure is not None:
            return built | {"error": str(report.verification.failure)}
        engine = Engine(path)
        return built | turns(engine, windows[0], calls) | {"engine": repr(engine)}


def turns(engine: Engine, window: Any, calls: int) -> dict[str, Any]:
    """Calls with one window, in bytes and resized (float32) by turns, whose answers must stay the same bits."""
    given = window, window[:, ::-1].astype(np.float32)
    expected = [_run(engine, one) for one in given]
    before, start = _used(), time.perf_counter()
    wrong = sum(not np.array_equal(_run(engine, given[turn % 2]), expected[turn % 2]) for turn in range(calls))
    seconds, grown = time.perf_counter() - start, _used() - before
    row: dict[str, Any] = {
        "calls": calls,
        "wrong": wrong,
        "calls_per_second": round(calls / seconds, 1),
        "grown_bytes": grown,
    }
    if wrong or grown > LEAK:
        row["error"] = f"{wrong} of {calls} answers changed; {grown >> 20} MiB more are held than before"
    return row


def _run(engine: Engine, window: Any) -> Any:
    with engine._runtime.lane() as lane:
        logits = lane.run([window])
        return np.array(lane.fetch(lambda: logits))


def _used() -> int:
    """Bytes of the GPU in anybody's use: PyTorch's count leaves out other runtimes'."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return total - free
