"""How far labels agree with the logits of a reference: how many are equal, and what the others cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segfast.evaluation.metrics import Labels


def equal_labels(labels: Labels, logits: NDArray[np.float32]) -> float:
    """Share of pixels, 0 … 1, where labels [H, W] are the best class of a reference's logits [K, H, W]."""
    return float((labels == logits.argmax(0)).mean())


class LabelAgreement(NamedTuple):
    """Labels against the reference's.

    Attributes:
        equal: share of pixels with the same label, 0 … 1.
        regret: what the logits of the chosen classes lack to the best ones, against the spread of a pixel's logits, both
            as root mean squares; infinite where a label is of no class.
    """

    equal: float
    regret: float


def label_agreement(labels: Labels, logits: NDArray[np.float32]) -> LabelAgreement:
    """Compare labels [H, W] with a reference's logits [K, H, W]."""
    equal = equal_labels(labels, logits)
    if labels.min() < 0 or labels.max() >= len(logits):
        return LabelAgreement(equal, float("inf"))
    chosen = np.take_along_axis(logits, labels[None].astype(np.intp), 0)[0]
    lost = _root_mean_square(logits.max(0) - chosen)
    return LabelAgreement(equal, lost and lost / _root_mean_square(logits - logits.mean(0)))


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.square(values).mean(dtype=np.float64)) ** 0.5
