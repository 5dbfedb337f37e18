"""Segment pictures by the thousand or million, on this machine or a Ray cluster: label PNGs, and a parquet manifest.

    python -m segfast.batch seg-b-mask-16-512-fp16.onnx photos/ -o labels
    python -m segfast.batch seg-b-mask-16-512-fp16.onnx photos.parquet --column path -o labels
    python -m segfast.batch /shared/model.onnx s3://bucket/photos -o s3://bucket/labels --address ray://head:10001 --gpus 0.5

SOURCE is a folder, a pattern in quotes, a list (.txt with an address a line, .parquet), or a prefix of an object store.
The labels of `deep/a.jpg` are `deep/a.jpg-labels.png`; `manifest/` has a row for every picture, the bad ones with their
error. Each file is written once and whole. The same command goes on where the last one ended, and tries bad pictures again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segfast import cli
from segfast.dependencies.imports import need
from segfast.kernels.checks import cpus
from segfast.progress import bar

SHOWN = 20  # bad pictures that are named at the end


def main() -> int:
    """Segment what the command line names; 0 if every picture has labels, else 1."""
    options = _parse()
    need("ray", "ray", "pyarrow", "fsspec")

    from segfast.scale import manifest, run, sources, store

    source = sources.find(options.source, options.out, options.column)
    place = store.open_store(options.out)
    manifest.check_run(place, _settings(options))
    had = manifest.done(place)
    left = [picture for picture in source.pictures if picture.name not in had]
    if source.left_out:
        print(source.left_out)
    print(f"{len(source.pictures)} pictures, {len(source.pictures) - len(left)} of them done before")
    failed = _run(options, left) if left else []
    print(f"{len(left) - len(failed)} of {len(left)} pictures written to {options.out}")
    for line in failed[:SHOWN]:
        print(f"failed: {line}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(f"… and {len(failed) - SHOWN} more: rows of the manifest with an error", file=sys.stderr)
    return 1 if failed else 0


def _run(options: argparse.Namespace, pictures: list[sources.Picture]) -> list[str]:
    """The run; what failed, in words."""
    from segfast.scale import run

    failed: list[str] = []
    with run.connected(options.address, cpus()) as resources:
        job = _job(options, resources)
        with bar(desc="segment", total=len(pictures), unit="picture") as shown:
            for chunk in run.run(job, pictures):
                failed += chunk.failed
                shown.update(chunk.written + len(chunk.failed))
    return failed


if __name__ == "__main__":
    cli.run(main)
