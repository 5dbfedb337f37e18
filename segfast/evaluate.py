"""Measure an engine or checkpoint by the paper's protocol: mIoU, accuracy, and where it errs.

    python -m segfast.evaluate seg-b-mask-16-512-fp16.onnx --data ADEChallengeData2016
    python -m segfast.evaluate best.safetensors --data my/pictures --multiscale --sheet errors.png
    python -m segfast.evaluate best.safetensors --data my/pictures --compare best-fp16.onnx --json scores.json
    python -m segfast.evaluate best.safetensors --data my/pictures --compare their/labels --sheet apart.png
    python -m segfast.evaluate seg-b-mask-16@ade20k --data ADEChallengeData2016 --by-size
    python -m segfast.evaluate seg-b-mask-16@ade20k --data ADEChallengeData2016 --predictions out --as ade20k

The protocol is that of the original's evaluation. Every image is covered with windows that overlap by 32
pixels, whatever the model's own stride; labels are compared at the image's own size. On ADE20K, Pascal
Context and Cityscapes it is first resized, keeping its ratio, to fit 2048×512 (2560×640 for models of
640-pixel windows), 4160×520 or 2048×1024; in your own folder it stays
as it is, unless the model was trained with an --image-size, which is then followed. --multiscale averages the
paper's 12 views. The dataset is checked before anything runs. --predictions of a split
without masks, such as a test set, writes them and measures nothing; train and val must have theirs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfast import cli, files
from segfast.datasets import NAMES, Dataset, detect_dataset
from segfast.datasets.content import tell
from segfast.datasets.options import add_reading, reading_of
from segfast.datasets.unlabelled import PicturesDataset
from segfast.dependencies.imports import need
from segfast.errors import BadOption
from segfast.evaluation.disagreement import Disagreements
from segfast.evaluation.evaluate import check_classes, evaluate_labels, predict
from segfast.evaluation.evaluate import evaluate as evaluate
from segfast.evaluation.folder import LabelFolder
from segfast.evaluation.metrics import Labels
from segfast.evaluation.opening import open_split
from segfast.evaluation.predictions import STYLES, Predictions
from segfast.evaluation.report import Report, lost, table
from segfast.protocol import Size

if TYPE_CHECKING:
    from segfast.engine import Engine

# How many of the best and of the worst pictures a sheet shows.
SHOWN = 3

_Each = Callable[[int, Labels], None] | None


def main() -> int:
    """Evaluate what the command line names; print the table, write the JSON and the sheet."""
    options = _checked(_parse())
    dataset = _open(options)
    folder = LabelFolder(Path(options.compare), dataset) if _is_folder(options.compare) else None
    written = Predictions(dataset, Path(options.predictions), options.style).check() if options.predictions else None
    engines = _engines(options, dataset, alone=folder is not None)
    content = dataset.check(progress=True)
    if isinstance(dataset, PicturesDataset):
        assert written is not None  # a split without masks is opened to be predicted alone
        return _predict(engines[0], dataset, written, options)
    tell([content])
    apart = Disagreements(dataset, 2 * SHOWN) if options.compare and options.sheet else None
    reports = _reports(engines, folder, dataset, options, (apart.note, apart.compare) if apart else (written, None))
    print("\n".join(_heading(reports[0], engines[0].config.protocol.fit) + table(reports)))
    if options.json:
        files.write_text(_json(reports) + "\n", options.json)
    if options.sheet:
        _draw(reports, apart, dataset, options.sheet)
    return 0


def _checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options, if they fit together and what they name can be written."""
    for path, suffix in ((options.json, ".json"), (options.sheet, ".png")):
        if path is not None:
            files.check_suffix(path, suffix)
            files.make_folder(Path(path).parent)
    if options.by_size:
        need("train", "scipy")
    if options.compare and options.predictions:
        raise BadOption("--predictions is of one engine; leave --compare out")
    return options


def _engines(options: argparse.Namespace, dataset: Dataset, *, alone: bool) -> list[Engine]:
    """The engine, and unless it is `alone` the one it is compared with; both of the dataset's classes."""
    from segfast.engine import Engine

    names = [options.engine, *([options.compare] if options.compare and not alone else [])]
    settings = {"runtime": options.runtime, "device": options.device, "threads": options.threads}
    engines = [Engine(name, **settings) for name in names]
    for engine in engines:
        print(engine)
        check_classes(engine, dataset, not options.ignore_names)
    return engines


def _predict(engine: Engine, dataset: Dataset, written: Predictions, options: argparse.Namespace) -> int:
    """Write the labels of pictures that have no masks."""
    predict(engine, dataset, written, progress=True, **_how(options))
    print(
        f"{len(dataset)} pictures of {dataset.split} are predicted in {options.predictions}; there are no masks to measure by"
    )
    return 0


def _draw(reports: list[Report], apart: Disagreements | None, dataset: Dataset, path: str) -> None:
    """Write the sheet."""
    from segfast.evaluation.sheet import draw, draw_compared

    sheet = draw_compared(reports[0], reports[1], apart.pairs, dataset) if apart else draw(reports[0], dataset)
    files.write_png(sheet, path)


def _reports(
    engines: list[Engine],
    folder: LabelFolder | None,
    dataset: Dataset,
    options: argparse.Namespace,
    told: tuple[_Each, _Each],
) -> list[Report]:
    """Of the engine, and of what it is compared with; `told` are called with the labels of each."""
    first, second = told
    reports = [_evaluate(engines[0], dataset, options, first)]
    if folder is not None:
        print(folder)
        reports.append(evaluate_labels(folder, dataset, by_size=options.by_size, each=second, progress=True))
    return [*reports, *(_evaluate(engine, dataset, options, second) for engine in engines[1:])]


def _is_folder(name: str | None) -> bool:
    """Whether --compare names a folder of labels: one that holds no checkpoint of the original code."""
    path = Path(name or "")
    return bool(name) and path.is_dir() and not (path / "checkpoint.pth").is_file()


def _evaluate(engine: Engine, dataset: Dataset, options: argparse.Namespace, each: _Each) -> Report:
    return evaluate(
        engine,
        dataset,
        by_size=options.by_size,
        check_names=not options.ignore_names,
        keep=SHOWN if options.sheet and not options.compare else 0,
        each=each,
        progress=True,
        **_how(options),
    )


def _how(options: argparse.Namespace) -> dict[str, Any]:
    """How pictures are segmented, with or without a truth."""
    return {name: getattr(options, name) for name in ("multiscale", "stride", "fit")}


def _open(options: argparse.Namespace) -> Dataset:
    """The split, or its first pictures."""
    name, root = _named(options)
    predicting = bool(options.predictions) and not (options.json or options.sheet or options.by_size)
    dataset = open_split(name, root, options.split, reading_of(options), predicting=predicting)
    return dataset.take(range(min(options.limit, len(dataset)))) if options.limit else dataset


def _named(options: argparse.Namespace) -> tuple[str, str | None]:
    """The dataset's name and folder."""
    if options.data == "shapes" and options.dataset in (None, "shapes"):
        return "shapes", None
    return options.dataset or detect_dataset(options.data), options.data


def _heading(report: Report, trained: Size | None) -> list[str]:
    views = "12 views" if report.multiscale else "single scale"
    size = f"resized to fit {report.fit[0]}×{report.fit[1]}" if report.fit else "of its own size"
    size += ", as the model was trained" if report.fit and report.fit == trained else ""
    what = f"{report.dataset} {report.split}, {len(report.samples)} pictures"
    return [f"{what}: {views}, every picture {size}, stride {report.stride}, {report.seconds:.1f} s"]


def _json(reports: list[Report]) -> str:
    if len(reports) == 1:
        return reports[0].to_json()
    first, second = reports
    points = {name: lost(getattr(first, name), getattr(second, name)) for name in ("miou", "pixel_accuracy")}
    return first.to_json(compared=second.to_dict(), points_lost=points)


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.evaluate", __doc__)
    parser.add_argument("engine", metavar="ENGINE", help=".onnx or .engine file, checkpoint, or published name")
    parser.add_argument(
        "--data", metavar="DIR", required=True, help="folder of the dataset; or shapes, which draws itself"
    )
    parser.add_argument("--dataset", choices=NAMES, help="which one it is (default: told by its layout)")
    parser.add_argument("--split", default="val", help="(default: val)")
    add_reading(parser)
    parser.add_argument("--multiscale", action="store_true", help="average 12 views: slower, more accurate")
    parser.add_argument("--stride", type=cli.positive, help="of the sliding window in pixels (default: window − 32)")
    cli.add_fit(parser, "dataset", "as the model was trained, or the dataset's rule")
    parser.add_argument(
        "--by-size",
        action="store_true",
        help="also mIoU of small, medium and large objects: connected parts of a class in the truth of under 32² pixels, from 32², from 96²",
    )
    parser.add_argument(
        "--compare",
        metavar="OTHER",
        help="another engine, or a folder of label PNGs of any system: both side by side, and the points it loses",
    )
    _add_outputs(parser)
    parser.add_argument("--limit", type=cli.positive, metavar="N", help="the first N pictures only")
    parser.add_argument("--ignore-names", action="store_true", help="take classes to be the same whatever their names")
    cli.add_runtime(parser)
    return parser.parse_args()


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write everything, as fractions")
    parser.add_argument(
        "--sheet",
        metavar="PNG",
        help="draw ENGINE's best and worst pictures with truth, prediction and error; with --compare those about which the two disagree most",
    )
    parser.add_argument("--predictions", metavar="DIR", help="write the labels of every picture as PNG")
    parser.add_argument(
        "--as",
        dest="style",
        choices=tuple(STYLES),
        default="index",
        help="what those hold: class indices, or what the servers of ADE20K (index + 1) and Cityscapes (labelIds) take",
    )


if __name__ == "__main__":
    cli.run(main)
