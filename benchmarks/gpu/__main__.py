"""The whole proof on an NVIDIA GPU in one command: the tests, then attention, ends and models beside their peers.

    python -m benchmarks.gpu --out benchmarks/results/h200.json

From a bare checkout, in under 8 minutes: what the time does not hold is skipped, with that reason in its
row. Needs PyTorch with CUDA, Triton, NumPy, Pillow, tqdm and, for the tests, pytest. A row's result is
checked before it is timed; a target that is missed comes with its profile. The last line is JSON. The exit
code is 0 if the tests passed and every row that was begun was right, 1 if not (missed targets alone are no failure), and 2
without a GPU.

    python -m benchmarks.gpu --rehearse

goes through every step on the CPU with tiny sizes, and measures nothing of worth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import recording
from segfast import cli, doctor, files
from segfast.errors import MissingRuntime

REPOSITORY = Path(__file__).parents[2]
# The tests may take so much of the time.
TESTS_SHARE = 0.45


def main() -> int:
    """Run everything; write and print it."""
    options = _parse()
    start = time.monotonic()
    device = "cpu" if options.rehearse else "cuda"
    _need_gpu(options.rehearse)

    from benchmarks.gpu import attention, ends, models
    from benchmarks.gpu.clock import Clock

    clock = Clock(device, start + options.seconds)
    found: dict[str, Any] = {"benchmark": "benchmarks.gpu", "rehearsal": options.rehearse, **_surroundings(device)}
    found["tests"] = _tests(TESTS_SHARE * options.seconds, options.rehearse)
    print("tests:", {key: value for key, value in found["tests"].items() if key != "reasons"}, flush=True)
    found["measured_peak"] = _peaks(clock)
    peak = found["measured_peak"]["matrix_tflops"] * 1e12
    results = []
    for row in itertools.chain(attention.plan(clock, peak), ends.plan(clock), models.plan(clock)):
        results.append(clock.attempt(row))
        print(_line(results[-1]), flush=True)
    errors = sum("error" in row for row in results)
    targets = [one for row in results for one in row.get("targets", [])]
    major, minor = found["gpu"].get("capability", (0, 0))
    about = f"{found['device']}, torch {found['versions']['torch']}, triton {found['versions']['triton']}"
    found |= {
        "results": results,
        "attention_table": attention.table(results, 10 * major + minor, about),
        "errors": errors,
        "targets": {"met": sum(one["met"] for one in targets), "missed": sum(not one["met"] for one in targets)},
        "skipped": sum("skipped" in row for row in results),
        "seconds": round(time.monotonic() - start, 1),
    }
    if options.out:
        with files.publish(options.out) as temporary:
            temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(found, ensure_ascii=False))
    return 0 if found["tests"]["ok"] and not errors else 1


def _need_gpu(rehearse: bool) -> None:
    try:
        import torch
    except ImportError:
        raise MissingRuntime("this needs PyTorch: pip install torch") from None
    if not rehearse and not torch.cuda.is_available():
        raise MissingRuntime("this needs an NVIDIA GPU and a PyTorch with CUDA; --rehearse goes through it on the CPU")


def _surroundings(device: str) -> dict[str, Any]:
    """The machine, the versions, the commit and the date."""
    gpu = recording.gpu() if device != "cpu" else {}
    return {
        "device": gpu.get("name", doctor.cpu_model()),
        "gpu": gpu,
        "cpu": doctor.cpu_model(),
        "cores": doctor.cores(),
        "system": platform.platform(),
        **recording.software(),
    }


def _tests(seconds: float, rehearsal: bool) -> dict[str, Any]:
    """The tests marked `gpu`, in a process of their own: how many passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests", "-p", "no:cacheprovider", f"--junitxml={report}"]
        start = time.monotonic()
        try:
            ended = subprocess.run(
                command, cwd=REPOSITORY, timeout=seconds, capture_output=True, text=True, errors="replace"
            )
        except subprocess.TimeoutExpired:
            return {"ok": False, "reason": f"stopped after {seconds:.0f} s", "command": "pytest -m gpu tests"}
        counts: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1), "command": "pytest -m gpu tests"}
        if not report.is_file():
            return {"ok": False, "reason": (ended.stderr or ended.stdout)[-500:], **counts}
        counts |= _counts(ElementTree.parse(report).getroot())
        return counts | {"ok": not counts["failed"] and (rehearsal or counts["passed"] > 0)}


def _counts(report: ElementTree.Element) -> dict[str, Any]:
    """Passed, failed and skipped tests of a JUnit report, with the reasons."""
    failed, skipped, passed = [], [], 0
    for case in report.iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        trouble = case.find("failure") if case.find("failure") is not None else case.find("error")
        omitted = case.find("skipped")
        if trouble is not None:
            failed.append({"test": name, "message": (trouble.get("message") or "")[:300]})
        elif omitted is not None:
            skipped.append({"test": name, "reason": (omitted.get("message") or "")[:200]})
        else:
            passed += 1
    return {"passed": passed, "failed": len(failed), "skipped": len(skipped), "failures": failed, "reasons": skipped}


def _peaks(clock: Any) -> dict[str, float]:
    """TFLOP/s of the largest matrix product and GB/s of a copy, as measured here."""
    import torch

    n, dtype = (256, torch.float32) if clock.rehearsal else (8192, torch.float16)
    a, b = (torch.randn(n, n, device=clock.device, dtype=dtype) for _ in range(2))
    source = torch.zeros(1 << (20 if clock.rehearsal else 30), dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    out = torch.empty_like(a)
    seconds = clock.seconds({"matrix": lambda: torch.mm(a, b, out=out), "copy": lambda: target.copy_(source)})
    return {
        "matrix_tflops": round(2 * n**3 / seconds["matrix"] / 1e12, 4),
        "copy_gb_per_second": round(2 * len(source) / seconds["copy"] / 1e9, 1),
    }


def _line(row: dict[str, Any]) -> str:
    """A row for people."""
    about = {key: value for key, value in row.items() if key in ("section", "pass", "N", "B", "H", "case", "model")}
    told = ("skipped", "error", "tflops", "microseconds", "ratio", "images_per_second", "original_images_per_second")
    numbers = {key: row[key] for key in told if key in row}
    marks = "".join(
        f"; {one['what']} {one['got']} ({'met' if one['met'] else 'MISSED'}, {one['wanted']} wanted)"
        for one in row.get("targets", [])
    )
    return f"{' '.join(f'{key} {value}' if key != 'section' else value for key, value in about.items())}: {numbers}{marks}"


def _parse() -> argparse.Namespace:
    parser = cli.parser("benchmarks.gpu", __doc__)
    parser.add_argument("--out", metavar="JSON", help="file to write")
    parser.add_argument("--seconds", type=cli.positive, default=450, help="of all of it (default 450)")
    parser.add_argument("--rehearse", action="store_true", help="every step on the CPU, tiny")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
