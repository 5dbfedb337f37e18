"""The search: every file is judged once, its speed measured where it can still win.

Points depend on the file, speed on how it is run too. So settings are compared on files that merge no tokens, and a file
is passed over where one that must lose less has lost too much, or one that must be faster has lost little enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segfast.config import Config
from segfast.errors import BadModel, BadOption, ExportFailed, MissingRuntime, NotSupported
from segfast.progress import bar
from segfast.tuning.candidates import BASE, DEFAULT, Candidate, Setting, work
from segfast.tuning.quality import Quality
from segfast.tuning.speed import Speed

# Below this share of the fastest so far, fewer threads of a runtime are not tried, and no second round is run.
HOPELESS = 0.6
# Fewer threads than all cores must be so many times as fast: a busy moment favours who waits for nobody.
MARGIN = 1.1
# What a candidate may fail with, and others go on.
FAILURES = (BadModel, BadOption, ExportFailed, MissingRuntime, NotSupported)


@dataclass(frozen=True)
class Row:
    """What was found of a candidate in one setting.

    Attributes:
        path: of its file; None where none was made.
        speed: None where it was not measured.
        lost: points; None where they were not measured.
        note: why something is missing, or why it cannot win.
    """

    candidate: Candidate
    setting: Setting
    path: Path | None = None
    speed: Speed | None = None
    lost: float | None = None
    note: str = ""

    @property
    def rate(self) -> float:
        """Images a second; 0 where they were not measured."""
        return 0.0 if self.speed is None else self.speed.images_per_second


class Search:
    """Candidates by turns.

    Args:
        config: of the model.
        make: writes a candidate's file; raises one of FAILURES.
        quality: by which files are judged.
        measure: the speed of a file in a setting, or why there is none.
        max_loss: points that may be lost.
        tell: called with a line for people for all that is found.
    """

    def __init__(
        self,
        config: Config,
        make: Callable[[Candidate], Path],
        quality: Quality,
        measure: Callable[[Path, Setting], Speed | str],
        max_loss: float,
        tell: Callable[[str], None] = print,
    ):
        self._config, self._make, self._quality = config, make, quality
        self._measure, self.max_loss, self._tell = measure, max_loss, tell
        self.rows: list[Row] = []

    def run(
        self, candidates: Sequence[Candidate], settings: Sequence[Setting], *, rounds: int, named: bool = False
    ) -> list[Row]:
        """All rows.

        Args:
            candidates: the exact one, fp32, is judged first in any case.
            settings: the first is the default.
            rounds: of measuring what may win.
            named: the user has named the candidates: none is passed over.

        Raises:
            As `make`, of the exact file.
        """
        exact = self._make(BASE)
        self._quality.refer(exact)
        for candidate in bar(candidates, "tune", unit="candidate"):
            reason = "" if named else self._hopeless(candidate)
            if reason:
                self._add(Row(candidate, DEFAULT, note=reason))
            else:
                self._try(candidate, settings, exact)
        self.again(rounds)
        return self.rows

    def fits(self, row: Row) -> bool:
        """Whether it loses no more than it may."""
        return row.lost is not None and row.lost <= self.max_loss

    def winner(self) -> Row | None:
        """The fastest that fits; None where none does."""
        return max((row for row in self.rows if self.fits(row) and row.speed is not None), key=_worth, default=None)

    def _try(self, candidate: Candidate, settings: Sequence[Setting], exact: Path) -> None:
        """Make a candidate's file, judge it and measure it."""
        try:
            path = exact if candidate == BASE else self._make(candidate)
            points = 0.0 if candidate == BASE else self._quality.of(path)
        except FAILURES as error:
            self._add(Row(candidate, DEFAULT, note=str(error).splitlines()[0]))
            return
        row = Row(candidate, settings[0], path, lost=points)
        chosen = self._chosen(candidate)
        if not self.fits(row):
            self._time(replace(row, setting=chosen or settings[0], note=f"over the loss of {self.max_loss:g}"))
        elif chosen is not None:
            self._time(replace(row, setting=chosen))
        else:
            self.compare(row, settings)

    def compare(self, row: Row, settings: Sequence[Setting]) -> None:
        """Measure a file in all settings, but for few threads of a runtime that is slow with all of them."""
        best, whole = 0.0, dict[str, float]()
        for setting in settings:
            if setting.threads is not None and whole.get(setting.runtime, 0.0) < HOPELESS * best:
                continue
            found = self._time(replace(row, setting=setting))
            best = max(best, found.rate)
            if setting.threads is None:
                whole[setting.runtime] = found.rate

    def _time(self, row: Row) -> Row:
        """The row with its speed, which is added."""
        assert row.path is not None
        found = self._measure(row.path, row.setting)
        row = replace(row, note=found) if isinstance(found, str) else replace(row, speed=found)
        self._add(row)
        return row

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        parts = [f"{row.lost:.2f} lost"] if row.lost is not None else []
        parts += [f"{row.rate:.2f} images/s ({row.setting})"] if row.speed is not None else []
        parts += [row.note] if row.note else []
        self._tell(f"{row.candidate}: {', '.join(parts)}")

    def _hopeless(self, candidate: Candidate) -> str:
        """Why a candidate cannot win, in words; empty where it can."""
        judged = {row.candidate: row for row in self.rows if row.lost is not None}
        for other, row in judged.items():
            if other != candidate and other.gentler(candidate) and not self.fits(row):
                return f"not tried: {other}, which is gentler, loses {row.lost:.2f}"
            alike = other.precision == candidate.precision and None not in (other.merge, candidate.merge)
            if alike and self.fits(row) and work(other, self._config) <= work(candidate, self._config):
                return f"not tried: {other} is faster, and loses {row.lost:.2f}"
        slow = self._rate(Candidate("int8")) <= self._rate(Candidate("fp16"))
        if slow and candidate.precision == "int8" and candidate.merge is not None:
            return "not tried: int8 is no faster than fp16 here"
        return ""

    def _rate(self, candidate: Candidate) -> float:
        """Images a second in its fastest setting; 0 where they were not measured."""
        return max((row.rate for row in self.rows if row.candidate == candidate), default=0.0)

    def _chosen(self, candidate: Candidate) -> Setting | None:
        """The setting that was the fastest for this precision; None where none was measured yet."""
        alike = [row for row in self.rows if row.candidate.precision == candidate.precision and row.speed is not None]
        return max(alike, key=_worth).setting if alike and candidate.merge is not None else None

    def again(self, rounds: int) -> None:
        """More rounds of what may still win, by turns, so that a moment's load decides nothing."""
        for _ in range(rounds - 1):
            most = max((row.rate for row in self.rows if self.fits(row)), default=0.0)
            for i, row in enumerate(self.rows):
                if row.speed is None or row.path is None or row.rate < HOPELESS * most:
                    continue
                found = self._measure(row.path, row.setting)
                if not isinstance(found, str):
                    self.rows[i] = replace(row, speed=found.best(row.speed))


def _worth(row: Row) -> float:
    """By what rows are compared: images a second, less where that takes fewer threads."""
    return row.rate if row.setting.threads is None else row.rate / MARGIN
