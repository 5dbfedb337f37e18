"""Segment pictures, or folders of them: for each, its labels as PNG and an overlay with a legend.

    python -m segfast.segment seg-b-mask-16-512-fp16.onnx photo.jpg -o out
    python -m segfast.segment seg-b-mask-16@ade20k photos/ -o out --multiscale

Pictures that cannot be read are listed at the end, the others are written, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from segfast import cli, files
from segfast.errors import BadImage, BadOption, NotSupported, SegfastError
from segfast.image import SUFFIXES


def main() -> int:
    """Segment what the command line names; 0 if every picture was written, else 1."""
    options = _parse()
    pictures = find_pictures(options.images, Path(options.out))
    names = output_names(pictures)

    from tqdm import tqdm

    from segfast.engine import Engine

    choices = {name: getattr(options, name) for name in ("runtime", "device", "threads", "precision")}
    engine = Engine(options.engine, **choices)
    print(engine)
    folder = files.make_folder(options.out)
    failures: list[str] = []
    areas: Counter[str] = Counter()
    start = time.perf_counter()
    paths = [picture for picture, _ in pictures]
    answers = engine.segment_many(paths, multiscale=options.multiscale, stride=options.stride, errors="yield")
    for picture, name, answer in zip(paths, names, tqdm(answers, "segment", len(paths), unit="picture"), strict=True):
        if isinstance(answer, (BadImage, NotSupported)):
            failures.append(f"{picture}: {answer}")
            continue
        if isinstance(answer, SegfastError):
            raise answer
        target = folder / name
        files.make_folder(target.parent)
        answer.save(target.with_name(f"{target.name}-labels.png"))
        files.write_png(answer.overlay(), target.with_name(f"{target.name}-overlay.png"))
        areas.update(answer.areas)
    _summarise(len(pictures), failures, areas, time.perf_counter() - start, folder)
    return 1 if failures else 0


def find_pictures(arguments: Iterable[str], out: Path) -> list[tuple[Path, Path]]:
    """(picture, path to name its outputs after) of every file named, and of every picture in a folder.

    What lies in `out` is left out of folders: it was written by an earlier run.

    Raises:
        BadOption: a folder holds no picture.
    """
    pictures = []
    for argument in arguments:
        path = Path(argument)
        if not path.is_dir():
            pictures.append((path, Path(path.name)))
            continue
        found = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        inside = sorted(file for file in found if out.resolve() not in file.resolve().parents)
        if not inside:
            raise BadOption(f"there are no pictures in the folder {path}; name another")
        pictures += [(file, file.relative_to(path)) for file in inside]
    return pictures


def output_names(pictures: list[tuple[Path, Path]]) -> list[Path]:
    """Output paths without ending: the picture's own name, with its suffix or a number where two would meet.

    Names that differ only in case meet on some file systems.
    """
    stems = Counter(str(name.with_suffix("")).casefold() for _, name in pictures)
    taken: set[str] = set()
    names = []
    for _, name in pictures:
        stem = name.with_suffix("")
        base = name if stems[str(stem).casefold()] > 1 else stem
        free = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in itertools.count(1))
        chosen = next(path for path in free if str(path).casefold() not in taken)
        taken.add(str(chosen).casefold())
        names.append(chosen)
    return names


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.segment", __doc__)
    parser.add_argument("engine", metavar="ENGINE", help=".onnx or .engine file, checkpoint, or published name")
    parser.add_argument("images", metavar="IMAGE|FOLDER", nargs="+", help="pictures, or folders of them")
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="folder to write to")
    parser.add_argument("--multiscale", action="store_true", help="average 12 views: slower, more accurate")
    parser.add_argument("--stride", type=cli.positive, help="of the sliding window in pixels (default: the model's)")
    parser.add_argument("--runtime", choices=("openvino", "onnxruntime", "pytorch"))
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU if there is one)")
    parser.add_argument("--threads", type=cli.positive, help="CPU threads of the network")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help="of a checkpoint (default: fp16 on a GPU)")
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
