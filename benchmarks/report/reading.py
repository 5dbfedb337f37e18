"""A file of results, read and checked."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report.results import LIMITS, SECTIONS, Column, Kernel, Results, Stage, Target, Timed
from segfast.errors import BadOption

MAKE = "pytest benchmarks/ --benchmark-only"


def read(path: str | os.PathLike[str]) -> Results:
    """The results in a file.

    Raises:
        BadOption: it is not there, is no JSON, or is not what the benchmarks write.
    """
    path = Path(path)
    content = load(path)
    if not isinstance(content, dict) or content.get("benchmark") != "segfast":
        told = content.get("benchmark") if isinstance(content, dict) else None
        raise BadOption(
            f"{path} is {f'a result of {told}' if told else 'some other JSON'}; name a file that {MAKE} wrote"
        )
    try:
        return _results(path, content)
    except _Unfit as error:
        raise BadOption(f"{path} is not what the benchmarks write: {error}; make it again with {MAKE}") from None


def load(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        BadOption: it is not there, cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadOption(f"there is no {path}; make it with {MAKE}") from None
    except OSError as error:
        raise BadOption(f"cannot read {path}: {error.strerror}; name a file that {MAKE} wrote") from None
    except (ValueError, RecursionError):
        raise BadOption(f"{path} is no JSON, or was cut off; make it again with {MAKE}") from None


class _Unfit(Exception):
    """What is wrong with a file, before its name is known."""


class _Fields:
    """The fields of an object, by type; what is missing or of another type is said with the object's name."""

    def __init__(self, name: str, values: Any):
        if not isinstance(values, dict):
            raise _Unfit(f"{name} is no object")
        self.name, self.values = name, values

    def text(self, key: str, otherwise: str | None = None) -> str:
        value = self.values.get(key)
        value = otherwise if value is None else value
        if not isinstance(value, str):
            raise _Unfit(f"{self.name} has no text {key!r}")
        return value

    def maybe(self, key: str) -> float | None:
        """A number from 0, or None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
            raise _Unfit(f"{key!r} of {self.name} is no number from 0")
        return float(value)

    def number(self, key: str) -> float:
        value = self.maybe(key)
        if value is None:
            raise _Unfit(f"{self.name} has no number {key!r}")
        return value

    def positive(self, key: str) -> float:
        """A number above 0: what is divided by."""
        if not (value := self.number(key)):
            raise _Unfit(f"{key!r} of {self.name} is 0")
        return value

    def whole(self, key: str) -> int:
        return int(self.number(key))

    def list(self, key: str) -> Sequence[Any]:
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise _Unfit(f"{key!r} of {self.name} is no list")
        return value or ()

    def inside(self, key: str, optional: bool = False) -> _Fields:
        """An object that is one of the fields."""
        return _Fields(
            f"{key!r} of {self.name}", {} if optional and self.values.get(key) is None else self.values.get(key)
        )

    def numbers(self) -> dict[str, float]:
        """All of its fields that are not null."""
        return {key: self.positive(key) for key, value in self.values.items() if value is not None}


def _results(path: Path, content: dict[str, Any]) -> Results:
    top = _Fields("the file", content)
    device = top.inside("device")
    device.text("name")
    for number in ("memory_bytes", "clock_mhz"):
        device.maybe(number)
    rows, skipped = _rows(content.get("rows"))
    scaling = rows.get("scaling", [])
    exponents = next((row for row in scaling if row.text("id") == "exponents"), None)
    limits = next(iter(rows.get("limits", [])), None)
    return Results(
        path,
        device.values,
        top.inside("versions", optional=True).values,
        top.text("date", ""),
        top.text("commit", ""),
        top.maybe("seconds"),
        tuple(_timed(row) for row in rows.get("models", [])),
        tuple(_timed(row) for row in scaling if row is not exponents),
        tuple(_stage(row) for row in rows.get("stages", [])),
        tuple(_kernel(row) for row in rows.get("kernels", [])),
        _exponents(exponents.inside("exponents")) if exponents else {},
        {key: limits.positive(key) for key in LIMITS if limits.values.get(key) is not None} if limits else {},
        skipped,
        {section: len(of) for section, of in rows.items() if section not in SECTIONS},
    )


def _rows(listed: Any) -> tuple[dict[str, list[_Fields]], dict[tuple[str, str], str]]:
    """The rows that were measured by section, and the reasons of the others by (section, id)."""
    if not isinstance(listed, list):
        raise _Unfit("it has no list of rows")
    rows: dict[str, list[_Fields]] = {}
    skipped: dict[tuple[str, str], str] = {}
    seen = set()
    for values in listed:
        row = _Fields("a row", values)
        key = row.text("section"), row.text("id")
        if key in seen:
            raise _Unfit(f"two rows are {' '.join(key)}")
        seen.add(key)
        if "skipped" in values:
            skipped[key] = row.text("skipped")
        else:
            rows.setdefault(key[0], []).append(_Fields(" ".join(key), values))
    return rows, skipped


def _timed(row: _Fields) -> Timed:
    columns = row.inside("columns")
    speeds = [_Fields(row.name, {"paper_images_per_second": value}) for value in row.list("paper_images_per_second")]
    batch = int(row.maybe("batch") or 1)
    patch, tokens = row.maybe("patch"), row.maybe("tokens")
    return Timed(
        id=row.text("id"),
        model=row.text("model"),
        size=row.whole("size"),
        batch=batch,
        columns={name: _column(name, columns.inside(name), row, batch) for name in columns.values},
        patch=None if patch is None else int(patch),
        tokens=None if tokens is None else int(tokens),
        flops=row.maybe("flops"),
        least_bytes=row.maybe("least_bytes"),
        paper_speeds=tuple(one.positive("paper_images_per_second") for one in speeds),
        paper_miou=row.maybe("paper_miou"),
        share_of_peak=row.maybe("share_of_peak"),
        targets=tuple(_target(row.text("id"), _Fields(f"a target of {row.name}", one)) for one in row.list("targets")),
    )


def _column(name: str, column: _Fields, row: _Fields, batch: int) -> Column:
    precision = column.text("precision", name.rsplit("-", 1)[-1])
    if "skipped" in column.values:
        return Column(name, precision, skipped=column.text("skipped"))
    seconds = column.positive("seconds")

    def either(key: str) -> float | None:
        return column.maybe(key) if key in column.values else row.maybe(key)

    return Column(
        name,
        precision,
        seconds,
        column.maybe("images_per_second") or batch / seconds,
        column.maybe("agreement"),
        either("peak_bytes"),
        either("attention_share"),
    )


def _target(row: str, target: _Fields) -> Target:
    met = target.values.get("met")
    if not isinstance(met, bool):
        raise _Unfit(f"{target.name} does not say whether it is met")
    return Target(row, target.text("what"), target.number("wanted"), target.maybe("got"), met, target.text("note", ""))


def _stage(row: _Fields) -> Stage:
    seconds = row.inside("seconds")
    return Stage(row.text("id"), row.text("runtime", ""), {key: seconds.number(key) for key in seconds.values})


def _kernel(row: _Fields) -> Kernel:
    seconds, peers = row.positive("seconds"), row.inside("peers", optional=True).numbers()
    if row.maybe("ratio") is None and not peers:
        raise _Unfit(f"{row.name} has neither a ratio nor peers")
    ratio = row.positive("ratio") if row.maybe("ratio") is not None else min(peers.values()) / seconds
    return Kernel(row.text("id"), seconds, peers, ratio, row.maybe("wanted"))


def _exponents(exponents: _Fields) -> dict[str, dict[str, float]]:
    return {column: exponents.inside(column).numbers() for column in exponents.values}
