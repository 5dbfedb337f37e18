"""Forked children: a fork brings along the memory of every library and none of its threads.

A library that waits for its threads waits forever: OpenVINO and ONNX Runtime where they let go of a network, even as
the interpreter ends; PyTorch (GNU's OpenMP) as soon as the thread that forked computes anything; and any of them at a
lock that another thread held. So what is inherited is never let go of, PyTorch gets new threads, and nothing runs while
the process forks.
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
    """A block in which a library computes: forks wait for its end, and it for that of a fork."""
    _watch()
    with _changed:
        _changed.wait_for(lambda: not _count["forks"])
        _count["running"] += 1
    try:
        yield
    finally:
        with _changed:
            _count["running"] = max(0, _count["running"] - 1)      # 0 in a child forked meanwhile
            _changed.notify_all()


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
    for owner in list(_inherited):
        keep(pointer(owner))
    _inherited.clear()
