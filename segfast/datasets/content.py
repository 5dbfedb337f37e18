"""What a split holds, counted while it is checked: pixels of every class, and what cannot be learnt from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segfast.datasets.base import IGNORE, Dataset
from segfast.errors import BadData
from segfast.progress import bar

_THREADS = 8


@dataclass(frozen=True)
class Look:
    """One sample: what is wrong with it, or what it holds.

    Attributes:
        counts: pixels by label, int64 [256].
        size: of the picture, (H, W).
        turned: its EXIF orientation is another than 1.
        dim: its samples have 16 bits, and use 14 or fewer.
    """

    fault: str | None = None
    counts: NDArray[np.int64] | None = None
    size: tuple[int, int] = (0, 0)
    turned: bool = False
    dim: bool = False


@dataclass
class Content:
    """What a split holds.

    Attributes:
        counts: pixels by label, int64 [256]; those ignored at IGNORE.
        sizes: how many pictures have which (H, W).
        turned: how many pictures have an EXIF orientation.
        dim: how many have 16 bits and use 14 or fewer, as cameras of 12 bits write them.
        faults: what is wrong, one line a sample.
        notes: how its files were understood.
    """

    dataset: Dataset
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    turned: int = 0
    dim: int = 0
    faults: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Classes that no pixel has."""
        return [name for index, name in enumerate(self.dataset.classes) if not self.counts[index]]

    @property
    def ignored(self) -> float:
        """Share of the pixels that are ignored, 0 … 1."""
        return float(self.counts[IGNORE] / max(1, self.counts.sum()))

    def add(self, look: Look) -> None:
        """Take a sample in."""
        if look.fault is not None:
            self.faults.append(look.fault)
        if look.counts is not None:
            self.counts += look.counts
            self.sizes[look.size] += 1
            self.turned += look.turned
            self.dim += look.dim

    def problem(self) -> str | None:
        """Why nothing can be learnt from it, or told by it; None if something can."""
        K, split = len(self.dataset.classes), f"{self.dataset.name} {self.dataset.split}"
        if K == 1:
            return (
                f"{split} has one class, {self.dataset.classes[0]!r}, so that every pixel is right without learning; name "
                "a background as well: write `background` before it in the class list, and 0 for it in the masks"
            )
        if not self.counts[:K].any():
            return f"{split} has no labelled pixel: all are ignored ({IGNORE}, or what stands for no class); label some"
        if K == 2 and self.counts[0] and self.counts[IGNORE] and not self.counts[1]:
            first, second = self.dataset.classes
            return (
                f"the masks of {split} hold 0 and {IGNORE} alone, and {IGNORE} is for pixels that are ignored: "
                f"{second!r} is never learnt; if {IGNORE} is to stand for it, write the colours into the class list: "
                f"`{first} 0 0 0` and `{second} 255 255 255`"
            )
        return None

    def whole(self, root: Path, stray: Sequence[str]) -> Content:
        """Itself, if every sample can be used, and nothing lies beside them in the folder.

        Args:
            stray: files of the folder that belong to no sample, one line each.

        Raises:
            BadData: a sample cannot, or something does; all are listed.
        """
        offenders, data = [*stray, *self.faults], self.dataset
        if offenders:
            raise BadData(
                f"{data.name} {data.split} in {root} has {len(offenders)} faults among {len(data)} samples; "
                "repair or remove these:",
                offenders,
            )
        return self

    def checked(self) -> Content:
        """Itself, if something can be learnt from it.

        Raises:
            BadData: nothing can.
        """
        problem = self.problem()
        if problem:
            raise BadData(problem)
        return self

    def lines(self) -> list[str]:
        """What it holds, for people."""
        K, total = len(self.dataset.classes), max(1, int(self.counts.sum()))
        sides = sorted(self.sizes)
        spread = "" if not sides else f" of {sides[0][0]}×{sides[0][1]}"
        spread += f" to {sides[-1][0]}×{sides[-1][1]} pixels" if len(sides) > 1 else " pixels" if sides else ""
        rows = [f"{self.dataset.split}: {self.sizes.total()} pictures{spread}; shares of the pixels:"]
        width = max(map(len, self.dataset.classes))
        rows += [
            f"  {index:>3} {name:<{width}} {_percent(self.counts[index], total)}"
            for index, name in enumerate(self.dataset.classes)
        ]
        if self.counts[IGNORE]:
            rows.append(f"  {'':>3} {'(ignored)':<{width}} {_percent(self.counts[IGNORE], total)}")
        return rows + self.warnings(K)

    def warnings(self, K: int) -> list[str]:
        """What may be wrong."""
        split, missing, rows = self.dataset.split, self.missing, list[str]()
        if missing:
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            rows.append(f"ATTENTION: {split} has no pixel of {', '.join(missing[:8])}{more}")
        if K > 2 and missing and np.count_nonzero(self.counts[:K]) == 1 and self.counts[IGNORE]:
            rows.append(
                f"ATTENTION: {split} has one class and {IGNORE}, which is ignored: is {IGNORE} meant to be a class?"
            )
        if self.turned:
            rows.append(f"{self.turned} pictures of {split} are turned by EXIF; masks are taken to be of them upright")
        if self.dim:
            rows.append(
                f"ATTENTION: {self.dim} pictures of {split} have 16 bits and use 14 or fewer, so that they are nearly black: "
                "data of 12 bits? scale them to the whole range"
            )
        return rows


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:6.2f} %" if part else "   none"


def survey(
    dataset: Dataset, look: Callable[[int], Look], *, progress: bool = False, threads: int = _THREADS
) -> Content:
    """What all samples hold, read by several threads."""
    content = Content(dataset, notes=getattr(dataset, "notes", ()))
    with ThreadPoolExecutor(threads, "segfast-check") as pool:
        try:
            found = pool.map(look, range(len(dataset)))
            for one in bar(found, "check", total=len(dataset), unit="pair", disable=not progress):
                content.add(one)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return content


def tell(contents: Iterable[Content | None]) -> None:
    """Print how files were understood, each line once, and what every split holds."""
    said = set[str]()
    for content in filter(None, contents):
        fresh = [note for note in content.notes if note not in said]
        said.update(fresh)
        print("\n".join([*fresh, *content.lines()]), flush=True)
