"""What the compiled loops share: how they are compiled, and the threads that run them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import numba

from .checks import cpus

# Fewer pixels than this are not worth another thread.
SMALL = 1 << 14


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled without the GIL; kept beside its file, in the user's cache, or nowhere if neither can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def run(tasks: Sequence[Callable[[], None]], threads: int) -> None:
    """Runs all tasks, in this thread and in up to threads - 1 more."""
    left = list(reversed(tasks))

    def work() -> None:
        while left:
            try:
                task = left.pop()
            except IndexError:      # another thread took it
                return
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
