"""Progress bars: drawn over themselves on a terminal, whole lines now and then in a log."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, overload

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

# Between two lines of a bar in a log, in seconds.
INTERVAL = 10.0
# What changes in a bar though nothing is done: a line that differs in it alone says nothing new.
_TIMES = re.compile(r"\[.*\]|\d+:\d\d\S*")


@overload
def bar(items: Iterable[T], desc: str | None = None, **options: Any) -> tqdm[T]: ...
@overload
def bar(items: None = None, desc: str | None = None, **options: Any) -> tqdm[Any]: ...
def bar(items: Iterable[Any] | None = None, desc: str | None = None, **options: Any) -> tqdm[Any]:
    """tqdm's bar on the standard error.

    Args:
        items: what it counts; without them its `update` does.
        options: tqdm's.
    """
    from tqdm import tqdm

    file: Any = sys.stderr
    if file is None:  # a Windows program without a console
        options["disable"] = True
    elif not _is_terminal(file):
        file = _Lines(file)
        options["position"] = 0  # the cursor is not moved to a row of its own
    return tqdm(items, desc, file=file, **options)


def _is_terminal(file: Any) -> bool:
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):  # a program's own stream; a closed one
        return False


class _Lines:
    """A log, to which a bar writes as to a terminal; what it draws last becomes a line now and then, and at its end."""

    def __init__(self, file: TextIO):
        self._file = file
        self._drawn = self._said = ""
        self._time = -INTERVAL

    def write(self, text: str) -> None:
        """Take what a bar draws, which begins with a carriage return; a line's end ends the bar."""
        self._drawn = text.strip() or self._drawn
        said, now = _TIMES.sub("", self._drawn), time.monotonic()
        if said != self._said and ("\n" in text or now - self._time >= INTERVAL):
            self._file.write(f"{self._drawn}\n")
            self._said, self._time = said, now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
