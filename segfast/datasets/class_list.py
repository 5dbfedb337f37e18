"""Class lists as people have them: plain lines, numbered lines, CSV, CVAT's label map, Ultralytics' YAML, COCO's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from segfast.classes import Names, Palette, generated_palette
from segfast.datasets.base import IGNORE
from segfast.datasets.class_entry import Colour, Entry
from segfast.datasets.class_lines import from_lines
from segfast.datasets.class_values import from_json, from_yaml
from segfast.errors import BadData

# Files that may list a folder's classes, by their names in lower case, the first that is there wins.
FILES = (
    "classes.txt", "class_names.txt", "labelmap.txt", "label_map.txt", "labels.txt", "label_colors.txt", "obj.names", "classes.csv",
    "class_dict.csv", "_classes.csv", "labels.csv", "data.yaml", "dataset.yaml", "classes.yaml", "data.yml", "dataset.yml",
    "classes.yml", "classes.json",
)  # fmt: skip
# Names of what is no class.
LABELME = "__ignore__"
NO_CLASS = (LABELME, "ignore", "ignored", "void", "unlabeled", "unlabelled", "don't care", "dontcare")


class ClassList(NamedTuple):
    """K classes and how masks say them.

    Attributes:
        names, palette: in the order of the indices; a class without a colour has a generated one.
        values: what stands for each class in a mask.
        ignored: values that stand for none, besides 255.
        colours: what stands for each class in a mask of colours; empty unless every class has one of its own.
        ignored_colours: colours that stand for none.
        ignored_names: what the list calls these.
    """

    names: Names
    palette: Palette
    values: tuple[int, ...]
    ignored: tuple[int, ...] = ()
    colours: tuple[Colour, ...] = ()
    ignored_colours: tuple[Colour, ...] = ()
    ignored_names: Names = ()

    def lines(self) -> list[str]:
        """Index, name and colour of every class, for people."""
        rows = zip(self.values, self.names, self.palette, strict=True)
        told = [
            f"{index:>4}  {name}  #{bytes(colour).hex()}" + (f"  (value {value})" if value != index else "")
            for index, (value, name, colour) in enumerate(rows)
        ]
        return told + [
            f"   -  {name}: ignored (value {value})"
            for name, value in zip(self.ignored_names, self.ignored, strict=True)
        ]


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
        entries = from_yaml(text, path)
    elif path.suffix.lower() == ".json":
        entries = from_json(text, path)
    else:
        entries = from_lines(text, path)
    return collect(entries, path)


def collect(entries: Sequence[Entry], path: Path) -> ClassList:
    """Entries as classes: in the order of their values, or of the lines where those say none.

    What has the value 255 or a name of NO_CLASS is ignored, with its value and colour.

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
    placed = sorted(entries if numbered else _counted(entries), key=lambda entry: entry.value or 0)
    out = [entry for entry in placed if entry.value == IGNORE or is_no_class(entry.name)]
    kept = [entry for entry in placed if entry not in out]
    if not 1 <= len(kept) <= IGNORE:
        raise BadData(f"{path} names {len(kept)} classes; write 1 to {IGNORE} of them, one a line")
    if len(kept) == 1 and out:
        listed = ", ".join(repr(entry.name) for entry in out)
        raise BadData(
            f"{path} leaves one class, {kept[0].name!r}, as {listed} is the name of what is ignored; if it is the "
            "background, call it so"
        )
    return _of(kept, out)


def is_no_class(name: str) -> bool:
    """Whether pixels of that name are ignored, whatever form a list has."""
    return name.casefold() in NO_CLASS


def _counted(entries: Sequence[Entry]) -> list[Entry]:
    """Lines without numbers with the values they stand for: their places; LabelMe's first, `__ignore__`, has none."""
    first = int(entries[0].name == LABELME)
    return [entry._replace(value=place - first if place >= first else IGNORE) for place, entry in enumerate(entries)]


def _of(kept: Sequence[Entry], out: Sequence[Entry]) -> ClassList:
    """The list of what is kept, in its order, and of what is ignored."""
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
        tuple(entry.name for entry in out),
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
