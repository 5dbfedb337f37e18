"""The tests marked `gpu`: a process for each file, which is interrupted in time to write down what passed."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu import processes
from benchmarks.gpu.budget import Budget, Missing, Row

TESTS = processes.REPOSITORY / "tests"
MARK = re.compile(r"^[^\n'\"]*pytest\.mark\.gpu\b", re.MULTILINE)  # not those that a test writes
# Of pytest: all passed, some failed, none was to be run.
ENDINGS = (0, 1, 5)
# What one file may take of the time that is left, so that one that hangs leaves some to the others.
SHARE = 0.5


def plan(budget: Budget) -> Iterator[Row]:
    """Every file with such tests; in a rehearsal, where all are skipped, one."""
    files = sorted(path for path in TESTS.glob("test_*.py") if MARK.search(path.read_text(encoding="utf-8")))
    for path in files[:1] if budget.rehearsal else files:
        yield {"section": "tests", "file": path.name}, partial(_measure, budget, path)


def _measure(budget: Budget, path: Path) -> dict[str, Any]:
    if find_spec("pytest") is None:
        raise Missing("pytest is not installed")
    left = budget.left() - processes.GRACE if budget.left() > 2 * processes.GRACE else budget.left() / 2
    return run(path, max(SHARE * left, min(left, 60)))


def run(path: Path, seconds: float, grace: float = processes.GRACE) -> dict[str, Any]:
    """How many tests of a file passed, failed and were skipped, in so many seconds at most."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "-m",
            "gpu",
            str(path),
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ]
        start = time.monotonic()
        ended = processes.run(command, seconds, grace)
        found: dict[str, Any] = {
            "seconds": round(time.monotonic() - start, 1),
            "command": f"pytest -m gpu tests/{path.name}",
        }
        if ended.stopped:
            where = re.search(r"^(\S+:\d+): KeyboardInterrupt$", ended.output, re.MULTILINE)
            found["stopped"] = ended.stopped + (f", at {where[1]}" if where else "")
        if ended.code not in ENDINGS and not ended.stopped:
            raise RuntimeError(f"pytest ended with code {ended.code}: {ended.output[-300:]}")
        if report.is_file():
            return found | counts(ElementTree.parse(report).getroot())
        return found | {"output": ended.output[-300:]}  # its last line names the test


def counts(report: ElementTree.Element) -> dict[str, Any]:
    """Passed, failed and skipped tests of a JUnit report, with the reasons."""
    failed, skipped, passed = [], [], 0
    for case in report.iter("testcase"):
        if case.get("name") is None:  # it was interrupted
            continue
        name = f"{case.get('classname')}::{case.get('name')}"
        trouble = case.find("failure") if case.find("failure") is not None else case.find("error")
        omitted = case.find("skipped")
        if trouble is not None:
            failed.append({"test": name, "message": (trouble.get("message") or "")[:300]})
        elif omitted is not None:
            skipped.append({"test": name, "reason": (omitted.get("message") or "")[:200]})
        else:
            passed += 1
    return {
        "passed": passed,
        "failed": len(failed),
        "skipped_tests": len(skipped),
        "failures": failed,
        "reasons": skipped,
    }
