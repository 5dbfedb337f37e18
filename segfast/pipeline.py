"""Several stages at once: while one image is in the network, the next is read and the last is merged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Any, NamedTuple

from segfast.errors import SegfastError


class Stage(NamedTuple):
    """What a thread of its own does to the items, `group` of them at a time where so many are at hand.

    Attributes:
        run: the results of a list of items, in order; a SegfastError if it cannot.
    """

    run: Callable[[list[Any]], list[Any]]
    group: int = 1


def one_by_one(function: Callable[[Any], Any]) -> Stage:
    """A stage that takes every item for itself."""
    return Stage(lambda items: [function(item) for item in items])


# Groups that wait between two stages. One keeps every stage busy; more would only hold memory.
DEPTH = 1


def answers(items: Iterable[Any], stages: Sequence[Stage], strict: bool) -> Generator[Any, None, None]:
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
    """The results of a stage in order, DEPTH groups of them begun before they are asked for."""
    pending: deque[Future[list[Any]]] = deque()
    while group := list(islice(items, stage.group)):
        pending.append(pool.submit(_attempt, stage, group))
        if len(pending) > DEPTH:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _attempt(stage: Stage, group: list[Any]) -> list[Any]:
    """A stage's results for a group; an item's error travels on as a value in its place."""
    good = [item for item in group if not isinstance(item, SegfastError)]
    try:
        results = iter(stage.run(good) if good else [])
    except SegfastError as error:
        if len(good) > 1:       # whose error is it?
            return [result for item in group for result in _attempt(stage, [item])]
        results = iter([error])
    return [item if isinstance(item, SegfastError) else next(results) for item in group]
