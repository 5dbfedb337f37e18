"""Which pictures a command line means, and the names of what is written for each."""

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
from segfast.image import SUFFIXES

# Pictures that cannot be read, and what makes one that can of each.
_CONVERT = {
    "HEIC": ((".heic", ".heif", ".hif"), "convert them to JPEG, with heif-convert or pillow-heif"),
    "raw": ((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"), "develop them to TIFF or PNG"),
    "video": ((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"), "take their frames out, with ffmpeg"),
}
_REMEDIES = {suffix: remedy for suffixes, remedy in _CONVERT.values() for suffix in suffixes}
# Every picture that a run has segmented lies in two files of these endings.
LABELS, OVERLAY = "-labels.png", "-overlay.png"


@dataclass
class Selection:
    """The pictures of a run.

    Attributes:
        pictures: (picture, path to name its outputs after).
        left_out: what else was found, by why it is left out, and how many there are.
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
    """The files named, and the pictures in the folders named or matched by a pattern that no shell expanded.

    What a folder or pattern gives is left out where it is no picture, hidden, a link to a folder, below `out`, or
    written by an earlier run. Folders are walked; a file that is named itself is taken as it is.

    Raises:
        BadOption: a folder holds no picture, or a pattern matches none.
    """
    selection = Selection()
    for argument in arguments:
        path, before = Path(argument), len(selection.pictures)
        if path.is_dir():
            _take(selection, _walk(path, selection.left_out), path, out)
        elif not os.path.lexists(path) and has_magic(argument):
            _take_matches(selection, argument, out)
        else:
            selection.pictures.append((path, Path(path.name)))
        if len(selection.pictures) == before:
            what = f"in the folder {path}" if path.is_dir() else f"that match {argument}"
            raise BadOption(f"there are no pictures {what}; {selection.report() or 'name another'}")
    return selection


def output_names(pictures: list[tuple[Path, Path]]) -> list[Path]:
    """Output paths without ending: the picture's own name, with its suffix or a number where two would meet.

    Names that differ only in case, or in how their accents are stored, meet on some file systems.
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


def _take_matches(selection: Selection, pattern: str, out: Path) -> None:
    """What a shell would have made of a pattern, folders walked; outputs are named from its first wildcard on."""
    parts = Path(pattern).parts
    base = Path(*itertools.takewhile(lambda part: not has_magic(part), parts))
    matches = [Path(match) for match in sorted(glob(pattern, recursive=True))]
    walked = {match for match in matches if match.is_dir()}
    files = (match for match in matches if match not in walked and not walked.intersection(match.parents))
    folders = (match for match in walked if not walked.intersection(match.parents))
    found = itertools.chain(files, *(_walk(folder, selection.left_out) for folder in sorted(folders)))
    _take(selection, found, base, out)


def _take(selection: Selection, found: Iterable[Path], base: Path, out: Path) -> None:
    """Sort what was found into pictures, named by their place below `base`, and what is left out."""
    inside = None if out.resolve() in (base.resolve(), *base.resolve().parents) else out.resolve()
    for path in sorted(found):
        why = _why_not(path, inside)
        if why:
            selection.left_out[why] += 1
        else:
            selection.pictures.append((path, path.relative_to(base)))


def _walk(top: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Every file below a folder, but for hidden folders and links to folders, which are counted."""

    def unread(error: OSError) -> None:
        left_out["folder that may not be read"] += 1

    for folder, folders, names in os.walk(top, onerror=unread):
        for name in list(folders):
            why = _folder_why_not(Path(folder, name))
            if why:
                left_out[why] += 1
                folders.remove(name)
        yield from (Path(folder, name) for name in names)


def _folder_why_not(path: Path) -> str:
    if path.name == "__MACOSX" or path.name.startswith("."):
        return "hidden folder (.*, __MACOSX)"
    return "link to a folder (name that folder)" if path.is_symlink() else ""


def _why_not(path: Path, out: Path | None) -> str:
    """Why a file is left out; empty for a picture."""
    if path.name.startswith("."):
        return "hidden (.*)"
    if path.is_symlink() and not path.exists():
        return "link to nothing"
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        remedy = f" ({_REMEDIES[suffix]})" if suffix in _REMEDIES else ""
        return f"{suffix or 'without an ending'}{remedy}"
    if not path.is_file():
        return "no regular file"
    if out is not None and out in path.resolve().parents:
        return f"below {out.name}, where this run writes"
    return "written by an earlier run" if _written(path) else ""


def _written(path: Path) -> bool:
    """Whether a picture is one of the two that a run writes: the other lies beside it."""
    for ending, other in ((LABELS, OVERLAY), (OVERLAY, LABELS)):
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending) + other).exists()
    return False


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()
