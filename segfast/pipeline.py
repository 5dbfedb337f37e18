"""Several stages at once: while one image is in the network, the next is read and the last is merged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from segfast.errors import SegfastError

Stage = Callable[[Any], Any]

# Results that wait between two stages. One keeps every stage busy; more would only hold memory.
DEPTH = 1


def answers(items: Iterable[Any], stages: Sequence[Stage], strict: bool) -> Iterator[Any]:
    """Every item through all stages, in order; each stage has a thread of its own.

    Args:
        strict: raise an item's SegfastError in its turn; otherwise yield it in its place.
    """
    with ExitStack() as stack:
        results: Iterator[Any] = iter(items)
        for stage in stages:
            pool = ThreadPoolExecutor(1, "segfast-stage")
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            results = _ahead(stage, results, pool)
        for result in results:
            if strict and isinstance(result, SegfastError):
                raise result
            yield result


def _ahead(stage: Stage, items: Iterator[Any], pool: ThreadPoolExecutor) -> Iterator[Any]:
    """The results of a stage in order, DEPTH of them begun before they are asked for."""
    pending: deque[Future[Any]] = deque()
    for item in items:
        pending.append(pool.submit(_attempt, stage, item))
        if len(pending) > DEPTH:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _attempt(stage: Stage, item: Any) -> Any:
    """The stage's result; an error of an earlier stage, or of this one, travels on as a value."""
    if isinstance(item, SegfastError):
        return item
    try:
        return stage(item)
    except SegfastError as error:
        return error
