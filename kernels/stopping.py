"""Work that another thread may call off. Long loops ask between windows and between bands of rows.

In the main thread Ctrl-C interrupts a loop between its calls. A worker thread hears nothing of it: there
the same loops ask for a flag, which belongs to the context of the thread (`contextvars`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

_flag: ContextVar[Event | None] = ContextVar("segfast-stop", default=None)


class Stopped(BaseException):
    """The flag is set: nobody waits for the result. No error, so that it passes whoever handles those."""


@contextmanager
def stoppable(flag: Event) -> Iterator[None]:
    """Work in this block, in this thread, ends soon after `flag` is set."""
    token = _flag.set(flag)
    try:
        yield
    finally:
        _flag.reset(token)


def check() -> None:
    """Raises Stopped if this thread's work was called off."""
    flag = _flag.get()
    if flag is not None and flag.is_set():
        raise Stopped
