"""`python -m segfast.batch` on one actor beside `segment_many`, by turns: both write the labels' PNGs.

    python -m benchmarks.scale.rate seg-b-mask-16-512-fp16.onnx

Of the batch the time between its first and last chunk counts, as starting Ray and the Engine is paid once.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.scale import pictures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from segfast import Engine

    engine = Engine(options.model)
    engine.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        photos.mkdir()
        for number in range(options.pictures):
            (photos / f"{number:05}.jpg").write_bytes(pictures.encoded(number, (512, 512), "JPEG"))
        for turn in range(options.rounds):
            ours = many(engine, sorted(photos.iterdir()), Path(folder, f"many-{turn}"))
            theirs, whole = batch(options.model, photos, Path(folder, f"batch-{turn}"), options.pictures)
            print(
                f"segment_many {ours:.2f}, batch {theirs:.2f} images/s: {theirs / ours:.0%}; "
                f"batch with its start {whole:.0f} s; {pictures.load()}",
                flush=True,
            )


def many(engine, paths, out):
    out.mkdir()
    start = time.perf_counter()
    for path, answer in zip(paths, engine.segment_many(paths), strict=True):
        answer.save(out / f"{path.name}.png")
    return len(paths) / (time.perf_counter() - start)


def batch(model, photos, out, count):
    """(images a second between the first and the last chunk, seconds of it all)."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "segfast.batch", model, str(photos), "-o", str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    whole = time.perf_counter() - start
    times = sorted(path.stat().st_mtime for path in (out / "segfast-manifest").glob("*.parquet"))
    chunk = -(-count // len(times))
    return (count - chunk) / (times[-1] - times[0]), whole


if __name__ == "__main__":
    main()
