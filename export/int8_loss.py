"""What int8 loses to fp32: points of mIoU where there are masks, else labels that differ where fp32 is sure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segfast.datasets import Dataset
from segfast.engine import Engine
from segfast.errors import BadData
from segfast.evaluation.evaluate import check_classes, evaluate
from segfast.evaluation.report import lost, percent

# fp32 is sure of a patch where its best class leads the second by this share of the logits' spread.
MARGIN = 0.25
# Instead of a norm of 0.
_TINY = 1e-30


class Loss(Protocol):
    """A measure of what a file loses."""

    @property
    def words(self) -> str:
        """What is measured, for people."""
        ...

    def of(self, path: Path, runtime: str | None = None) -> float:
        """Points, 0 … 100, that an `.onnx` file of logits loses to fp32 on the CPU; less than 0 where it gains."""
        ...


class Disagreement:
    """Percent of the patches, of those of which fp32 is sure, that get another label.

    Args:
        reference: of the same model in fp32.
        windows: [n, H, W, 3].
    """

    def __init__(self, reference: Engine, windows: NDArray[np.uint8]):
        logits = reference.run(windows)  # [n, K, h, w]
        self._windows, self._labels = windows, logits.argmax(1)
        self.spread = float(np.sqrt(np.square(logits - logits.mean(1, keepdims=True)).mean(dtype=np.float64)))
        first, second = np.sort(logits, axis=1)[:, -2:][:, ::-1].swapaxes(0, 1) if logits.shape[1] > 1 else (logits, 0)
        self._sure = first - second >= MARGIN * self.spread
        if not self._sure.any():
            self._sure = np.ones_like(self._sure)
        share = self._sure.mean()
        self.words = (
            f"of the labels of {len(windows)} held-out windows, where the best class of fp32 leads by {MARGIN:g} of the "
            f"logits' spread ({share:.0%} of them)"
        )

    def of(self, path: Path, runtime: str | None = None) -> float:
        """See `Loss`."""
        logits = Engine(path, runtime=runtime, device="cpu").run(self._windows)
        other = (logits.argmax(1) != self._labels) | ~np.isfinite(logits).all(1)
        return 100 * float(other[self._sure].mean())


class Points:
    """Points of mIoU on a dataset, by the code of `segfast.evaluate`.

    Args:
        reference: the model in fp32.
        dataset: with masks.
        most: points that may be lost.

    Raises:
        BadModel: the dataset's classes are not the model's.
        BadData: there is nothing to measure by, or fp32 reaches no more points than may be lost.
    """

    def __init__(self, reference: Engine, dataset: Dataset, most: float):
        check_classes(reference, dataset)
        dataset.check(progress=True)
        self._dataset = dataset
        self.reference = evaluate(reference, dataset, progress=True).miou
        if self.reference is None:
            raise BadData(f"the masks of {dataset.name} {dataset.split} hold no class; name a dataset with labels")
        if 100 * self.reference <= most and not reference.config.random_weights:
            raise BadData(
                f"fp32 itself reaches {percent(self.reference)} points of mIoU on {dataset.name} {dataset.split}, no more than "
                f"the {most:g} that int8 may lose: nothing can be judged by it. See that the masks are of the model's classes"
            )
        self.words = (
            f"of mIoU on {dataset.name} {dataset.split}, {len(dataset)} pictures (fp32: {percent(self.reference)})"
        )

    def of(self, path: Path, runtime: str | None = None) -> float:
        """See `Loss`."""
        report = evaluate(Engine(path, runtime=runtime, device="cpu"), self._dataset, progress=True)
        points = lost(self.reference, report.miou)
        assert points is not None
        return points


@dataclass(frozen=True)
class Error:
    """The relative error of the logits of a few windows, by which candidates are compared.

    Attributes:
        windows: [n, H, W, 3].
        logits: of fp32, [n, K, h, w].
    """

    windows: NDArray[np.uint8]
    logits: NDArray[np.float32]

    def of(self, path: Path) -> float:
        """The ratio of the norms, in the default runtime; infinite where a logit is not a number."""
        answer = Engine(path, device="cpu").run(self.windows)
        if not np.isfinite(answer).all():
            return math.inf
        return float(np.linalg.norm(answer - self.logits)) / max(float(np.linalg.norm(self.logits)), _TINY)
