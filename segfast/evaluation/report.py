"""What an evaluation found: numbers for people, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segfast import __version__
from segfast.evaluation.metrics import SIZES, Labels, Matrix, Scores, scores, scores_by_size
from segfast.protocol import Size


@dataclass(frozen=True)
class Sample:
    """One picture's result.

    Attributes:
        miou, accuracy: of this picture alone, over the classes in its truth or prediction; None where
            all of its truth is ignored.
    """

    index: int
    key: str
    miou: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Report:
    """The result of `segfast.evaluation.evaluate.evaluate`.

    Attributes:
        engine: what was evaluated, in words.
        dataset, split: what it was evaluated on.
        classes: K names.
        confusion: int64 [K, K], truth × prediction; those of several ranks add up.
        sizes: the same for small, medium and large objects, [3, K, K], where asked for.
        samples: every picture's result, in the dataset's order.
        multiscale, stride, fit: the protocol; `fit` is (long, short), what every image was resized to.
        seconds: that it took.
        kept: labels [H, W] of the best and worst pictures, by index, where asked for.
    """

    engine: str
    dataset: str
    split: str
    classes: tuple[str, ...]
    confusion: Matrix
    sizes: NDArray[np.int64] | None
    samples: tuple[Sample, ...]
    multiscale: bool
    stride: int
    fit: Size | None
    seconds: float
    kept: dict[int, Labels] = field(default_factory=dict, repr=False)

    @property
    def scores(self) -> Scores:
        """mIoU, accuracies and IoU of every class over all pictures."""
        return scores(self.confusion)

    @property
    def miou(self) -> float | None:
        """The mean IoU of the classes, 0 … 1."""
        return self.scores.miou

    @property
    def pixel_accuracy(self) -> float | None:
        """Share of the pixels that are right, 0 … 1."""
        return self.scores.pixel_accuracy

    @property
    def per_class(self) -> dict[str, float | None]:
        """IoU of every class, 0 … 1; None for one that is neither there nor predicted."""
        return dict(zip(self.classes, self.scores.per_class, strict=True))

    @property
    def by_size(self) -> dict[str, float | None]:
        """mIoU of small, medium and large objects (paper, Table 4); empty where it was not asked for."""
        return {} if self.sizes is None else {name: of.miou for name, of in scores_by_size(self.sizes).items()}

    def to_dict(self) -> dict[str, object]:
        """Everything but the pictures, fractions as such."""
        total = self.scores
        return {
            "miou": total.miou,
            "pixel_accuracy": total.pixel_accuracy,
            "mean_accuracy": total.mean_accuracy,
            "dice": total.dice,
            "f1": total.f1,
            "precision": total.precision,
            "recall": total.recall,
            "per_class": self.per_class,
            "per_class_f1": dict(zip(self.classes, total.per_class_f1, strict=True)),
            "per_class_precision": dict(zip(self.classes, total.per_class_precision, strict=True)),
            "per_class_recall": dict(zip(self.classes, total.per_class_recall, strict=True)),
            "by_size": self.by_size or None,
            "dataset": self.dataset,
            "split": self.split,
            "images": len(self.samples),
            "pixels": int(self.confusion.sum()),
            "protocol": {"multiscale": self.multiscale, "stride": self.stride, "fit": self.fit},
            "engine": self.engine,
            "seconds": round(self.seconds, 3),
            "segfast": __version__,
            "per_image": {sample.key: sample.miou for sample in self.samples},
            "confusion": self.confusion.tolist(),
        }

    def to_json(self, **more: object) -> str:
        """One JSON object: `to_dict`, and `more`."""
        text = json.dumps({**self.to_dict(), **more}, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()  # file names need not be text


def table(reports: Sequence[Report]) -> list[str]:
    """The lines for people: one report, or two side by side with the points that the second loses."""
    first = reports[0]
    rows = [(name, [report.per_class[name] for report in reports]) for name in first.classes]
    rows += [(f"mIoU, {size} objects", [report.by_size[size] for report in reports]) for size in SIZES if first.by_size]
    rows += [
        ("mIoU", [report.miou for report in reports]),
        ("pixel accuracy", [report.pixel_accuracy for report in reports]),
        ("mean accuracy", [report.scores.mean_accuracy for report in reports]),
        ("Dice (F1)", [report.scores.f1 for report in reports]),
        ("precision", [report.scores.precision for report in reports]),
        ("recall", [report.scores.recall for report in reports]),
    ]
    width = max(len(name) for name, _ in rows)
    shares = first.confusion.sum(1) / max(1, first.confusion.sum())
    notes = [f"  {share:6.1%}" for share in shares] + [""] * (len(rows) - len(shares))
    heads = ["%"] if len(reports) == 1 else ["first", "second", "lost"]
    lines = [f"{'':<{width}} " + " ".join(f"{head:>8}" for head in heads) + "  of the pixels"]
    for (name, values), note in zip(rows, notes, strict=True):
        cells = [*map(percent, values), *([_lost(*values)] if len(values) == 2 else [])]
        lines.append(f"{name:<{width}} " + " ".join(f"{cell:>8}" for cell in cells) + note)
    return lines


def lost(first: float | None, second: float | None) -> float | None:
    """Percentage points that the second is below the first."""
    return None if first is None or second is None else 100 * (first - second)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent; a dash for what is undefined."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _lost(first: float | None, second: float | None) -> str:
    points = lost(first, second)
    return "-" if points is None else f"{points:+.2f}"
