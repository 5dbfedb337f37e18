"""The processes that prepare batches: how many fit into shared memory, and what it means when one has gone."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from segfast.datasets.base import Dataset
from segfast.errors import SegfastError, TrainingFailed
from segfast.train.data import Batch, loader
from segfast.train.fields import Recipe
from segfast.train.launch import local_size
from segfast.train.state import Progress
from segfast.train.troubles import explained
from segfast.train.world import World

SHARED = "/dev/shm"  # noqa: S108 (where PyTorch's worker processes leave batches)
AHEAD = 4  # batches that a worker prepares ahead, at most
# The process that trains holds a batch, and the one before it until the next is there.
HELD = 2
# A batch that takes longer will not come: a file system that hangs, a worker that is stuck.
PATIENCE = 900.0
_GONE = "the same command goes on from the state"


class WorkersFailed(TrainingFailed):
    """The processes that prepare batches have gone; what was trained is whole."""


class Queue(NamedTuple):
    """How batches are prepared ahead.

    Attributes:
        workers: processes; 0 prepares batches between the steps.
        ahead: batches that each prepares ahead.
        notes: what to tell.
    """

    workers: int
    ahead: int = AHEAD
    notes: tuple[str, ...] = ()


def queue(recipe: Recipe, world: World, workers: int, free: int | None = None) -> Queue:
    """As many batches ahead as shared memory holds: 64 MB in containers where nothing else was said.

    Args:
        free: bytes of it; by default what is free now, shared among the processes of this machine.
    """
    if not workers:
        return Queue(0)
    free = _free() if free is None else free
    if free is None:
        return Queue(workers)
    size = recipe.batch // world.size * (4 * recipe.crop**2 + 16) + 4096  # pixels, labels, sizes; pages
    room = int(0.95 * free) // local_size() // size - HELD
    if room >= workers * AHEAD:
        return Queue(workers)
    where = f"{SHARED} has {free / 1e6:.0f} MB free, and a batch takes {size / 1e6:.0f} MB"
    remedy = "a container gets more by docker run --shm-size=2g"
    if room < 1:
        return Queue(0, notes=(f"{where}: batches are prepared between the steps, as with --workers 0; {remedy}",))
    kept = min(workers, room)
    ahead = max(1, room // kept)
    return Queue(kept, ahead, (f"{where}: {kept} workers prepare {ahead} ahead each; {remedy}",))


@contextmanager
def batches(
    dataset: Dataset, recipe: Recipe, world: World, *, progress: Progress, prefetch: Queue
) -> Iterator[Iterator[tuple[Batch, float]]]:
    """The batches of `loader` with the seconds that each was waited for, and no worker of it behind the block.

    Workers do not heed SIGTERM, and an iterator in the traceback of a kept error lives on: they would keep the
    process from ending.

    Raises:
        BadData, BadImage: a file was damaged since it was checked.
        WorkersFailed: a worker has gone, or no batch came.
        TrainingFailed: memory ran out.
    """
    first, workers = progress.iteration, prefetch.workers
    source = loader(
        dataset,
        recipe,
        world,
        first=first,
        workers=workers,
        pin=world.device.type == "cuda",
        ahead=prefetch.ahead,
        begin=begin_worker,
        shift=(progress.seen or 0) - first * recipe.batch,
    )
    stream: Any = None
    try:
        with _no_alarm(), _failures(None):
            stream = iter(source)
        if workers:
            stream._get_data = _bounded(stream)
        yield _timed(stream, workers)
    finally:
        if workers and stream is not None:
            stream._shutdown_workers()


def _timed(stream: Any, workers: int) -> Iterator[tuple[Batch, float]]:
    while True:
        start = time.perf_counter()
        with _failures(stream if workers else None):
            batch = next(stream, None)
        if batch is None:
            return
        if isinstance(batch, SegfastError):
            raise batch
        yield batch, time.perf_counter() - start


def _bounded(stream: Any) -> Callable[[], object]:
    """`_get_data` of PyTorch's iterator with an end: it looks for dead workers every few seconds, and waits for ever."""

    def get() -> object:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            success, data = stream._try_get_data()
            if success:
                return data
        raise WorkersFailed(
            f"no batch came for {PATIENCE / 60:.0f} minutes, though the workers live: the disk or network that holds the "
            f"pictures may hang; {_GONE} that was saved"
        )

    return get


@contextmanager
def _failures(stream: Any) -> Iterator[None]:
    """What fails between the workers and this process, as ours.

    Raises:
        WorkersFailed: a worker has gone, or could not be started.
        TrainingFailed: memory ran out in one.
    """
    try:
        yield
    except (SegfastError, StopIteration):
        raise
    except (RuntimeError, OSError, EOFError) as error:
        gone = [code for worker in getattr(stream, "_workers", ()) if (code := worker.exitcode) is not None]
        if gone:
            raise WorkersFailed(f"{_cause(gone[0])}; {_GONE} that was saved") from error
        if (known := explained(error)) is not None:
            raise known from error
        if stream is None and not isinstance(error, OSError):
            raise
        raise WorkersFailed(
            f"the worker processes failed ({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            f"use fewer --workers, or 0; {_GONE} that was saved"
        ) from error


def _cause(code: int) -> str:
    """Why a worker has gone, in words."""
    if code == errno.ENOSPC or code == -getattr(signal, "SIGBUS", 7):
        return (
            f"a worker process found {SHARED} full; use fewer --workers, or 0, or give a container more "
            "(docker run --shm-size=2g)"
        )
    if code == -getattr(signal, "SIGKILL", 9):
        return "a worker process was killed, perhaps by the system as memory ran out; use fewer --workers, or 0"
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"a worker process ended {how}; use --workers 0 to see why"


@contextmanager
def _no_alarm() -> Iterator[None]:
    """No handler of PyTorch's for dead workers: it would raise in the midst of a step, whose state is then not whole.

    They are found while a batch is waited for.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before if before is not None else signal.SIG_DFL)


def begin_worker(number: int) -> None:
    """Leave signals, which reach the whole group of processes, to the process that trains; and end if a batch is lost.

    A batch that does not fit into shared memory is dropped by Python's queue, and would be waited for for ever.
    """
    from multiprocessing.queues import Queue as Pipe

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    Pipe._on_queue_feeder_error = staticmethod(_lost)  # type: ignore[attr-defined]


def _lost(error: Exception, batch: object) -> None:
    """End the worker with the number of the error: the process that trains tells it."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    print(f"a batch could not be sent: {error}", file=sys.stderr, flush=True)
    os._exit(errno.ENOSPC if full else 1)


def _free() -> int | None:
    """Free bytes of shared memory; None where there is no such place."""
    try:
        found = os.statvfs(SHARED)
    except (OSError, AttributeError):
        return None
    return found.f_bavail * found.f_frsize
