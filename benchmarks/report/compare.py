"""Two runs beside each other: ratios only, since seconds of two machines or days say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.report.results import Kernel, Results, Stage, Timed
from benchmarks.report.tables import over

# A ratio that loses more than this has fallen; less is the noise of a run.
FALL = 0.10
# Less than any timing tells: a fall of exactly FALL is none, however it is rounded.
ROUNDING = 1e-9

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Change:
    """One ratio in both runs.

    Attributes:
        key: section, id, and which ratio.
    """

    key: Key
    before: float
    after: float

    @property
    def change(self) -> float:
        """-0.2 for a ratio that lost a fifth."""
        return self.after / self.before - 1

    @property
    def fell(self) -> bool:
        return self.change < -FALL - ROUNDING


@dataclass(frozen=True)
class Comparison:
    """All ratios that two runs share, and the rows and columns that were measured in one alone."""

    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def fallen(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.fell)


def compare(before: Results, after: Results) -> Comparison:
    """What became of every ratio."""
    old, new = dict(ratios(before)), dict(ratios(after))
    changes = tuple(Change(key, value, new[key]) for key, value in old.items() if key in new)
    return Comparison(changes, tuple(_of_one(before, after)), tuple(_of_one(after, before)))


def _of_one(run: Results, other: Results) -> Iterator[str]:
    """What was measured in `run` alone: rows, and columns of rows that both have; with why, where `other` says so."""
    there, reasons = set(_measured(other)), _skipped(other)
    for key in _measured(run):
        if key not in there and (len(key) == 2 or key[:2] in there):
            yield " ".join(key) + (f": skipped, {reasons[key]}" if key in reasons else "")


def ratios(results: Results) -> Iterator[tuple[Key, float]]:
    """Every ratio of a run: of each of our columns to eager and to the best stock of its precision; of the kernels."""
    for section, rows in (("models", results.models), ("scaling", results.scaling)):
        for row in rows:
            yield from (((section, row.id, what), value) for what, value in _of(row))
    for kernel in results.kernels:
        yield ("kernels", kernel.id, "to its peer"), kernel.ratio


def _of(row: Timed) -> Iterator[tuple[str, float]]:
    for column in row.columns.values():
        if not column.ours:
            continue
        for peer, what in ((row.eager, "eager"), (row.best_of(column.precision, stock=True), "stock")):
            if value := over(peer, column):
                yield f"{column.name} to {what}", value


def _measured(run: Results) -> Iterator[tuple[str, ...]]:
    """(section, id) of every row, (section, id, column) of its columns that have a time."""
    for section, rows in _sections(run).items():
        for row in rows:
            yield section, row.id
            columns = row.columns.values() if isinstance(row, Timed) else ()
            yield from ((section, row.id, column.name) for column in columns if column.seconds)


def _skipped(run: Results) -> dict[tuple[str, ...], str]:
    """The reasons of what could not be measured, by the same keys."""
    found: dict[tuple[str, ...], str] = dict(run.skipped.items())
    rows = ((section, row) for section, rows in _sections(run).items() for row in rows if isinstance(row, Timed))
    found.update({(s, row.id, c.name): c.skipped for s, row in rows for c in row.columns.values() if c.skipped})
    return found


def _sections(run: Results) -> dict[str, tuple[Timed | Stage | Kernel, ...]]:
    return {"models": run.models, "scaling": run.scaling, "stages": run.stages, "kernels": run.kernels}


def table(comparison: Comparison, before: Results, after: Results) -> list[str]:
    """The lines for people."""
    lines = []
    if before.device["name"] != after.device["name"]:
        lines += [f"two devices: {before.device['name']} and {after.device['name']}; their ratios differ by nature"]
    names = [" ".join(change.key) for change in comparison.changes]
    width = max(map(len, names), default=0)
    lines += [f"{'ratio':<{width}} {'before':>8} {'after':>8} {'change':>8}"] if names else ["no ratio is in both"]
    for name, change in zip(names, comparison.changes, strict=True):
        mark = "  FELL" if change.fell else ""
        lines.append(f"{name:<{width}} {change.before:>8.2f} {change.after:>8.2f} {change.change:>+8.1%}{mark}")
    lines += [f"missing: {name}" for name in comparison.missing]
    lines += [f"new: {name}" for name in comparison.new]
    fallen = len(comparison.fallen)
    return [*lines, f"{fallen} of {len(names)} ratios fell by over {100 * FALL:.0f} %"]
