"""Requests through the network: single views of several images share batches, the many of one come one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

from segfast.inference.requests import Request, View
from segfast.kernels.merge import Windows
from segfast.runtimes import Lane


def run_requests(requests: Sequence[Request], lane: Lane) -> list[list[Windows]]:
    """For each request the logits of its views, where the lane computed them."""
    if all(len(request) == 1 for request in requests):
        return [[windows] for windows in run_views([view for request in requests for view in request], lane)]
    # By `map`, which lets go of a view's image before the next is made; a loop's variable would keep it.
    return [list(map(partial(_run_view, lane), request)) for request in requests]


def run_views(views: Sequence[View], lane: Lane) -> list[Windows]:
    """The logits of views; a window shares its view's memory until it is copied in."""
    results = []
    for _, group in itertools.groupby(views, lambda view: (view.window, view.image.dtype)):
        alike = list(group)
        logits = lane.run([window for view in alike for window in view.windows()])
        for view in alike:
            count, size = len(view.origins), (view.image.shape[0], view.image.shape[1])
            results.append(Windows(logits[:count], view.origins, view.window, view.padded, size, view.mirrored))
            logits = logits[count:]
    return results


def _run_view(lane: Lane, view: View) -> Windows:
    return run_views([view], lane)[0]
