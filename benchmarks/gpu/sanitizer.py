"""Every kernel under NVIDIA's memory checker, where it is installed; a rehearsal runs the same programs without it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import processes
from benchmarks.gpu.budget import Budget, Missing, Row
from benchmarks.gpu.once import CASES

# What the checker makes of a kernel of milliseconds, start and compiling included, with room to spare.
SECONDS = 300.0
FAILED = 99
# Blocks of its own for each tensor: within those of PyTorch's cache a stray access would look right.
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def plan(budget: Budget) -> Iterator[Row]:
    """Each launch in a process of its own, as an error ends the device's context."""
    for case in CASES:
        yield {"section": "sanitizer", "case": case}, partial(_measure, budget, case)


def tool() -> str | None:
    """The path of compute-sanitizer, which comes with the CUDA toolkit; None without it."""
    roots = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    paths = [Path(root) / "bin" / "compute-sanitizer" for root in roots if root]
    return shutil.which("compute-sanitizer") or next((str(path) for path in paths if path.is_file()), None)


def _measure(budget: Budget, case: str) -> dict[str, Any]:
    checker = tool()
    if checker is None and not budget.rehearsal:
        raise Missing("compute-sanitizer, which comes with the CUDA toolkit, is not installed")
    return check([] if budget.rehearsal else checked(str(checker)), case, budget.device, min(SECONDS, budget.left()))


def checked(checker: str) -> list[str]:
    """The command that watches what is behind it."""
    return [checker, "--tool", "memcheck", "--leak-check", "no", "--error-exitcode", str(FAILED)]


def check(watch: list[str], case: str, device: str, seconds: float) -> dict[str, Any]:
    """How many errors the checker has found.

    Raises:
        AssertionError: some, or the program failed.
    """
    start = time.monotonic()
    command = [*watch, sys.executable, "-m", "benchmarks.gpu.once", case, "--device", device]
    ended = processes.run(command, seconds, environment=UNCACHED)
    summary = re.search(r"ERROR SUMMARY: (\d+) error", ended.output)
    if ended.stopped:
        raise TimeoutError(ended.stopped)
    if ended.code:
        raise AssertionError(f"code {ended.code}: {ended.output[-400:]}")
    return {"errors_found": int(summary[1]) if summary else None, "seconds": round(time.monotonic() - start, 1)}
