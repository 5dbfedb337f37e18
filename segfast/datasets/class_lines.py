"""Class lists in lines: names alone, numbered or with colours; CSV; CVAT's label map."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from segfast.datasets.class_entry import Colour, Entry, colour_of
from segfast.errors import BadData

# A name, and behind it a colour as #rrggbb or as three numbers, perhaps in brackets.
_COLOURED = re.compile(
    r"(.*?\S)[\s,:;=]+[\[({]?\s*(?:(?:#|0x)([0-9a-fA-F]{6})|(\d+)[\s,;]+(\d+)[\s,;]+(\d+))\s*[\])}]?[\s,;]*"
)
_COLOUR_FIRST = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,:;]+(\D.*)")
_NUMBERED = re.compile(r"(\d+)\s*[:=,;.)\t-]\s*(\S.*)|(\d+)\s+(\D.*)")
# CVAT's label map: label:color_rgb:parts:actions.
_CVAT = re.compile(r"([^:]+):(?:(\d+),\s*(\d+),\s*(\d+))?:([^:]*):([^:]*)")
# What looks like a colour or a CSV of numbers, and was not understood as one.
_FAILED = re.compile(
    r".*[\s,:;](?:#[0-9a-zA-Z]*|\d+[\s,;]+\d+(?:[\s,;]+\d+)*|[\[({][\s\d.,]+[\])}])[\s,;]*|\d+[\s,;]+\d+.*|.*[,;\t]\d+"
)
_VALUE_LAST = re.compile(r"(.*[^\s\d,;:=])\s*[,;:=\t]\s*(\d+)")
_LONE_HEADS = ("name", "names", "class", "classes", "label", "labels", "class_name", "category", "categories")
_HEADS = {
    "name": ("name", "class", "class_name", "classname", "label", "label_name", "class name", "category"),
    "value": (
        "id",
        "index",
        "idx",
        "value",
        "pixel value",
        "pixel_value",
        "class_id",
        "label_id",
        "class id",
        "trainid",
    ),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "colour": ("color", "colour", "hex", "rgb", "color_rgb"),
}


def from_lines(text: str, path: Path) -> list[Entry]:
    """What every line lists; blank lines and comments are left out.

    Raises:
        BadData: a line is not understood.
    """
    rows = [line.strip() for line in text.splitlines()]
    lines = [(at, line) for at, line in enumerate(rows, 1) if line and not _is_comment(line)]
    if not lines:
        return []
    head = _head(lines[0][1])
    if head is not None:
        return [_from_row(head, line, at, path) for at, line in lines[1:]]
    _refuse_heads(lines[0][1], path)
    if all(_CVAT.fullmatch(line) for _, line in lines):
        return [_from_cvat(line) for _, line in lines]
    if all(_VALUE_LAST.fullmatch(line) for _, line in lines):
        return [
            Entry(_unquoted(match[1]), int(match[2])) for _, line in lines if (match := _VALUE_LAST.fullmatch(line))
        ]
    numbered = all(_NUMBERED.fullmatch(line) for _, line in lines)
    first = all(_COLOUR_FIRST.fullmatch(line) for _, line in lines)
    return [_from_line(line, numbered and not first, first, at, path) for at, line in lines]


def _is_comment(line: str) -> bool:
    """`#` begins one, unless it is a colour before a name."""
    return line.startswith(("#", "//")) and not re.fullmatch(r"#[0-9a-fA-F]{6}[\s,:;]+\S.*", line)


def _head(line: str) -> dict[str, int] | None:
    """The columns of a CSV, by what they are; None if the line is not a header."""
    cells = [cell.strip().casefold() for cell in next(csv.reader([line], delimiter=_delimiter(line)))]
    found = {kind: cells.index(word) for kind, words in _HEADS.items() for word in words if word in cells}
    words = {word for words in _HEADS.values() for word in words}
    known = [cell for cell in cells if cell in words]
    return found if "name" in found and len(cells) > 1 and len(known) * 2 > len(cells) else None


def _refuse_heads(line: str, path: Path) -> None:
    """See that the first line is not an unknown header.

    Raises:
        BadData: it is.
    """
    cells = [cell.strip().casefold() for cell in re.split(r"[,;\t]", line)]
    words = [cell for cell in cells if any(cell in known for known in _HEADS.values())]
    if line.casefold() in _LONE_HEADS or (len(cells) > 1 and len(words) > 1):
        raise BadData(
            f"{path} begins with {line!r}, which looks like a header that is not known; write it as a comment, "
            "# before it, or as name,r,g,b or value,name"
        )


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _from_row(head: dict[str, int], line: str, at: int, path: Path) -> Entry:
    """A row of a CSV."""
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=_delimiter(line), skipinitialspace=True))]
    try:
        name = cells[head["name"]]
        value = int(cells[head["value"]]) if "value" in head else None
        colour: Colour | None = None
        if {"r", "g", "b"} <= head.keys():
            colour = int(cells[head["r"]]), int(cells[head["g"]]), int(cells[head["b"]])
        elif "colour" in head:
            colour = colour_of(cells[head["colour"]])
        if not name:
            raise ValueError("no name")
    except (IndexError, ValueError):
        raise BadData(f"{path}, line {at}: {line!r} does not fit the columns of the header; mend it") from None
    return Entry(name, value, colour)


def _from_cvat(line: str) -> Entry:
    match = _CVAT.fullmatch(line)
    assert match is not None
    colour = (int(match[2]), int(match[3]), int(match[4])) if match[2] else None
    return Entry(match[1].strip(), None, colour)


def _from_line(line: str, numbered: bool, colour_first: bool, at: int, path: Path) -> Entry:
    """A name, with a number before it where all lines have one, and a colour before or behind it."""
    if colour_first:
        match = _COLOUR_FIRST.fullmatch(line)
        assert match is not None
        return Entry(match[4].strip(), None, (int(match[1]), int(match[2]), int(match[3])))
    value = None
    if numbered:
        match = _NUMBERED.fullmatch(line)
        assert match is not None
        value, line = int(match[1] or match[3]), (match[2] or match[4]).strip()
    leading = re.fullmatch(r"#([0-9a-fA-F]{6})[\s,:;]+(\S.*)", line)
    if leading:
        line = f"{leading[2]} #{leading[1]}"
    match = _COLOURED.fullmatch(line)
    if match and not re.fullmatch(r".*[\s,]\d+", match[1]):
        rgb = list(bytes.fromhex(match[2])) if match[2] else [int(channel) for channel in match.groups()[2:]]
        return Entry(_unquoted(match[1]), value, (rgb[0], rgb[1], rgb[2]))
    if match or _FAILED.fullmatch(line):
        raise BadData(
            f"{path}, line {at}: {line!r} looks like a class with a colour that is none; write `name 128 64 128` "
            "or `name #804080`, or the name alone"
        )
    return Entry(_unquoted(line.rstrip(",;")), value)


def _unquoted(name: str) -> str:
    name = name.strip()
    return name[1:-1].strip() if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'" else name
