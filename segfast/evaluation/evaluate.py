"""Segment every picture of a dataset by the paper's protocol, and compare with the truth."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.datasets import Dataset
from segfast.dependencies.imports import need
from segfast.errors import BadData, BadModel
from segfast.evaluation.folder import LabelFolder
from segfast.evaluation.metrics import Labels, confusion, confusion_by_size, scores
from segfast.evaluation.report import Report, Sample, percent
from segfast.progress import bar
from segfast.protocol import Size

if TYPE_CHECKING:
    from segfast.engine import Engine

# Windows overlap by so many pixels in evaluation (original code), but by half a window at most.
OVERLAP = 32
# (max_ratio, im) of the original's evaluation: an image is resized to fit (max_ratio · im, im).
RESIZED = {"ade20k": (4, 512), "pascal_context": (8, 520), "cityscapes": (2, 1024)}


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
    each: Callable[[int, Labels], None] | None = None,
    progress: bool = False,
) -> Report:
    """Segment every picture of a dataset and compare with the truth, at the pictures' own sizes.

    Args:
        engine: any Engine; an Engine of a Segmenter evaluates it as it is.
        dataset: of `segfast.datasets.open_dataset`; it is not checked here.
        multiscale: average the paper's 12 views.
        stride: of the sliding window; by default 32 pixels less than the window.
        fit: (long, short), what images are resized to fit; None for no resize; by default what
            the model was trained with, or else the dataset's rule.
        by_size: also of small, medium and large objects (Table 4); needs SciPy.
        check_names: see that the engine's classes have the dataset's names, not their number alone.
        keep: how many predictions of the best and of the worst pictures the report holds.
        each: called with the index and the labels [H, W] of every picture, such as `predictions.Predictions`.
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
    start, (stride, fit) = time.perf_counter(), _settings(engine, dataset, stride, fit)
    tally = _Tally(dataset, by_size, keep)
    answers = engine.segment_many(_Images(dataset), multiscale=multiscale, stride=stride, fit=fit)
    shown = bar(answers, "evaluate", total=len(dataset), unit="picture", disable=not progress)
    for index, answer in enumerate(shown):
        tally.add(index, answer.labels)  # type: ignore[union-attr]  # errors are raised
        if each is not None:
            each(index, answer.labels)  # type: ignore[union-attr]
        if progress:
            shown.set_postfix(mIoU=percent(scores(tally.total).miou), refresh=False)
    return tally.report(repr(engine), multiscale, stride, fit, time.perf_counter() - start)


def evaluate_labels(
    folder: LabelFolder,
    dataset: Dataset,
    *,
    by_size: bool = False,
    each: Callable[[int, Labels], None] | None = None,
    progress: bool = False,
) -> Report:
    """Compare labels that another system has written with the truth, as `evaluate` does.

    Raises:
        BadData: labels cannot be read, are of another size or of no class.
        MissingRuntime: SciPy is wanted and not installed.
    """
    if by_size:
        need("train", "scipy")
    tally, start = _Tally(dataset, by_size, 0), time.perf_counter()
    for index in bar(range(len(dataset)), "compare", total=len(dataset), unit="picture", disable=not progress):
        labels = folder.labels(index)
        tally.add(index, labels)
        if each is not None:
            each(index, labels)
    return tally.report(repr(folder), False, 0, None, time.perf_counter() - start)


def predict(
    engine: Engine,
    dataset: Dataset,
    each: Callable[[int, Labels], None],
    *,
    multiscale: bool = False,
    stride: int | None = None,
    fit: Size | str | None = "dataset",
    progress: bool = False,
) -> None:
    """Segment every picture as `evaluate` does, without a truth to compare with.

    Args, Raises: as of `evaluate`.
    """
    stride, fit = _settings(engine, dataset, stride, fit)
    answers = engine.segment_many(_Images(dataset), multiscale=multiscale, stride=stride, fit=fit)
    for index, answer in enumerate(bar(answers, "predict", total=len(dataset), unit="picture", disable=not progress)):
        each(index, answer.labels)  # type: ignore[union-attr]  # errors are raised


def _settings(engine: Engine, dataset: Dataset, stride: int | None, fit: Size | str | None) -> tuple[int, Size | None]:
    """Stride and size of an evaluation, where they are not said."""
    window = min(engine.config.protocol.window)
    stride = window - min(OVERLAP, window // 2) if stride is None else stride
    return stride, (engine.config.protocol.fit or fit_of(dataset.name, window)) if isinstance(fit, str) else fit


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


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


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


class _Tally:
    """What an evaluation has counted so far."""

    def __init__(self, dataset: Dataset, by_size: bool, keep: int):
        K = len(dataset.classes)
        self.dataset, self.kept = dataset, _Extremes(keep)
        self.total, self.sizes = np.zeros((K, K), np.int64), np.zeros((3, K, K), np.int64) if by_size else None
        self.samples: list[Sample] = []

    def add(self, index: int, labels: Labels) -> None:
        """Compare a picture's labels [H, W] with its truth.

        Raises:
            BadData: as `confusion`, with the picture's name.
        """
        K, key, truth = len(self.total), self.dataset.key(index), self.dataset.labels(index)
        try:
            part = confusion(truth, labels, K)
        except BadData as error:
            raise BadData(f"{key}: {error}") from None
        found = scores(part)
        self.samples.append(Sample(index, key, found.miou, found.pixel_accuracy))
        self.kept.offer(index, found.miou, labels)
        self.total += part
        if self.sizes is not None:
            self.sizes += confusion_by_size(truth, labels, K)

    def report(self, engine: str, multiscale: bool, stride: int, fit: Size | None, seconds: float) -> Report:
        """The counts, with how they came about."""
        return Report(
            engine,
            self.dataset.name,
            self.dataset.split,
            self.dataset.classes,
            self.total,
            self.sizes,
            tuple(self.samples),
            multiscale,
            stride,
            fit,
            seconds,
            self.kept.labels(),
        )


class _Images(Sequence[NDArray[np.uint8]]):
    """A dataset's pictures. A sequence, so that the network's batches are the same in every run."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]  # no slices
        return self._dataset.image(index)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self._dataset.image(index) for index in range(len(self)))


class _Extremes:
    """The predictions of the best and of the worst pictures so far, `count` of each."""

    def __init__(self, count: int):
        self._count = count
        self._ranked: list[tuple[float, int, Labels]] = []

    def offer(self, index: int, miou: float | None, labels: Labels) -> None:
        """Take a prediction in if it is one of them."""
        if not self._count or miou is None:
            return
        self._ranked.append((miou, index, labels))
        self._ranked.sort(key=lambda entry: entry[:2])
        del self._ranked[self._count : -self._count]

    def labels(self) -> dict[int, Labels]:
        """By index, the worst first."""
        return {index: labels for _, index, labels in self._ranked}
