"""Which pictures a command line selects, and how their outputs are named."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path

from segfast.errors import BadOption
from segfast.pictures.formats import CONVERSIONS, SUFFIXES

# How the names end of the two files that a run writes for every picture.
LABELS, OVERLAY = "-labels.png", "-overlay.png"


@dataclass
class Selection:
    """The pictures of a run.

    Attributes:
        pictures: (picture, relative path that its outputs are named after).
        left_out: why anything else was left out → how often.
    """

    pictures: list[tuple[Path, Path]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def report(self) -> str:
        """What was left out, in one line; empty if nothing was."""
        if not self.left_out:
            return ""
        rows = [f"{count} {why}" for why, count in sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))]
        more = [f"and {len(rows) - 8} other kinds"] if len(rows) > 8 else []
        return f"left out {self.left_out.total()}: {', '.join(rows[:8] + more)}"


def find_pictures(arguments: Iterable[str], out: Path) -> Selection:
    """The files that are named, and the pictures in named folders or matched by a pattern that no shell expanded.

    Folders are walked. What they or a pattern yield is left out if it is no picture, hidden, a link to a folder,
    below `out`, or written by an earlier run; a file that is named explicitly is always taken.

    Raises:
        BadOption: a folder holds no picture, or a pattern matches none.
    """
    selection = Selection()
    for argument in arguments:
        path, before = Path(argument), len(selection.pictures)
        if path.is_dir():
            _add(selection, _walk(path, selection.left_out), path, out)
        elif not os.path.lexists(path) and has_magic(argument):
            _add_matches(selection, argument, out)
        else:
            selection.pictures.append((path, Path(path.name)))
        if len(selection.pictures) == before:
            what = f"in the folder {path}" if path.is_dir() else f"that match {argument}"
            raise BadOption(f"there are no pictures {what}; {selection.report() or 'name another'}")
    return selection


def output_names(pictures: list[tuple[Path, Path]]) -> list[Path]:
    """Output paths without suffix: the picture's own name, with its suffix or a number if two would collide.

    Names that differ only in case, or in how their accents are encoded, collide on some file systems.
    """
    stems = Counter(_folded(name.with_suffix("")) for _, name in pictures)
    taken: set[str] = set()
    names = []
    for _, name in pictures:
        stem = name.with_suffix("")
        base = name if stems[_folded(stem)] > 1 else stem
        free = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in itertools.count(1))
        chosen = next(path for path in free if _folded(path) not in taken)
        taken.add(_folded(chosen))
        names.append(chosen)
    return names


def _add_matches(selection: Selection, pattern: str, out: Path) -> None:
    """Expand a pattern as a shell would, and walk folders; outputs are named from its first wildcard on."""
    parts = Path(pattern).parts
    base = Path(*itertools.takewhile(lambda part: not has_magic(part), parts))
    matches = [Path(match) for match in sorted(glob(pattern, recursive=True))]
    walked = {match for match in matches if match.is_dir()}
    files = (match for match in matches if match not in walked and not walked.intersection(match.parents))
    folders = (match for match in walked if not walked.intersection(match.parents))
    found = itertools.chain(files, *(_walk(folder, selection.left_out) for folder in sorted(folders)))
    _add(selection, found, base, out)


def _add(selection: Selection, found: Iterable[Path], base: Path, out: Path) -> None:
    """Sort files into pictures, named by their path below `base`, and those that are left out."""
    inside = None if out.resolve() in (base.resolve(), *base.resolve().parents) else out.resolve()
    for path in sorted(found):
        why = _why_left_out(path, inside)
        if why:
            selection.left_out[why] += 1
        else:
            selection.pictures.append((path, path.relative_to(base)))


def _walk(top: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Every file below a folder. Hidden folders and links to folders are not entered, but counted."""

    def unread(error: OSError) -> None:
        left_out["folder that may not be read"] += 1

    for folder, folders, names in os.walk(top, onerror=unread):
        for name in list(folders):
            why = _why_not_entered(Path(folder, name))
            if why:
                left_out[why] += 1
                folders.remove(name)
        yield from (Path(folder, name) for name in names)


def _why_not_entered(path: Path) -> str:
    if path.name == "__MACOSX" or path.name.startswith("."):
        return "hidden folder (.*, __MACOSX)"
    return "link to a folder (name that folder)" if path.is_symlink() else ""


def _why_left_out(path: Path, out: Path | None) -> str:
    """Why a file is left out; empty if it is a picture to segment."""
    if path.name.startswith("."):
        return "hidden (.*)"
    if path.is_symlink() and not path.exists():
        return "link to nothing"
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        remedy = f" ({CONVERSIONS[suffix]})" if suffix in CONVERSIONS else ""
        return f"{suffix or 'without an ending'}{remedy}"
    if not path.is_file():
        return "no regular file"
    if out is not None and out in path.resolve().parents:
        return f"below {out.name}, where this run writes"
    return "written by an earlier run" if _is_output(path) else ""


def _is_output(path: Path) -> bool:
    """Whether a picture is one of the two that a run writes, recognised by the other beside it."""
    for ending, other in ((LABELS, OVERLAY), (OVERLAY, LABELS)):
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending) + other).exists()
    return False


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()
