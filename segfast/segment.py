"""Segment pictures, or folders of them: for each, its labels as PNG and an overlay with a legend.

    python -m segfast.segment seg-b-mask-16-512-fp16.onnx photo.jpg -o out
    python -m segfast.segment seg-b-mask-16@ade20k photos/ -o out --multiscale

Pictures that cannot be read or written are listed at the end, and the exit code is 1; the others are written. Whatever
else a folder holds is counted. A pattern in quotes works as well: 'photos/**/*.jpg'.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from segfast import cli, files
from segfast.errors import BadImage, CannotWrite, NotSupported, SegfastError
from segfast.pictures.selection import LABELS, OVERLAY, find_pictures, output_names
from segfast.progress import bar
from segfast.protocol import MODEL

if TYPE_CHECKING:
    from segfast.segmentation import Segmentation


def main() -> int:
    """Segment the pictures on the command line; 0 if every one was written, else 1."""
    options = _parse()
    selection = find_pictures(options.images, Path(options.out))
    paths, names = [path for path, _ in selection.pictures], output_names(selection.pictures)

    from segfast.engine import Engine

    choices = {name: getattr(options, name) for name in ("runtime", "device", "threads", "precision")}
    engine = Engine(options.engine, **choices)
    print(engine)
    if selection.left_out:
        print(selection.report())
    folder = files.make_folder(options.out)
    failures: list[str] = []
    areas: Counter[str] = Counter()
    start = time.perf_counter()
    protocol = {name: getattr(options, name) for name in ("multiscale", "stride", "fit")}
    answers = engine.segment_many(paths, **protocol, errors="yield")
    shown = bar(answers, "segment", total=len(paths), unit="picture")
    for path, name, answer in zip(paths, names, shown, strict=True):
        try:
            if isinstance(answer, SegfastError):
                raise answer
            _write(answer, folder / name)
            areas.update(answer.areas)
        except (BadImage, NotSupported, CannotWrite) as error:
            if isinstance(error, CannotWrite) and not error.own:
                raise
            failures.append(f"{path}: {error}")
    _summarise(len(paths), failures, areas, time.perf_counter() - start, folder)
    return 1 if failures else 0


def _write(answer: Segmentation, target: Path) -> None:
    """Write labels and overlay, or neither: both destinations are opened before either is written."""
    files.make_folder(target.parent)
    overlay_path, labels_path = (target.with_name(target.name + ending) for ending in (OVERLAY, LABELS))
    with files.publish(overlay_path) as overlay, files.publish(labels_path) as labels:
        answer.overlay().save(overlay, format="PNG")
        answer.save(labels)


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.segment", __doc__)
    parser.add_argument("engine", metavar="ENGINE", help=".onnx or .engine file, checkpoint, or published name")
    parser.add_argument(
        "images", metavar="IMAGE|FOLDER", nargs="+", help="pictures, folders of them, or patterns in quotes"
    )
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="folder to write to")
    parser.add_argument("--multiscale", action="store_true", help="average 12 views: slower, more accurate")
    parser.add_argument("--stride", type=cli.positive, help="of the sliding window in pixels (default: the model's)")
    cli.add_fit(parser, MODEL, "as the model was trained")
    cli.add_runtime(parser)
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16"), help="of a checkpoint (default: fp16 on a GPU)"
    )
    return parser.parse_args()


def _summarise(total: int, failures: list[str], areas: Counter[str], seconds: float, folder: Path) -> None:
    written = total - len(failures)
    print(f"{written} of {total} pictures written to {folder} in {seconds:.1f} s")
    if written:
        shares = ", ".join(f"{name} {share / written:.0%}" for name, share in areas.most_common(5))
        print(f"mean share of the picture: {shares}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
