"""Actors are killed at random moments while 2,000 small pictures run: every picture must have one right result.

python -m benchmarks.scale.kills
python -m benchmarks.scale.kills --pictures 400 --every 1 3
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
from PIL import Image

from benchmarks.scale import pictures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--every", type=float, nargs=2, default=(0.5, 4.0), help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = pictures.tiny_model(root)
        (root / "photos").mkdir()
        for number in range(options.pictures):
            (root / "photos" / f"{number:05}.png").write_bytes(pictures.encoded(number))
        start = time.monotonic()
        killed = run_and_kill(model, root, options.every)
        seconds = time.monotonic() - start
        check(model, root, options.pictures)
    print(
        f"{options.pictures} pictures, {killed} actors killed, every one has one right result; {seconds:.0f} s, {pictures.load()}"
    )


def run_and_kill(model, root, every):
    """How many actors were killed while the command ran, which must end well."""
    command = [sys.executable, "-m", "segfast.batch", str(model), str(root / "photos"), "-o", str(root / "out")]
    process = subprocess.Popen(command)
    killed, written, due = 0, 0, time.monotonic() + random.uniform(*every)
    while process.poll() is None:
        time.sleep(0.1)
        if time.monotonic() < due:
            continue
        actors, now = workers(process.pid), len(list((root / "out").glob("*.png")))
        if actors and now > written:  # an actor starts for seconds: one that does nothing is left to
            written = now
            os.kill(random.choice(actors), signal.SIGKILL)
            killed += 1
        due = time.monotonic() + random.uniform(*every)
    assert process.returncode == 0, process.returncode
    return killed


def workers(ancestor):
    """The actors among the descendants of a process."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(folder.name)] = (folder / "cmdline").read_bytes()
            except OSError:
                continue
    found = []
    for pid, name in names.items():
        above = pid
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor and name.startswith(b"ray::MapWorker"):
            found.append(pid)
    return found


def check(model, root, count):
    """See that every picture has one row, and the labels that an Engine gives."""
    from segfast import Engine

    rows = pyarrow.parquet.read_table(root / "out" / "segfast-manifest").to_pylist()
    assert len(rows) == count, len(rows)
    assert len({row["name"] for row in rows}) == count
    assert all(row["error"] is None for row in rows)
    photos = sorted((root / "photos").iterdir())
    for path, answer in zip(photos, Engine(model).segment_many(photos), strict=True):
        found = np.asarray(Image.open(root / "out" / f"{path.name}-labels.png"))
        assert np.array_equal(found, answer.labels), path
    # What a killed writer had begun has a name of its own, and is swept a minute later.
    assert len([path for path in (root / "out").glob("*.png") if not path.name.startswith(".")]) == count


if __name__ == "__main__":
    main()
