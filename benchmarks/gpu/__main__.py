"""The first hour on an NVIDIA GPU in one command: tests, memory checks, and every kernel and model beside its peers.

    python -m benchmarks.gpu --out benchmarks/results/h100.json
    python -m benchmarks.gpu --out ends.json --seconds 300 --sections machine,ends

Needs a bare checkout with PyTorch for CUDA, Triton, NumPy, Pillow and tqdm; of what else is missing (pytest for the
tests, compute-sanitizer, TensorRT, ONNX for its engines) a row says so. Each section runs in a process of its own,
which costs at most a row if it hangs, dies or loses the device; the JSON is written after every row, and whatever the
time does not hold is skipped, with that reason in its row. A row's result is checked before it is timed; a target that
is missed comes with its profile. The last line is JSON. The exit code is 0 if the tests passed and every row that was
begun was right, 1 if not (missed targets alone are no failure), and 2 without a GPU.

    python -m benchmarks.gpu --rehearse

goes through every step on the CPU with tiny sizes, and measures nothing of worth.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import recording
from benchmarks.gpu import watching
from benchmarks.gpu.processes import GRACE
from benchmarks.gpu.results import Results, line
from benchmarks.gpu.sections import SECTIONS, deadline
from segfast import cli
from segfast.errors import MissingRuntime
from segfast.kernels.quota import cpus
from segfast.machine.cpu import cpu_model

# An hour on a GPU; on a CPU, what its rows take.
SECONDS, REHEARSAL_SECONDS = 3600, 600


def main() -> int:
    """Run the sections; write and print what they found."""
    options = _parse()
    start = time.monotonic()
    _need_gpu(options.rehearse)
    seconds = options.seconds or (REHEARSAL_SECONDS if options.rehearse else SECONDS)
    grace = min(GRACE, 0.05 * seconds)
    results = Results({"benchmark": "benchmarks.gpu", "rehearsal": options.rehearse, **_surroundings()}, options.out)
    results.write()
    run(options.sections, results, "cpu" if options.rehearse else "cuda", start + seconds, grace)
    results.write(complete=True)
    print(json.dumps(results.content(complete=True), ensure_ascii=False))
    return 0 if results.passed() else 1


def run(sections: tuple[watching.Section, ...], results: Results, device: str, end: float, grace: float) -> None:
    """Run one section after the other.

    Args:
        end: of all of it, of `time.monotonic`.
        grace: seconds of it in which a section that is stopped may write what it has.
    """
    for index, section in enumerate(sections):
        begun = time.monotonic()
        given = watching.Given(device, deadline(begun, end - grace, index, sections), grace, results.peak)
        with closing(watching.rows(section, given)) as rows:
            for row in rows:
                results.add(row)
                print(line(row), flush=True)
        results.end(section.name, time.monotonic() - begun)


def _need_gpu(rehearse: bool) -> None:
    try:
        import torch
    except ImportError:
        raise MissingRuntime("this needs PyTorch: pip install torch") from None
    if not rehearse and not torch.cuda.is_available():
        raise MissingRuntime("this needs an NVIDIA GPU and a PyTorch with CUDA; --rehearse goes through it on the CPU")


def _surroundings() -> dict[str, Any]:
    """The machine but for its GPU, the versions, the commit and the date."""
    return {
        "device": cpu_model(),
        "cpu": cpu_model(),
        "cores": cpus(),
        "system": platform.platform(),
        **recording.software(),
    }


def _parse() -> argparse.Namespace:
    parser = cli.parser("benchmarks.gpu", __doc__)
    parser.add_argument("--out", metavar="JSON", type=Path, help="file to write")
    defaults, names = (
        f"(default {SECONDS}; in a rehearsal {REHEARSAL_SECONDS})",
        ", ".join(one.name for one in SECTIONS),
    )
    parser.add_argument("--seconds", type=cli.positive, help=f"of all of it {defaults}")
    parser.add_argument("--sections", metavar="A,B", type=_sections, default=SECTIONS, help=f"of {names}")
    parser.add_argument("--rehearse", action="store_true", help="every step on the CPU, tiny")
    return parser.parse_args()


def _sections(text: str) -> tuple[watching.Section, ...]:
    """The sections of these names, in the order of the proof."""
    wanted = set(text.split(","))
    if unknown := wanted - {one.name for one in SECTIONS}:
        raise argparse.ArgumentTypeError(f"there is no section {', '.join(sorted(unknown))}")
    return tuple(one for one in SECTIONS if one.name in wanted)


if __name__ == "__main__":
    cli.run(main)
