"""The pictures about which two systems disagree most."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from segfast.datasets import IGNORE, Dataset
from segfast.evaluation.metrics import Labels


class Pair(NamedTuple):
    """What two systems say of one picture.

    Attributes:
        share: of its pixels whose truth is not ignored, 0 … 1, the systems give different classes.
        picture: its index in the dataset.
        first, second: labels [H, W].
    """

    share: float
    picture: int
    first: Labels
    second: Labels


class Disagreements:
    """Collects the labels of a first system, then compares those of a second, picture by picture.

    Labels of the first are held compressed, a few hundredths of their size.

    Args:
        dataset: whose pictures they are.
        count: how many pairs are kept, of those with most disagreement.
    """

    def __init__(self, dataset: Dataset, count: int):
        self._dataset, self._count = dataset, count
        self._first: dict[int, bytes] = {}
        self._pairs: list[Pair] = []

    def note(self, index: int, labels: Labels) -> None:
        """Labels of the first system."""
        self._first[index] = zlib.compress(np.ascontiguousarray(labels, np.uint16).tobytes(), 1)

    def compare(self, index: int, labels: Labels) -> None:
        """Labels of the second system, whose first were noted."""
        noted = np.frombuffer(zlib.decompress(self._first.pop(index)), np.uint16).reshape(labels.shape)
        counts = self._dataset.labels(index) != IGNORE
        share = float(np.mean(noted != labels, where=counts)) if counts.any() else 0.0
        self._pairs.append(Pair(share, index, noted, labels))
        self._pairs.sort(key=lambda pair: (-pair.share, pair.picture))
        del self._pairs[self._count :]

    @property
    def pairs(self) -> list[Pair]:
        """Those with most disagreement, the worst first."""
        return list(self._pairs)
