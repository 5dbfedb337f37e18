"""Softmax scores of an answer, computed when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfast.inference import limits
from segfast.inference.border import border
from segfast.kernels.merge import Windows, merge_scores
from segfast.kernels.reference import Size
from segfast.processes import forks
from segfast.runtimes import Lane


class _Host:
    """Where scores that were sent are computed."""

    def fetch(self, function: Callable[..., Any], *args: Any, **options: Any) -> NDArray[Any]:
        """See `Lane`."""
        with forks.running():
            result: NDArray[Any] = function(*args, **options)
        return result


class Scores:
    """Scores [K, H, W] still to be computed: the logits they come from, and the lane that computes them.

    Pickled they are the logits alone, at patch resolution, copied to the host; the CPU computes the scores there.
    """

    def __init__(self, lane: Lane | _Host, views: Sequence[Windows], size: Size, threads: int | None):
        self._lane, self._views, self._size, self._threads = lane, views, size, threads

    @border("computing the scores")
    def __call__(self) -> NDArray[np.float32]:
        """Compute them, on the lane."""
        limits.check_scores(self._size, self._views[0].logits.shape[1])
        return self._lane.fetch(merge_scores, self._views, self._size, threads=self._threads)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        views = [view._replace(logits=self._lane.fetch(lambda view=view: view.logits)) for view in self._views]
        return Scores, (_Host(), views, self._size, self._threads)
