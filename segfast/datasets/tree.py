"""The files below a dataset's root. Unless it is asked for, no link leads out of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from segfast.datasets.pairs import Pair
from segfast.errors import BadData


class Tree:
    """What is found below a folder; what cannot be used is remembered in `stray`, one line each.

    Args:
        follow: links are followed wherever they lead, on request.
    """

    def __init__(self, root: Path, *, follow: bool = False):
        self.root, self.follow = root, follow
        self.stray: list[str] = []

    def find(self, folder: str, suffixes: Collection[str], ending: str = "", *, whole: bool = False) -> dict[str, str]:
        """key → path, of every file below `folder` that has one of the suffixes.

        The key is the path inside the folder without the suffix and the `ending` before it. Files whose
        names start with a dot, or that lack the ending, are none of ours. `whole` keeps the suffix in the key.

        Raises:
            BadData: there is no such folder, or it is a link that leads out of the root.
        """
        top = self.root / folder
        if top.is_dir() and not self._inside(top):
            raise BadData(
                f"{top} leads to {top.resolve()}, out of {self.root}, and is not followed; move the folder there, "
                "or add --follow-links"
            )
        if not top.is_dir():
            raise BadData(f"there is no folder {top}; copy the whole dataset there, or name another folder")
        found: dict[str, str] = {}
        for path in self._walk(top):
            stem, suffix = os.path.splitext(path.relative_to(top).as_posix())
            if suffix.lower() not in suffixes or not stem.endswith(ending):
                continue
            key = stem + suffix if whole else stem[: len(stem) - len(ending)]
            if key in found:
                self.stray.append(
                    f"{path.relative_to(self.root)} and {found[key]} differ in their endings only; keep one"
                )
            found.setdefault(key, path.relative_to(self.root).as_posix())
        return dict(sorted(found.items()))

    def file(self, path: str) -> str | None:
        """The path itself, if there is such a file inside."""
        full = self.root / path
        if not full.is_file():
            return None
        if not self._inside(full):
            self._outside(full)
            return None
        return path

    def _walk(self, top: Path) -> Iterator[Path]:
        """Every file below a folder; unasked a link is followed to a file inside the root, and never to a folder."""
        seen: set[str] = set()
        for folder, folders, names in os.walk(top, followlinks=self.follow):
            here = os.path.realpath(folder)
            if here in seen:  # a link to a folder above
                folders.clear()
                continue
            seen.add(here)
            for name in [name for name in folders if not self.follow and os.path.islink(os.path.join(folder, name))]:
                self._outside(Path(folder, name))
            for name in names:
                path = Path(folder, name)
                if name.startswith("."):
                    continue
                if path.is_symlink() and not self._inside(path):
                    self._outside(path)
                else:
                    yield path

    def _inside(self, path: Path) -> bool:
        return self.follow or path.resolve().is_relative_to(self.root)

    def _outside(self, path: Path) -> None:
        self.stray.append(
            f"{path.relative_to(self.root)} is a link, which is not followed; copy what it points to, or add --follow-links"
        )


def pair(pictures: Mapping[str, str | None], masks: Mapping[str, str | None], table: str) -> tuple[Pair, ...]:
    """Every key of either, with its picture, its mask, and the table that reads the mask."""
    return tuple(Pair(key, pictures.get(key), masks.get(key), table) for key in sorted({*pictures, *masks}))
