"""Rows of a section from a process of its own, which is watched: one that hangs, dies or loses its device costs a row."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu import processes
from benchmarks.gpu.child import LOST

# How often a section goes on in another process.
RESTARTS = 3
INTERVAL = 0.05


class Section(NamedTuple):
    """A part of the proof.

    Attributes:
        module: has a function plan(budget) → rows.
        share: of the time, against those of the other sections.
        least: seconds that it has in any case, as long as there are any.
        hang: seconds after which a row that has not ended never will.
        untimed: it starts processes rather than use PyTorch itself.
    """

    name: str
    module: str
    share: float = 1.0
    least: float = 0.0
    hang: float = 150.0
    untimed: bool = False


class Given(NamedTuple):
    """What a section is run with.

    Attributes:
        device: `cuda`, or `cpu` in a rehearsal.
        deadline: of `time.monotonic`; by then the process is asked to end.
        grace: seconds that it has to do so.
        peak: FLOP/s of the matrix units, measured.
    """

    device: str
    deadline: float
    grace: float = processes.GRACE
    peak: float = float("inf")


class _Trouble(NamedTuple):
    """Why a process did not come to the end of its rows; whether another one may go on."""

    reason: str
    again: bool
    late: bool = False


class _Progress:
    """What is known of a section's rows."""

    def __init__(self, section: Section):
        self._about: dict[str, Any] = {"section": section.name}
        self._plan: list[dict[str, Any]] | None = None
        self._begun: int | None = None
        self.done, self.at = 0, time.monotonic()

    def take(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """The row that an event of the log brings, if any."""
        self.at = time.monotonic()
        self._plan = event.get("plan", self._plan)
        self._begun = event.get("begin", self._begun)
        if "row" in event:
            self._begun, self.done = None, event["index"] + 1
            return [event["row"]]
        return [self._about | event] if "skipped" in event else []

    def lost(self, trouble: _Trouble) -> list[dict[str, Any]]:
        """The row that was being measured when its process came to its end."""
        index = self._begun
        if index is None or self._plan is None:
            return []
        self._begun, self.done = None, index + 1
        return [self._plan[index] | {"skipped" if trouble.late else "error": trouble.reason}]

    def rest(self, trouble: _Trouble) -> list[dict[str, Any]]:
        """The rows that were never begun; of a plan that never came, the section as a whole."""
        if self._plan is None:
            return [self._about | {"skipped" if trouble.late else "error": trouble.reason}]
        reason = trouble.reason if trouble.late else f"not begun, as before it {trouble.reason}"
        return [about | {"skipped": reason} for about in self._plan[self.done :]]


def rows(section: Section, given: Given) -> Generator[dict[str, Any], None, None]:
    """The rows of a section as they end, then those that could not be had, with the reason."""
    progress = _Progress(section)
    trouble: _Trouble | None = None
    for _ in range(1 + RESTARTS):
        before = progress.done
        trouble = yield from _one_process(section, given, progress)
        if trouble is None:
            return
        yield from progress.lost(trouble)
        if not trouble.again or progress.done == before:
            break
    assert trouble is not None
    yield from progress.rest(trouble)


def _one_process(
    section: Section, given: Given, progress: _Progress
) -> Generator[dict[str, Any], None, _Trouble | None]:
    """Rows until the process ends, or has to; returns its trouble."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        log = Path(folder) / "rows"
        events = _Log(log)
        process = processes.start(_command(section, given, progress.done, log), output)
        trouble = None
        progress.at = time.monotonic()
        try:
            while trouble is None:
                over = process.poll() is not None  # asked first: it may write until then
                for event in events.new():
                    yield from progress.take(event)
                if over:
                    break
                trouble = _impatience(section, given, progress)
                time.sleep(INTERVAL)
        finally:
            processes.stop(process, given.grace)
        for event in events.new():
            yield from progress.take(event)
        return trouble or _ending(process, output)


def _impatience(section: Section, given: Given, progress: _Progress) -> _Trouble | None:
    """Why a process that still runs is stopped; None while it is not."""
    now = time.monotonic()
    if now > given.deadline:
        return _Trouble("stopped, as the time of its section was over", again=False, late=True)
    if now > progress.at + section.hang:
        return _Trouble(f"hung: no answer within {section.hang:g} s", again=True)
    return None


def _ending(process: subprocess.Popen[bytes], output: Any) -> _Trouble | None:
    """What went wrong in a process that ended by itself; None if nothing did."""
    code = process.returncode
    if code == 0:
        return None
    if code == LOST:
        return _Trouble("the device was lost", again=True)
    name = f"code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
    last = processes.tail(output).rpartition("\n")[2]
    return _Trouble(f"the process ended with {name}: {last}"[:500], again=True)


def _command(section: Section, given: Given, done: int, log: Path) -> list[str]:
    seconds = max(0.0, given.deadline - time.monotonic())
    return [
        sys.executable,
        "-m",
        "benchmarks.gpu.child",
        section.module,
        "--device",
        given.device,
        "--seconds",
        f"{seconds:.2f}",
        "--peak",
        repr(given.peak),
        "--skip",
        str(done),
        "--log",
        str(log),
        *(["--untimed"] if section.untimed else []),
    ]


class _Log:
    """The whole lines that were added to a file since they were last read."""

    def __init__(self, path: Path):
        self._path, self._read = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content.rpartition(b"\n")[0]
        self._read += len(whole) + (whole != b"")
        for line in whole.splitlines():
            yield json.loads(line)
