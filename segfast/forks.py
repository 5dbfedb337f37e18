"""Forked children: a fork brings along the memory of every library and none of its threads.

A library that waits for its threads waits forever: OpenVINO and ONNX Runtime where they let go of a network, even as
the interpreter ends; PyTorch (GNU's OpenMP) as soon as the thread that forked computes anything.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar
from weakref import WeakSet

from segfast.errors import NotSupported

T = TypeVar("T")

# What children must never let go of; the thread of a child that forked; and the one that computes in its place.
_inherited: WeakSet[Any] = WeakSet()
_forked: int | None = None
_helper: ThreadPoolExecutor | None = None


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


@cache
def _watch() -> None:
    """Look out for forks from now on."""
    if hasattr(os, "register_at_fork"):
        import ctypes

        os.register_at_fork(after_in_child=lambda: _after(ctypes.pythonapi.Py_IncRef, ctypes.py_object))


def _after(keep: Callable[[Any], object], pointer: Callable[[Any], Any]) -> None:
    global _forked, _helper
    _forked, _helper = threading.get_ident(), None
    for owner in list(_inherited):
        keep(pointer(owner))
    _inherited.clear()
