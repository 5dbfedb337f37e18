"""Progress bars over the phases of an export and of a compiler."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from segfast.progress import bar

_REFRESH = 0.1  # seconds between two pictures of the bar


class Phases:
    """A progress bar over the phases of an export, one after the other."""

    COUNT = 6

    def __init__(self, title: str):
        self._title = title
        self._bar = bar(desc=title, total=self.COUNT, bar_format="{desc} |{bar:20}| {elapsed}")

    def __enter__(self) -> Phases:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.set_description_str(self._title)
        self._bar.close()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """The block is a phase, of that name."""
        self._bar.set_description_str(f"{self._title}: {phase}")
        yield
        self._bar.update()


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class NestedPhases:
    """A progress bar over nested phases, told of from any thread."""

    def __init__(self, title: str):
        self._title = title
        self._bar = bar(desc=title, total=1.0, bar_format="{desc} |{bar:20}| {elapsed}")
        self._lock = threading.Lock()
        self._shown = 0.0
        self._phases: dict[str | None, _Phase] = {}  # by name

    def __enter__(self) -> NestedPhases:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.n = 1.0 if kind is None else self._bar.n
        self._bar.set_description_str(self._title)
        self._bar.close()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, as a part of its parent's current step."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))
            self._show(name)

    def step(self, name: str, step: int) -> None:
        """A step of a phase, counted from 0, is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self._show(name)

    def finish(self, name: str) -> None:
        """A phase is done."""
        with self._lock:
            self._phases.pop(name, None)

    def _show(self, name: str) -> None:
        share, phase = 0.0, self._phases.get(name)
        while phase is not None:
            share = min(1.0, (phase.done + share) / phase.steps)
            phase = self._phases.get(phase.parent)
        if share > self._bar.n:  # a bar that runs back says nothing
            self._bar.n = share
        if time.monotonic() - self._shown > _REFRESH:
            self._shown = time.monotonic()
            self._bar.set_description_str(f"{self._title}: {name.lower()}")
