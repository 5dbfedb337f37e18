"""Tables that read well raw and rendered: padded columns, rounded numbers, reasons beneath."""

from __future__ import annotations

from collections.abc import Sequence

WIDEST = 9


class Table:
    """A table of Markdown, its first column text and the others numbers; one that is too wide is cut into several.

    What a cell lacks is a letter in it, and its reason stands beneath the table.

    Args:
        header: the titles of the columns.
        texts: how many columns from the left are text.
        kept: how many columns from the left are repeated where a table is cut.
    """

    def __init__(self, *header: str, texts: int = 1, kept: int = 1):
        self.header, self.texts, self.kept = header, texts, kept
        self.rows: list[tuple[str, ...]] = []
        self._reasons: dict[str, str] = {}

    def add(self, *cells: str) -> None:
        assert len(cells) == len(self.header)
        self.rows.append(cells)

    def lacks(self, reason: str) -> str:
        """The cell for what was skipped; equal reasons share a letter."""
        return f"({self._reasons.setdefault(reason, _letter(len(self._reasons)))})"

    def lines(self) -> list[str]:
        """The lines of Markdown, ended by an empty one; none where there is no row."""
        if not self.rows:
            return []
        filled = [
            place for place in range(len(self.header)) if place < self.kept or any(row[place] for row in self.rows)
        ]
        kept, others = filled[: self.kept], filled[self.kept :]
        pieces = -(-len(others) // (WIDEST - self.kept)) or 1
        width = -(-len(others) // pieces)
        lines = [
            line
            for start in range(0, len(others) or 1, width or 1)
            for line in (*self._piece([*kept, *others[start : start + width]]), "")
        ]
        reasons = [f"- ({letter}) {escape(reason)}" for reason, letter in self._reasons.items()]
        return [*lines, *reasons, ""] if reasons else lines

    def _piece(self, places: Sequence[int]) -> list[str]:
        cells = [[escape(row[place]) for place in places] for row in (self.header, *self.rows)]
        widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        rule = ["-" * w if p < self.texts else "-" * (w - 1) + ":" for p, w in zip(places, widths, strict=True)]
        padded = [
            [text.ljust(w) if p < self.texts else text.rjust(w) for p, w, text in zip(places, widths, row, strict=True)]
            for row in cells
        ]
        return [f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:])]


def escape(text: str) -> str:
    """Text that is shown as it is, within one line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


def number(value: float | None) -> str:
    """A number by its first three digits; empty for None."""
    if value is None:
        return ""
    for least, form in ((999.5, ",.0f"), (99.95, ".0f"), (9.995, ".1f"), (0.9995, ".2f"), (0.09995, ".3f")):
        if abs(value) >= least:
            return f"{value:{form}}"
    return f"{value:.3g}"


def ratio(value: float | None) -> str:
    """How many times as fast."""
    return "" if value is None else f"{value:.2f}×" if value < 9.995 else f"{value:.1f}×"


def percent(value: float | None, digits: int = 0) -> str:
    """A share of 1."""
    return "" if value is None else f"{100 * value:.{digits}f} %"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    unit, factor = next((u for u in (("s", 1.0), ("ms", 1e3)) if seconds * u[1] >= 1), ("µs", 1e6))
    return f"{number(seconds * factor)} {unit}"


def _letter(index: int) -> str:
    """a, b, …, z, aa, ab, …"""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)
