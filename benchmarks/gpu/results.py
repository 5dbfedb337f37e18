"""The JSON of a run: written after every row, so that whatever ends the run leaves what it has found."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from segfast import files


class Results:
    """Rows, and what they come to.

    Args:
        about: machine, versions and options.
        path: of the file, None for no file.
    """

    def __init__(self, about: dict[str, Any], path: Path | None):
        self._about, self._path, self._start = about, path, time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, and write the file anew."""
        self.rows.append(row)
        self.write()

    def end(self, section: str, seconds: float) -> None:
        """Note that all rows of a section are there."""
        self.ended.append({"section": section, "seconds": round(seconds, 1)})
        self.write()

    def write(self, complete: bool = False) -> None:
        """Write the file, where there is to be one."""
        if self._path is not None:
            files.make_folder(self._path.parent)
            files.write_text(json.dumps(self.content(complete), indent=1, ensure_ascii=False) + "\n", self._path)

    def content(self, complete: bool = False) -> dict[str, Any]:
        """All of it, as plain values.

        Args:
            complete: every section has come to its end.
        """
        targets = [one for row in self.rows for one in row.get("targets", [])]
        gpu = self._only("gpu")
        about = self._about | ({"gpu": gpu, "device": gpu["name"]} if gpu else {"gpu": {}})
        return about | {
            "complete": complete,
            "sections": self.ended,
            "tests": tests(self.rows, about["rehearsal"]),
            "measured_peak": self._only("measured_peak"),
            "results": self.rows,
            "attention_table": self._table(about),
            "fastest_tiles": fastest(self.rows),
            "errors": sum("error" in row for row in self.rows),
            "targets": {"met": sum(one["met"] for one in targets), "missed": sum(not one["met"] for one in targets)},
            "skipped": sum("skipped" in row for row in self.rows),
            "seconds": round(time.monotonic() - self._start, 1),
        }

    @property
    def peak(self) -> float:
        """FLOP/s of the matrix units; infinite where they were not measured."""
        return float(self._only("measured_peak").get("matrix_tflops", float("inf"))) * 1e12

    def passed(self) -> bool:
        """Whether no test failed, and every row that was begun was right."""
        ok = tests(self.rows, self._about["rehearsal"])["ok"]
        return ok is not False and not any("error" in row for row in self.rows)

    def _only(self, key: str) -> dict[str, Any]:
        return next((row[key] for row in self.rows if key in row), {})

    def _table(self, about: dict[str, Any]) -> list[str]:
        major, minor = about["gpu"].get("capability", (0, 0))
        with_what = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "triton"))
        return table(self.rows, 10 * major + minor, f"{about['device']}, {with_what}")


def tests(rows: list[dict[str, Any]], rehearsal: bool) -> dict[str, Any]:
    """What the files of tests come to; `ok` is None where none were to be run."""
    some = [row for row in rows if row["section"] == "tests"]
    if not some:
        return {"ok": None}
    counts = {key: sum(row.get(key, 0) for row in some) for key in ("passed", "failed", "skipped_tests")}
    short = [row for row in some if "skipped" in row or "error" in row or row.get("stopped")]
    ok = not counts["failed"] and not short and (rehearsal or counts["passed"] > 0)
    return {"ok": ok, **counts, "files": len(some), "incomplete": len(short)}


def table(rows: list[dict[str, Any]], arch: int, measured: str, head: int = 64) -> list[str]:
    """Rows of `kernels/attention_table.py`, as measured at the largest batch of each length."""
    largest: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row.get("pass") == "forward" and {"cudnn", "flash", "ours"} <= row.get("tflops", {}).keys():
            largest[row["N"]] = max(row, largest.get(row["N"], row), key=lambda one: one["B"] * one["H"])
    return [
        f"Row({arch}, {head}, {N}, {one['tflops']['cudnn']}, {one['tflops']['flash']}, {one['tflops']['ours']}, "
        f'"{measured}, {one["B"]} × {one["H"]}"),'
        for N, one in sorted(largest.items())
    ]


def fastest(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fastest tile of the sweep at each shape, with what it is to the present one and to its peers, in TFLOP/s."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if "candidate" in row.get("tflops", {}):
            shape = f"{row['B']}×{row['N']}, {row['H']} heads"
            if row["tflops"]["candidate"] > found.get(shape, {}).get("candidate", 0):
                found[shape] = {"tile": row["candidate"], **row["tflops"]}
    return found


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    about = " ".join(f"{key} {value}" for key, value in row.items() if key in _NAMES)
    numbers = {key: row[key] for key in _TOLD if key in row}
    marks = "".join(
        f"; {one['what']} {one['got']} ({'met' if one['met'] else 'MISSED'}, {one['wanted']} wanted)"
        for one in row.get("targets", [])
    )
    return f"{row['section']} {about}: {json.dumps(numbers, ensure_ascii=False)}{marks}"


_NAMES = ("what", "pass", "N", "B", "H", "case", "model", "file", "candidate", "compiler")
_TOLD = (
    "skipped",
    "error",
    "stopped",
    "passed",
    "failed",
    "tflops",
    "microseconds",
    "ratio",
    "images_per_second",
    "original_images_per_second",
    "measured_peak",
    "missing",
    "chosen",
    "errors",
    "calls",
    "wrong",
)
