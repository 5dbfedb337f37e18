"""How fast a file runs, and what memory its process takes, in a process of its own.

    python -m segfast.tuning.speed FILE RUNTIME THREADS PICTURES SECONDS

RUNTIME and THREADS may be `-`, the Engine's default; PICTURES is an `.npz` of arrays [H, W, 3]. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from segfast.errors import SegfastError
from segfast.machine import memory
from segfast.tuning.candidates import Setting

# What one process may take: it compiles a network twice before it is timed.
LIMIT = 1800
# Pictures of one call of segment_many at least, so that its start does not count.
FEWEST = 12
_REFUSED = 3


@dataclass(frozen=True)
class Speed:
    """Of a file in one setting.

    Attributes:
        images_per_second: of `segment_many`, pictures in memory.
        milliseconds: of one picture by `segment`, the mean of all pictures.
        peak_bytes: that the process held; None where the system does not tell.
        runtime: what ran, in words.
    """

    images_per_second: float
    milliseconds: float
    peak_bytes: int | None
    runtime: str

    def best(self, other: Speed | None) -> Speed:
        """The better of two rounds in each respect; of the memory the larger."""
        if other is None:
            return self
        peaks = [one.peak_bytes for one in (self, other) if one.peak_bytes is not None]
        return replace(
            self,
            images_per_second=max(self.images_per_second, other.images_per_second),
            milliseconds=min(self.milliseconds, other.milliseconds),
            peak_bytes=max(peaks, default=None),
        )


def measure(path: Path, setting: Setting, pictures: Path, seconds: float) -> Speed | str:
    """The speed of a file, measured in a child; or why it cannot be had, in words."""
    threads = "-" if setting.threads is None else str(setting.threads)
    line = [sys.executable, "-m", __name__, str(path), setting.runtime, threads, str(pictures), str(seconds)]
    # Where the package is a checkout, children find it as this process does.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        with tempfile.TemporaryDirectory(dir=pictures.parent) as cache:  # gigabytes of compiled models in all
            environment["SEGFAST_CACHE"] = cache
            ended = subprocess.run(  # noqa: S603 (this module)
                line, capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT, env=environment
            )
    except subprocess.TimeoutExpired:
        return f"stopped after {LIMIT} s"
    if ended.returncode == 0:
        return Speed(**json.loads(ended.stdout.splitlines()[-1]))
    reason = ended.stderr.strip().rpartition("\n")[2]
    return reason or f"its process ended with code {ended.returncode}: memory ran out, perhaps"


def timed(path: Path, runtime: str, threads: int | None, pictures: list[np.ndarray], seconds: float) -> Speed:
    """The speed of a file in this process, in about so many seconds once it is compiled.

    Raises:
        As `Engine` and `Engine.segment`.
    """
    from segfast.engine import Engine

    engine = Engine(path, runtime=runtime, device="cpu", threads=threads)
    engine.warm_up()
    clock, taken, start = time.perf_counter, list[float](), time.perf_counter()
    while not taken or (clock() - start < seconds / 2 and len(taken) < 5):
        begun = clock()
        for picture in pictures:
            engine.segment(picture)
        taken.append((clock() - begun) / len(pictures))
    wanted = int(np.clip(seconds / 2 / min(taken), FEWEST, 256))
    many = (pictures * -(-wanted // len(pictures)))[:wanted]
    begun = clock()
    for _ in engine.segment_many(many):
        pass
    rate = len(many) / (clock() - begun)
    return Speed(rate, 1e3 * min(taken), memory.peak(), engine.runtime)


def main(path: str, runtime: str, threads: str, pictures: str, seconds: str) -> int:
    """Print the speed; an error in one line."""
    with np.load(pictures) as stored:
        images = [stored[name] for name in stored.files]
    try:
        found = timed(Path(path), runtime, None if threads == "-" else int(threads), images, float(seconds))
    except SegfastError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return _REFUSED
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
