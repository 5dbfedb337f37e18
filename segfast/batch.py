"""Segment pictures by the thousand or million, on this machine or a Ray cluster: label PNGs, and a parquet manifest.

    python -m segfast.batch seg-b-mask-16-512-fp16.onnx photos/ -o labels
    python -m segfast.batch seg-b-mask-16-512-fp16.onnx photos.parquet --column path -o labels
    python -m segfast.batch /shared/model.onnx s3://bucket/photos -o s3://bucket/labels --address ray://head:10001 --gpus 0.5

SOURCE is a folder, a pattern in quotes, a list (.txt with an address a line, .parquet), or a prefix of an object store.
The labels of `deep/a.jpg` are `deep/a.jpg-labels.png`; `segfast-manifest/` has a row for every picture, the bad ones with their
error. Each file is written once and whole. The same command goes on where the last one ended, and tries bad pictures again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from segfast import cli, files
from segfast.dependencies.imports import need
from segfast.errors import BadOption
from segfast.kernels.checks import cpus
from segfast.progress import bar

if TYPE_CHECKING:
    from segfast.scale.run import Job
    from segfast.scale.sources import Picture

SHOWN = 20  # bad pictures that are named at the end


def main() -> int:
    """Segment what the command line names; 0 if every picture has labels, else 1."""
    options = _parse()
    need("ray", "ray", "pyarrow", "fsspec")

    from segfast.scale import manifest, sources, store

    source = sources.find(options.source, options.out, options.column)
    place = store.open_store(options.out)
    manifest.check_run(place, _settings(options))
    had = manifest.done(place)
    left = [picture for picture in source.pictures if picture.name not in had]
    if source.left_out:
        print(source.left_out)
    print(f"{len(source.pictures)} pictures, {len(source.pictures) - len(left)} of them done before")
    failed = _run(options, left) if left else []
    place.sweep({*(str(Path(picture.name).parent) for picture in left), manifest.FOLDER})
    print(f"{len(left) - len(failed)} of {len(left)} pictures written to {options.out}")
    for line in failed[:SHOWN]:
        print(f"failed: {line}", file=sys.stderr)
    if len(failed) > SHOWN:
        print(f"… and {len(failed) - SHOWN} more: rows of the manifest with an error", file=sys.stderr)
    return 1 if failed else 0


def _run(options: argparse.Namespace, pictures: list[Picture]) -> list[str]:
    """The run; what failed, in words."""
    from segfast.scale import cluster

    failed: list[str] = []
    # Ray counts CPUs, it does not bind them: of one, an actor and the readers have each a whole.
    with cluster.connected(options.address, max(2, cpus())) as resources:
        job = _job(options, resources)
        threads = job.options.get("threads")
        print(
            f"{job.actors} actor{'s' * (job.actors > 1)}, {threads or 'all'} threads, {job.gpus:g} GPUs each",
            flush=True,
        )
        with bar(desc="segment", total=len(pictures), unit="picture") as shown:
            for chunk in cluster.run_from_here(job, pictures):
                failed += chunk.failed
                shown.update(chunk.written + len(chunk.failed))
    return failed


def _job(options: argparse.Namespace, resources: Mapping[str, float]) -> Job:
    """How many actors there are, and what each takes: of this machine all but a CPU, which Ray's readers have."""
    from segfast.scale.run import Job

    have = int(resources.get("CPU", 1))
    share = options.cpus or (1 if options.gpus else have - 1 if options.address is None else min(4, have - 1))
    most = resources.get("GPU", 0) // options.gpus if options.gpus else (have - 1) // max(share, 1)
    if share < 1 or (options.actors or most) < 1:
        raise BadOption(
            f"there are {have} CPUs and {resources.get('GPU', 0):g} GPUs, too few for an actor and a reader"
        )
    network = {"runtime": options.runtime, "device": options.device or ("cuda" if options.gpus else None)}
    threads = options.threads or (None if options.address is None or options.gpus else share)
    given = {name: value for name, value in (network | {"threads": threads}).items() if value is not None}
    out = options.out if "://" in options.out else str(Path(options.out).absolute())
    return Job(
        _model(options.engine), out, given, options.actors or int(most), share, options.gpus or 0.0, options.readers
    )


def _model(name: str) -> str:
    """The model's path as other processes find it."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _settings(options: argparse.Namespace) -> dict[str, object]:
    """What the labels depend on."""
    path = Path(options.engine)
    return {"model": path.name, "sha256": files.sha256(path) if path.is_file() else None}


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.batch", __doc__)
    parser.add_argument("engine", metavar="MODEL", help=".onnx or .engine file, checkpoint, or published name")
    parser.add_argument("source", metavar="SOURCE", help="folder, pattern, .txt, .parquet, or address of a prefix")
    parser.add_argument("-o", "--out", metavar="DEST", required=True, help="folder, or address of a prefix")
    parser.add_argument("--column", default="path", help="of a parquet file, with the addresses (default: path)")
    parser.add_argument("--address", help="of a Ray cluster, ray://HOST:10001 (default: this machine alone)")
    parser.add_argument(
        "--actors", type=cli.positive, help="each with an Engine (default: as many as there is room for)"
    )
    parser.add_argument(
        "--cpus", type=cli.positive, help="of Ray that an actor takes (default: all but one here, else 4)"
    )
    parser.add_argument("--gpus", type=_share, help="that an actor takes, such as 0.5 (default: none)")
    parser.add_argument(
        "--readers", type=cli.positive, default=2, help="threads that read ahead in an actor (default: 2)"
    )
    parser.add_argument("--runtime", choices=("openvino", "onnxruntime", "pytorch"))
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda with --gpus)")
    parser.add_argument(
        "--threads", type=cli.positive, help="CPU threads of the network (default: all of this machine)"
    )
    return parser.parse_args()


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 8:
        raise argparse.ArgumentTypeError(f"{text} is no share of a GPU; write 0.5, or 1")
    return value


if __name__ == "__main__":
    cli.run(main)
