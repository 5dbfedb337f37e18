"""What a candidate loses to the exact file: points of mIoU where there are masks, else labels that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segfast.datasets import Dataset
from segfast.engine import Engine
from segfast.errors import BadData
from segfast.evaluation.evaluate import evaluate
from segfast.evaluation.metrics import Labels
from segfast.evaluation.report import lost, percent


class Quality(Protocol):
    """A measure of what files lose, on the CPU.

    Attributes:
        words: what is measured, for people; complete once there is a reference.
    """

    words: str

    def refer(self, path: Path) -> None:
        """Take a file as the reference, which loses nothing."""
        ...

    def of(self, path: Path) -> float:
        """Points, 0 … 100, that a file loses to the reference; less than 0 where it gains."""
        ...


class Points:
    """Points of mIoU on a split with masks.

    Raises:
        BadData: its masks hold no class.
    """

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.words = f"points of mIoU on {dataset.name} {dataset.split}, {len(dataset)} pictures"
        self._reference: float | None = None

    def refer(self, path: Path) -> None:
        """See `Quality`."""
        self._reference = self._miou(path)
        self.words += f" (fp32: {percent(self._reference)})"

    def of(self, path: Path) -> float:
        """See `Quality`."""
        points = lost(self._reference, self._miou(path))
        assert points is not None
        return points

    def _miou(self, path: Path) -> float:
        miou = evaluate(Engine(path, runtime=None, device="cpu"), self._dataset, progress=True).miou
        if miou is None:
            raise BadData(f"the masks of {self._dataset.name} {self._dataset.split} hold no class; name others")
        return miou


class Agreement:
    """Percent of the pixels that get another label than from the reference.

    Args:
        pictures: [H, W, 3] each.
    """

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]):
        self._pictures = pictures
        self.words = f"percent of the labels that differ from fp32's, {len(pictures)} pictures; there are no masks"
        self._labels: list[Labels] = []

    def refer(self, path: Path) -> None:
        """See `Quality`."""
        self._labels = self._segmented(path)

    def of(self, path: Path) -> float:
        """See `Quality`."""
        pairs = zip(self._labels, self._segmented(path), strict=True)
        return 100 * float(np.mean(np.concatenate([(one != other).ravel() for one, other in pairs])))

    def _segmented(self, path: Path) -> list[Labels]:
        answers = Engine(path, runtime=None, device="cpu").segment_many(list(self._pictures))
        return [answer.labels for answer in answers]  # type: ignore[union-attr]  # errors are raised


class Itself:
    """The quality of a file beside itself."""

    words = ""

    def refer(self, path: Path) -> None:
        """Nothing is to be known."""

    def of(self, path: Path) -> float:
        """Nothing is lost."""
        return 0.0
