"""Which of a folder's files are COCO's JSON, and which of them is of a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segfast.datasets.options import Reading
from segfast.datasets.places import ALIASES, names_of
from segfast.errors import BadOption

# Files of COCO's other tasks.
_OTHERS = re.compile(r"caption|keypoint|panoptic|image_info", re.I)
_HEAD = 1 << 16  # bytes in which a COCO file names one of its sections


def find_coco(root: Path) -> list[Path]:
    """Files of COCO's kind at most two levels below the root."""
    found = [path for level in ("*.json", "*/*.json", "*/*/*.json") for path in sorted(root.glob(level))]
    return [path for path in found if not _OTHERS.search(path.name) and _is_coco(path)]


def choose(files: Sequence[Path], split: str, root: Path, reading: Reading) -> tuple[Path, float | None]:
    """The file of a split; or the one of all, with the share of it that is val.

    Raises:
        BadOption: there is none.
    """
    mine = [path for path in files if _names(path, root, names_of(split))]
    if mine:
        return min(mine, key=lambda path: ("instances" not in path.name, len(path.parts))), None
    others = {name for words in ALIASES.values() for name in (*words, "test")}
    rest = [path for path in files if not _names(path, root, tuple(others))] or (
        [path for path in files if _names(path, root, ALIASES["train"])] if split == "val" else []
    )
    if rest and split in ALIASES and reading.val_fraction is not None:
        return rest[0], reading.val_fraction
    there = ", ".join(str(path.relative_to(root)) for path in files)
    raise BadOption(
        f"{root} has no annotations of a split {split!r}; there are {there}: name one after the split, such as "
        f"annotations/instances_{split}.json, or let a share of the pictures be val with --val-fraction 0.1"
    )


def _is_coco(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, path.stat().st_size - _HEAD))
            text = head + file.read()
    except OSError:
        return False
    return any(word in text for word in (b'"annotations"', b'"categories"')) and b'"images"' in text


def _names(path: Path, root: Path, words: Sequence[str]) -> bool:
    """Whether a path names one of the splits."""
    text = path.relative_to(root).as_posix().lower()
    return any(re.search(rf"(?<![a-z]){word}(?![a-z])", text) for word in words)
