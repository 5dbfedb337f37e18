"""Class lists as people have them: plain lines, numbered lines, CSV, CVAT's label map, Ultralytics' YAML, COCO's JSON."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from segfast.classes import Names, Palette, generated_palette
from segfast.datasets.base import IGNORE
from segfast.dependencies.imports import load
from segfast.errors import BadData

Colour = tuple[int, int, int]

# Files that may list a folder's classes, by their names in lower case, the first that is there wins.
FILES = (
    "classes.txt", "labelmap.txt", "label_map.txt", "labels.txt", "label_colors.txt", "obj.names", "classes.csv",
    "class_dict.csv", "_classes.csv", "labels.csv", "data.yaml", "dataset.yaml", "classes.yaml", "data.yml", "dataset.yml",
    "classes.yml", "classes.json",
)  # fmt: skip
# Names of what is no class.
NO_CLASS = ("ignore", "ignored", "void", "unlabeled", "unlabelled", "__ignore__", "don't care", "dontcare")


class Entry(NamedTuple):
    """A line of a list: a name, the value that stands for it in masks if that is said, and its colour if it has one."""

    name: str
    value: int | None = None
    colour: Colour | None = None


class ClassList(NamedTuple):
    """K classes and how masks say them.

    Attributes:
        names, palette: in the order of the indices; a class without a colour has a generated one.
        values: what stands for each class in a mask.
        ignored: values that stand for none, besides 255.
        colours: what stands for each class in a mask of colours; empty unless every class has one of its own.
        ignored_colours: colours that stand for none.
    """

    names: Names
    palette: Palette
    values: tuple[int, ...]
    ignored: tuple[int, ...] = ()
    colours: tuple[Colour, ...] = ()
    ignored_colours: tuple[Colour, ...] = ()

    def lines(self) -> list[str]:
        """Index, name and colour of every class, for people."""
        rows = zip(self.values, self.names, self.palette, strict=True)
        told = [
            f"{index:>4}  {name}  #{bytes(colour).hex()}" + (f"  (value {value})" if value != index else "")
            for index, (value, name, colour) in enumerate(rows)
        ]
        return told + [f"   -  ignored: value {value}" for value in self.ignored if value != IGNORE]


def read_class_list(path: Path) -> ClassList:
    """The classes in a file of any of the known forms.

    Raises:
        BadData: there is no class, there are too many, one is named twice, or a line is not understood.
        MissingRuntime: it is YAML, and PyYAML is not installed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path} cannot be read as UTF-8 text ({error}); write it again") from None
    if path.suffix.lower() in (".yaml", ".yml"):
        entries = _from_yaml(text, path)
    elif path.suffix.lower() == ".json":
        entries = _from_json(text, path)
    else:
        entries = _from_lines(text, path)
    return collect(entries, path)


def collect(entries: Sequence[Entry], path: Path) -> ClassList:
    """Entries as classes: in the order of their values, or of the lines where those say none.

    Raises:
        BadData: as `read_class_list`.
    """
    numbered = [entry for entry in entries if entry.value is not None]
    if not 1 <= len(entries) <= 65536 or (not numbered and len(entries) > IGNORE):
        raise BadData(f"{path} names {len(entries)} classes; write 1 to {IGNORE} of them, one a line")
    faults = _faults(entries)
    if numbered and len(numbered) < len(entries):
        faults.append(f"{len(numbered)} of {len(entries)} classes have a number before them; number all or none")
    if faults:
        raise BadData(f"{path} must give every class a name, a value and a colour of its own:", faults)
    placed = [entry if entry.value is not None else entry._replace(value=index) for index, entry in enumerate(entries)]
    placed.sort(key=lambda entry: entry.value or 0)
    out = [entry for entry in placed if numbered and (entry.value == IGNORE or entry.name.casefold() in NO_CLASS)]
    kept = [entry for entry in placed if entry not in out]
    if not 1 <= len(kept) <= IGNORE:
        raise BadData(f"{path} names {len(kept)} classes; write 1 to {IGNORE} of them, one a line")
    drawn = generated_palette(len(kept))
    colours = [entry.colour for entry in kept]
    known = [colour for colour in colours if colour is not None]
    return ClassList(
        tuple(entry.name for entry in kept),
        tuple(colour or drawn[index] for index, colour in enumerate(colours)),
        tuple(entry.value or 0 for entry in kept),
        tuple(entry.value or 0 for entry in out),
        tuple(known) if len(known) == len(kept) else (),
        tuple(entry.colour for entry in out if entry.colour is not None),
    )


def _faults(entries: Sequence[Entry]) -> list[str]:
    names, colours = [entry.name for entry in entries], [entry.colour for entry in entries if entry.colour]
    values = [entry.value for entry in entries if entry.value is not None]
    faults = [f"{name!r} is named twice" for name in sorted({name for name in names if names.count(name) > 1})]
    faults += [
        f"{entry.name!r} has the colour {entry.colour}; its numbers go up to 255"
        for entry in entries
        if entry.colour and max(entry.colour) > 255
    ]
    faults += [f"the colour {c} stands for two classes" for c in sorted({c for c in colours if colours.count(c) > 1})]
    faults += [f"the value {v} stands for two classes" for v in sorted({v for v in values if values.count(v) > 1})]
    faults += [f"{value} is no value of a mask" for value in values if not 0 <= value <= 65535]
    return faults


# Lines ----------------------------------------------------------------------------------------------------------------

_HEX = re.compile(r"(?:#|0x)([0-9a-fA-F]{6})")
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


def _from_lines(text: str, path: Path) -> list[Entry]:
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
    """The columns of a CSV, by what they are; None if the line is no header."""
    cells = [cell.strip().casefold() for cell in next(csv.reader([line], delimiter=_delimiter(line)))]
    found = {kind: cells.index(word) for kind, words in _HEADS.items() for word in words if word in cells}
    words = {word for words in _HEADS.values() for word in words}
    known = [cell for cell in cells if cell in words]
    return found if "name" in found and len(cells) > 1 and len(known) * 2 > len(cells) else None


def _refuse_heads(line: str, path: Path) -> None:
    """See that the first line is no header that is not known.

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
            colour = _colour(cells[head["colour"]])
        if not name:
            raise ValueError("no name")
    except (IndexError, ValueError):
        raise BadData(f"{path}, line {at}: {line!r} does not fit the columns of the header; mend it") from None
    return Entry(name, value, colour)


def _colour(text: str) -> Colour | None:
    """A colour as #rrggbb or three numbers; None for nothing."""
    if not text:
        return None
    match = _HEX.fullmatch(text)
    numbers = list(bytes.fromhex(match[1])) if match else [int(number) for number in re.findall(r"-?\d+", text)]
    if len(numbers) != 3:
        raise ValueError(text)
    return numbers[0], numbers[1], numbers[2]


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


# YAML and JSON --------------------------------------------------------------------------------------------------------


def _from_yaml(text: str, path: Path) -> list[Entry]:
    yaml = load("yaml", "PyYAML", "pyyaml")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadData(f"{path} is no YAML ({str(error).splitlines()[0]}); mend it") from None
    return _from_values(values, path)


def _from_json(text: str, path: Path) -> list[Entry]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path} is no JSON ({error}); mend it") from None
    return _from_values(values, path)


def _from_values(values: object, path: Path) -> list[Entry]:
    """Ultralytics' `names`, a list or a table by index; COCO's `categories`; or a plain list of names."""
    if isinstance(values, dict):
        values = next((values[key] for key in ("names", "categories", "classes", "labels") if key in values), values)
    if isinstance(values, dict):
        values = [{"id": key, "name": name} for key, name in values.items()]
    entries = []
    for item in values if isinstance(values, list) else ():
        try:
            entries.append(_from_value(item))
        except (KeyError, TypeError, ValueError):
            raise BadData(f"{path}: {item!r} is no class; give it an id and a name") from None
    return entries


def _from_value(item: object) -> Entry:
    if isinstance(item, dict):
        colour = item.get("color", item.get("colour"))
        parts = _colour(" ".join(map(str, colour)) if isinstance(colour, list) else str(colour or ""))
        return Entry(str(item["name"]), int(item["id"]) if "id" in item else None, parts)
    if isinstance(item, (str, int)) and str(item).strip():
        return Entry(str(item).strip())
    raise TypeError(item)
