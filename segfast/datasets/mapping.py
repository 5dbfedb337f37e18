"""Classes merged, renamed, ignored or dropped by name, as a file says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from segfast.classes import Names, Palette
from segfast.datasets.base import IGNORE
from segfast.datasets.decoding import UNKNOWN
from segfast.errors import BadData

IGNORED, DROPPED = "ignore", "drop"


class Mapping(NamedTuple):
    """What becomes of every class.

    Attributes:
        targets: of every old label the new one; IGNORE for none, UNKNOWN where its pixels are faults.
        names, palette: of the new classes.
    """

    targets: tuple[int, ...]
    names: Names
    palette: Palette


def read_mapping(path: Path, names: Names, palette: Palette) -> Mapping:
    """A file of lines `old: new`.

        truck: vehicle        merged with others of that name, or renamed
        sky: ignore           its pixels count neither in the loss nor in the metrics
        pole: drop            no mask may hold it

    `=`, `->`, a tab or a comma will do for the colon; what follows a `#` is a comment. Classes that no line names stay.

    Raises:
        BadData: a line names no class, or one twice; or no class is left.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path} cannot be read as UTF-8 text ({error}); write it again") from None
    plan: dict[str, str] = {}
    faults = []
    for line in filter(None, (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())):
        found = _split(line, names)
        if found is None:
            faults.append(f"{line!r} begins with no class; there are {', '.join(names[:20])}")
        elif found[0] in plan:
            faults.append(f"{found[0]!r} is mapped twice")
        else:
            plan[found[0]] = found[1]
    if faults:
        raise BadData(f"{path} must say `class: new class`, `class: ignore` or `class: drop` a line:", faults)
    return _apply(plan, names, palette, path)


def _split(line: str, names: Names) -> tuple[str, str] | None:
    """(class, what becomes of it); names may hold any sign, so the longest that fits is meant."""
    for name in sorted(names, key=len, reverse=True):
        match = re.fullmatch(rf"(?i:{re.escape(name)})\s*(?:->|[:=,\t])\s*(\S.*)", line)
        if match:
            return name, match[1].strip()
    return None


def _apply(plan: dict[str, str], names: Names, palette: Palette, path: Path) -> Mapping:
    wanted = [plan.get(name, name) for name in names]
    kept = dict.fromkeys(name for name in wanted if name.casefold() not in (IGNORED, DROPPED))
    if not kept:
        raise BadData(f"{path} leaves no class; keep some")
    order = list(kept)
    colours = [palette[names.index(name) if name in names else wanted.index(name)] for name in order]
    special = {IGNORED: IGNORE, DROPPED: UNKNOWN}
    targets = tuple(special[w.casefold()] if w.casefold() in special else order.index(w) for w in wanted)
    return Mapping(targets, tuple(order), tuple(colours))
