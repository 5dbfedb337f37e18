"""One section in a process of its own, which `python -m benchmarks.gpu` starts, watches and stops.

    python -m benchmarks.gpu.child benchmarks.gpu.ends --seconds 60 --log FILE [--device cpu] [--skip 3] [--peak 7e14]

Writes JSON lines to the log: the plan, then each row's number as it begins and the row as it ends. The exit code is
0 after the last row, and LOST where the device no longer answers: the others want another process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import Budget, lacking
from segfast import files

LOST = 3


def main() -> int:
    """Run the rows of a section."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    options = _parse()
    tell = partial(_tell, options.log)
    try:
        section, budget = importlib.import_module(options.module), _budget(options)
        rows = list(section.plan(budget))
    except ImportError as error:
        if not (reason := lacking(error)):
            raise
        tell(reason)
        return 0
    tell({"plan": [about for about, _ in rows]})
    for index, row in enumerate(rows[options.skip :], options.skip):
        tell({"begin": index})
        found = budget.attempt(row)
        alive = budget.alive()
        tell({"index": index, "row": found if alive else {"error": "the device no longer answers"} | found})
        if not alive:
            return LOST
    return 0


def _budget(options: argparse.Namespace) -> Budget:
    """A clock, but for sections that leave PyTorch to the processes they start."""
    given = options.device, time.monotonic() + options.seconds, options.peak
    if options.untimed:
        return Budget(*given)
    from benchmarks.gpu.clock import Clock

    return Clock(*given)


def _tell(log: Path, event: dict[str, Any]) -> None:
    files.append_line(log, json.dumps(event, ensure_ascii=False))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.child")
    parser.add_argument("module", help="that has a function plan(budget) → rows")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, default=float("inf"))
    parser.add_argument("--skip", type=int, default=0, help="rows that are done")
    parser.add_argument("--untimed", action="store_true", help="the section needs no PyTorch here")
    return parser.parse_args()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == LOST:
        os._exit(code)  # destructors would call the device again
    sys.exit(code)
