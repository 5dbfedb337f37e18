"""Progress bars: redrawn in place on a terminal, written as whole lines now and then in a log."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, TextIO, TypedDict, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

INTERVAL = 10.0  # seconds between two lines of a bar in a log
# The parts of a bar that change with time alone: a line that differs only in these is not written again.
_TIMES = re.compile(r"\[.*\]|\d+:\d\d\S*")


class Options(TypedDict, total=False):
    """tqdm's options that are used here."""

    total: float | None
    initial: int
    unit: str
    unit_scale: bool
    bar_format: str
    dynamic_ncols: bool
    disable: bool
    position: int


@overload
def bar(items: Iterable[T], desc: str | None = None, **options: Unpack[Options]) -> tqdm[T]: ...
@overload
def bar(items: None = None, desc: str | None = None, **options: Unpack[Options]) -> tqdm[NoReturn]: ...
def bar(
    items: Iterable[T] | None = None, desc: str | None = None, **options: Unpack[Options]
) -> tqdm[T] | tqdm[NoReturn]:
    """tqdm's bar on standard error, of the items that it is iterated over; without them, of calls of its `update`."""
    from tqdm import tqdm

    file, lines = sys.stderr, None
    if file is None:  # a Windows program without a console
        options["disable"] = True
    elif not _is_terminal(file):
        lines = _Lines(file)
        options["position"] = 0  # or tqdm would move the cursor to a row for this bar
    return tqdm(items, desc, file=lines or file, **options)


def on_terminal() -> bool:
    """Whether bars are redrawn in place."""
    return sys.stderr is not None and _is_terminal(sys.stderr)


def _is_terminal(file: TextIO) -> bool:
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # a stream of the program's own; a closed one
        return False


class _Lines:
    """A log that a bar takes for a terminal: what it drew last becomes a line now and then, and at its end."""

    def __init__(self, file: TextIO):
        self._file = file
        self._drawn = self._said = ""
        self._time = -INTERVAL

    def write(self, text: str) -> None:
        """Take what a bar draws: a carriage return and the bar, or a newline when it ends."""
        self._drawn = text.strip() or self._drawn
        said, now = _TIMES.sub("", self._drawn), time.monotonic()
        if said != self._said and ("\n" in text or now - self._time >= INTERVAL):
            self._file.write(f"{self._drawn}\n")
            self._said, self._time = said, now

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)
