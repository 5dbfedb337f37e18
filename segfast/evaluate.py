"""Measure an engine or checkpoint by the paper's protocol: mIoU, accuracy, and where it errs.

    python -m segfast.evaluate seg-b-mask-16-512-fp16.onnx --data ADEChallengeData2016
    python -m segfast.evaluate best.safetensors --data my/pictures --multiscale --sheet errors.png
    python -m segfast.evaluate best.safetensors --data my/pictures --compare best-fp16.onnx --json scores.json
    python -m segfast.evaluate seg-b-mask-16@ade20k --data ADEChallengeData2016 --by-size

The protocol is that of the original's evaluation. Every image is covered with windows that overlap by 32
pixels, whatever the model's own stride; labels are compared at the image's own size. On ADE20K, Pascal
Context and Cityscapes it is first resized, keeping its ratio, to fit 2048×512 (2560×640 for models of
640-pixel windows), 4160×520 or 2048×1024; in your own folder it stays as it is. --multiscale averages the
paper's 12 views. The dataset is checked before anything runs.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segfast import cli, files
from segfast.datasets import NAMES, Dataset, detect_dataset, open_dataset
from segfast.dependencies.imports import need
from segfast.errors import BadData, BadModel
from segfast.evaluation.metrics import Matrix, confusion, confusion_by_size, scores
from segfast.evaluation.report import Report, Sample, lost, table
from segfast.progress import bar
from segfast.protocol import Size

if TYPE_CHECKING:
    from segfast.engine import Engine

# Windows overlap by so many pixels in evaluation (original code), but by half a window at most.
OVERLAP = 32
# (max_ratio, im) of the original's evaluation: an image is resized to fit (max_ratio · im, im).
RESIZED = {"ade20k": (4, 512), "pascal_context": (8, 520), "cityscapes": (2, 1024)}
# How many of the best and of the worst pictures a sheet shows.
SHOWN = 3


def evaluate(
    engine: Engine,
    dataset: Dataset,
    *,
    multiscale: bool = False,
    stride: int | None = None,
    fit: Size | str | None = "dataset",
    by_size: bool = False,
    check_names: bool = True,
    keep: int = 0,
    progress: bool = False,
) -> Report:
    """Segment every picture of a dataset and compare with the truth, at the pictures' own sizes.

    Args:
        engine: any Engine; an Engine of a Segmenter evaluates it as it is.
        dataset: of `segfast.datasets.open_dataset`; it is not checked here.
        multiscale: average the paper's 12 views.
        stride: of the sliding window; by default 32 pixels less than the window.
        fit: (long, short), what images are resized to fit; None for no resize; by default the dataset's rule.
        by_size: also of small, medium and large objects (Table 4); needs SciPy.
        check_names: see that the engine's classes have the dataset's names, not their number alone.
        keep: how many predictions of the best and of the worst pictures the report holds.
        progress: show a bar.

    Raises:
        BadModel: the engine's classes are not the dataset's.
        BadData, BadImage: a sample cannot be read, or its labels are of no class.
        BadOption: the stride or `fit` is impossible.
        NotSupported: as `Engine.segment`.
        MissingRuntime: SciPy is wanted and not installed.
    """
    check_classes(engine, dataset, check_names)
    if by_size:
        need("train", "scipy")
    window = min(engine.config.protocol.window)
    stride = window - min(OVERLAP, window // 2) if stride is None else stride
    fit = fit_of(dataset.name, window) if isinstance(fit, str) else fit
    K, start = len(dataset.classes), time.perf_counter()
    total, sizes = np.zeros((K, K), np.int64), np.zeros((3, K, K), np.int64) if by_size else None
    samples, kept = [], _Extremes(keep)
    answers = engine.segment_many(_Images(dataset), multiscale=multiscale, stride=stride, fit=fit)
    shown = bar(answers, "evaluate", total=len(dataset), unit="picture", disable=not progress)
    for index, answer in enumerate(shown):
        truth, labels = dataset.labels(index), answer.labels  # type: ignore[union-attr]  # errors are raised
        part = _count(dataset.key(index), truth, labels, K)
        one = scores(part)
        samples.append(Sample(index, dataset.key(index), one.miou, one.pixel_accuracy))
        kept.offer(index, one.miou, labels)
        total += part
        if sizes is not None:
            sizes += confusion_by_size(truth, labels, K)
        if progress:
            shown.set_postfix(mIoU=f"{100 * (scores(total).miou or 0):.2f}", refresh=False)
    seconds = time.perf_counter() - start
    return Report(
        repr(engine),
        dataset.name,
        dataset.split,
        dataset.classes,
        total,
        sizes,
        tuple(samples),
        multiscale,
        stride,
        fit,
        seconds,
        kept.labels(),
    )


def check_classes(engine: Engine, dataset: Dataset, names: bool = True) -> None:
    """See that the engine's classes are the dataset's, in the same order.

    Spelling may differ in case and punctuation; an engine that has numbers for names has any.

    Args:
        names: compare them; otherwise the number of classes alone.

    Raises:
        BadModel: they are not.
    """
    mine, theirs = engine.config.classes, dataset.classes
    if len(mine) != len(theirs):
        raise BadModel(
            f"the model has {len(mine)} classes, but {dataset.name} {len(theirs)}; "
            "evaluate it on the dataset it was trained for, or name that with --dataset"
        )
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if _plain(a) != _plain(b)]
    if names and pairs and not all(re.fullmatch(r"class \d+", name) for name in mine):
        listed = ", ".join(f"{a!r} for {b!r}" for a, b in pairs[:3])
        raise BadModel(
            f"{len(pairs)} of the model's classes are not those of {dataset.name} ({listed}, …); "
            "evaluate it on the dataset it was trained for, or add --ignore-names if only the names differ"
        )


def fit_of(dataset: str, window: int) -> Size | None:
    """(long, short) to which images of a dataset are resized, for a model of that window; None for as they are.

    Original code: `im` is 512 on ADE20K, 520 on Pascal Context, 1024 on Cityscapes; 640 for Seg-L-Mask/16
    on ADE20K, whose window is 640.
    """
    if dataset not in RESIZED:
        return None
    ratio, im = RESIZED[dataset]
    short = max(im, window)
    return ratio * short, short


def _count(key: str, truth: NDArray[Any], labels: NDArray[Any], num_classes: int) -> Matrix:
    """`confusion`, with the picture's name in the error."""
    try:
        return confusion(truth, labels, num_classes)
    except BadData as error:
        raise BadData(f"{key}: {error}") from None


class _Images(Sequence[NDArray[np.uint8]]):
    """A dataset's pictures. A sequence, so that the network's batches are the same in every run."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._dataset.image(index)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self._dataset.image(index) for index in range(len(self)))


class _Extremes:
    """The predictions of the best and of the worst pictures so far, `count` of each."""

    def __init__(self, count: int):
        self._count = count
        self._ranked: list[tuple[float, int, NDArray[Any]]] = []

    def offer(self, index: int, miou: float | None, labels: NDArray[Any]) -> None:
        """Take a prediction in if it is one of them."""
        if not self._count or miou is None:
            return
        self._ranked.append((miou, index, labels))
        self._ranked.sort(key=lambda entry: entry[:2])
        del self._ranked[self._count : -self._count]

    def labels(self) -> dict[int, NDArray[Any]]:
        """By index, the worst first."""
        return {index: labels for _, index, labels in self._ranked}


def main() -> int:
    """Evaluate what the command line names; print the table, write the JSON and the sheet."""
    options = _parse()
    for path, suffix in ((options.json, ".json"), (options.sheet, ".png")):
        if path is not None:
            files.check_suffix(path, suffix)
            files.make_folder(Path(path).parent)
    if options.by_size:
        need("train", "scipy")

    from segfast.engine import Engine

    names = [options.engine, *([options.compare] if options.compare else [])]
    dataset = open_dataset(*_named(options), options.split)
    dataset = dataset.take(range(min(options.limit, len(dataset)))) if options.limit else dataset
    settings = {"runtime": options.runtime, "device": options.device, "threads": options.threads}
    engines = [Engine(name, **settings) for name in names]
    for engine in engines:
        print(engine)
        check_classes(engine, dataset, not options.ignore_names)
    dataset.check(progress=True)
    reports = [_evaluate(engine, dataset, options) for engine in engines]
    print("\n".join(_heading(reports[0]) + table(reports)))
    if options.json:
        files.write_text(_json(reports) + "\n", options.json)
    if options.sheet:
        from segfast.evaluation.sheet import draw

        files.write_png(draw(reports[0], dataset), options.sheet)
    return 0


def _evaluate(engine: Engine, dataset: Dataset, options: argparse.Namespace) -> Report:
    return evaluate(
        engine,
        dataset,
        multiscale=options.multiscale,
        stride=options.stride,
        fit=options.fit,
        by_size=options.by_size,
        check_names=not options.ignore_names,
        keep=SHOWN if options.sheet else 0,
        progress=True,
    )


def _named(options: argparse.Namespace) -> tuple[str, str | None]:
    """The dataset's name and folder."""
    if options.data == "shapes" and options.dataset in (None, "shapes"):
        return "shapes", None
    return options.dataset or detect_dataset(options.data), options.data


def _heading(report: Report) -> list[str]:
    views = "12 views" if report.multiscale else "single scale"
    size = f"resized to fit {report.fit[0]}×{report.fit[1]}" if report.fit else "of its own size"
    what = f"{report.dataset} {report.split}, {len(report.samples)} pictures"
    return [f"{what}: {views}, every picture {size}, stride {report.stride}, {report.seconds:.1f} s"]


def _json(reports: list[Report]) -> str:
    if len(reports) == 1:
        return reports[0].to_json()
    first, second = reports
    points = {name: lost(getattr(first, name), getattr(second, name)) for name in ("miou", "pixel_accuracy")}
    return first.to_json(compared=second.to_dict(), points_lost=points)


def _fit(text: str) -> Size | str | None:
    if text in ("none", "dataset"):
        return None if text == "none" else text
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 2048x512 (long x short side), none or dataset")
    return int(match[1]), int(match[2])


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.evaluate", __doc__)
    parser.add_argument("engine", metavar="ENGINE", help=".onnx or .engine file, checkpoint, or published name")
    parser.add_argument(
        "--data", metavar="DIR", required=True, help="folder of the dataset; or shapes, which draws itself"
    )
    parser.add_argument("--dataset", choices=NAMES, help="which one it is (default: told by its layout)")
    parser.add_argument("--split", default="val", help="(default: val)")
    parser.add_argument("--multiscale", action="store_true", help="average 12 views: slower, more accurate")
    parser.add_argument("--stride", type=cli.positive, help="of the sliding window in pixels (default: window − 32)")
    parser.add_argument(
        "--fit",
        type=_fit,
        default="dataset",
        metavar="LONGxSHORT",
        help="resize images to fit this; none: not at all (default: the dataset's rule)",
    )
    parser.add_argument(
        "--by-size",
        action="store_true",
        help="also mIoU of small, medium and large objects: connected parts of a class in the truth of under 32² pixels, from 32², from 96²",
    )
    parser.add_argument("--compare", metavar="OTHER", help="another engine: both side by side, and the points it loses")
    parser.add_argument("--json", metavar="FILE", help="write everything, as fractions")
    parser.add_argument(
        "--sheet", metavar="PNG", help="draw ENGINE's best and worst pictures with truth, prediction and error"
    )
    parser.add_argument("--limit", type=cli.positive, metavar="N", help="the first N pictures only")
    parser.add_argument("--ignore-names", action="store_true", help="take classes to be the same whatever their names")
    parser.add_argument("--runtime", choices=("openvino", "onnxruntime", "pytorch"))
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU if there is one)")
    parser.add_argument("--threads", type=cli.positive, help="CPU threads of the network")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
