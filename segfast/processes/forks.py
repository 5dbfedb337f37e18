"""Forked children: a fork brings along the memory of every library and none of its threads.

A library that waits for its threads waits forever: OpenVINO and ONNX Runtime where they let go of a network, even as
the interpreter ends; PyTorch (GNU's OpenMP) as soon as the thread that forked computes anything; and any of them at a
lock that another thread held. So what is inherited is never let go of, PyTorch gets new threads, and a fork waits for
what runs, PATIENCE seconds at most.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypeVar
from weakref import WeakSet

from segfast.errors import NotSupported

T = TypeVar("T")

# What children must never let go of; the thread of a child that forked; and the one that computes in its place.
_inherited: WeakSet[Any] = WeakSet()
_forked: int | None = None
_helper: ThreadPoolExecutor | None = None

# Seconds that a fork waits for what runs, and then for the threads that ran it to fall asleep.
PATIENCE = 20
REST = 0.01
_changed = threading.Condition()
_count = {"running": 0, "forks": 0}
# How many blocks of `running` this thread is in: the inner ones wait for nothing.
_depth = threading.local()
# What else a child has to set right.
_renewals: list[Callable[[], object]] = []


def check(process: int, runtime: str) -> None:
    """See that what was made in `process` is used there.

    Raises:
        NotSupported: this is a child of it.
    """
    if os.getpid() != process:
        raise NotSupported(
            f"{runtime} was set up before this process was forked, and does not work in its children: make the Engine in "
            "the child (gunicorn: in post_fork, or without --preload), or start children by spawn"
        )


class Here(Iterator[T]):
    """A generator for the process that made it alone: in a forked child its threads, which it waits for, are missing."""

    def __init__(self, generator: Generator[T, None, None]):
        leave_behind(generator)
        self._generator, self._process = generator, os.getpid()

    def __next__(self) -> T:
        check(self._process, "segment_many")
        return next(self._generator)

    def close(self) -> None:
        """End the work."""
        if os.getpid() == self._process:
            self._generator.close()


def leave_behind(owner: Any) -> None:
    """Have forked children keep an object for good, as its destructor would wait for threads that they do not have."""
    _watch()
    _inherited.add(owner)


def with_threads(function: Callable[..., T], *args: Any) -> T:
    """Call a function that computes in PyTorch: in a forked child by a thread of its own, which gets new helpers.

    Only the thread that forked has helpers that are not there; any other starts with none.
    """
    _watch()
    if threading.get_ident() != _forked:
        return function(*args)
    global _helper
    if _helper is None:
        _helper = ThreadPoolExecutor(1, "segfast-forked")
    return _helper.submit(function, *args).result()


@contextmanager
def running() -> Iterator[None]:
    """A block in which a library computes or is set up: forks wait for its end, and it for that of a fork."""
    _watch()
    depth = getattr(_depth, "blocks", 0)
    if not depth:
        with _changed:
            _changed.wait_for(lambda: not _count["forks"])
            _count["running"] += 1
    _depth.blocks = depth + 1
    try:
        yield
    finally:
        _depth.blocks = depth
        if not depth:
            with _changed:
                _count["running"] = max(0, _count["running"] - 1)  # 0 in a child forked meanwhile
                _changed.notify_all()


def in_child(renew: Callable[[], object]) -> None:
    """Have a function called in every forked child, where nobody else runs."""
    _watch()
    _renewals.append(renew)


class Lock:
    """A lock of this module's life that a forked child finds free, whoever held it: that thread is not there."""

    def __init__(self) -> None:
        self._renew()
        in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


@cache
def _watch() -> None:
    """Look out for forks from now on."""
    if hasattr(os, "register_at_fork"):
        import ctypes

        in_child = partial(_in_child, ctypes.pythonapi.Py_IncRef, ctypes.py_object)
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=in_child)


def _before() -> None:
    with _changed:
        _count["forks"] += 1
        _changed.wait_for(lambda: not _count["running"], PATIENCE)
    if _inherited:
        time.sleep(REST)


def _in_parent() -> None:
    with _changed:
        _count["forks"] -= 1
        _changed.notify_all()


def _in_child(keep: Callable[[Any], object], pointer: Callable[[Any], Any]) -> None:
    global _forked, _helper, _changed
    _forked, _helper, _changed = threading.get_ident(), None, threading.Condition()
    _count.update(running=0, forks=0)
    for renew in _renewals:
        renew()
    for owner in list(_inherited):
        keep(pointer(owner))
    _inherited.clear()
