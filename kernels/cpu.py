"""What the compiled loops share: how they are compiled, and the threads that run them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import numba

from .quota import cpus
from .stopping import check

Function = TypeVar("Function", bound=Callable[..., object])
# Fewer pixels than this are not worth another thread.
SMALL = 1 << 14


# Why numba's files cannot be kept, if they cannot.
uncached: list[str] = []


def compiled(function: Function) -> Function:
    """Compiled without the GIL; kept beside its file, in the user's cache, or nowhere if neither can be written."""
    try:
        dispatcher: Any = numba.njit(nogil=True, cache=True)(function)
        dispatcher._cache = _Lenient(dispatcher._cache)
    except Exception as error:  # no folder that can be written, or none that can be named: no HOME, an unknown user
        uncached.append(_brief(error))
        dispatcher = numba.njit(nogil=True)(function)
    return dispatcher


class _Lenient:
    """numba's files of one function; where one cannot be read or written, it is compiled without."""

    def __init__(self, cache: Any):
        self._cache = cache

    def __getattr__(self, name: str) -> object:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: object) -> object:
        try:
            return self._cache.load_overload(*arguments)
        except Exception:  # another user's, or damaged: pickle meets that with nearly any exception
            return None

    def save_overload(self, *arguments: object) -> None:
        try:
            self._cache.save_overload(*arguments)
        except OSError as error:
            uncached.append(_brief(error))


def _brief(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (reason.strip().splitlines() or [type(error).__name__])[0]


def run(tasks: Sequence[Callable[[], None]], threads: int) -> None:
    """Runs all tasks, in this thread and in up to threads - 1 more."""
    left = list(reversed(tasks))

    def work() -> None:
        while left:
            try:
                task = left.pop()
            except IndexError:  # another thread took it
                return
            check()
            task()

    helpers = [_pool().submit(work) for _ in range(min(threads, len(tasks)) - 1)]
    try:
        work()
    finally:
        # A helper that has not started is not waited for: whoever called at the same time holds the pool.
        running = [helper for helper in helpers if not helper.cancel()]
        left.clear()
        wait(running)
    for helper in running:
        helper.result()


@cache
def _pool() -> ThreadPoolExecutor:
    """Our threads, from the first use on; a forked process, which inherits none, starts its own."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_pool.cache_clear)
    return ThreadPoolExecutor(max(1, cpus() - 1), "segfast-kernels")
