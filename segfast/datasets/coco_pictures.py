"""Where the pictures are that COCO's JSON names: by their paths, or by their names wherever they lie."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from segfast.datasets.tree import Tree
from segfast.pictures.formats import SUFFIXES


class Pictures:
    """The pictures below a root, for the names in one of its JSON files.

    Args:
        file: relative to the root.

    Attributes:
        faults: names that several pictures have, none of them likelier, a line each.
        decided: (name, the picture that is taken) where others of that name lie in folders less like the file's.
    """

    def __init__(self, file: Path, tree: Tree):
        self._above = file.parent.as_posix()
        self._words = [word for word in re.split(r"[^a-z0-9]+", f"{self._above}/{file.stem}".lower()) if word]
        self._ends: dict[str, list[str]] = defaultdict(list)
        self.faults: list[str] = []
        self.decided: list[tuple[str, str]] = []
        for path in tree.find(".", SUFFIXES, whole=True).values():
            parts = path.split("/")
            for start in range(len(parts)):
                self._ends["/".join(parts[start:])].append(path)

    def of(self, name: str) -> str | None:
        """The picture that a file name means, relative to the root: beside the JSON, of the whole path, or of the name alone.

        Where several would do, the one whose folders the JSON's own path names.
        """
        plain = name.replace("\\", "/").lstrip("./")
        found = self._ends.get(plain) or self._ends.get(plain.rpartition("/")[2], [])
        beside = plain if self._above == "." else f"{self._above}/{plain}"
        if beside in found or len(found) < 2:
            return beside if beside in found else next(iter(found), None)
        ranks = [_affinity(path, self._words) for path in found]
        best = [path for path, rank in zip(found, ranks, strict=True) if rank == max(ranks)]
        if len(best) > 1:
            self.faults.append(f"{name} may be {' or '.join(best[:4])}")
            return None
        self.decided.append((name, best[0]))
        return best[0]

    def told(self) -> list[str]:
        """What was decided, for people."""
        if not self.decided:
            return []
        name, path = self.decided[0]
        more = f" and {len(self.decided) - 1} more" if len(self.decided) > 1 else ""
        return [f"ATTENTION: {name}{more} found in several folders; the JSON's own path decides: {path}"]


def _affinity(path: str, words: Sequence[str]) -> int:
    return sum(folder in words for folder in path.lower().split("/")[:-1])
