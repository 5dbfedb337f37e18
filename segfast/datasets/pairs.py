"""Pictures and masks on disk: pairs of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.masks import TABLES, read_mask
from segfast.errors import BadData, BadImage
from segfast.image import read_image
from segfast.pictures.formats import FORMATS
from segfast.progress import bar

T = TypeVar("T")

# EXIF orientations that turn a picture on its side.
_ON_ITS_SIDE = (5, 6, 7, 8)
_THREADS = 8


class Pair(NamedTuple):
    """A picture and its mask, relative to the dataset's root; either may be missing.

    Attributes:
        table: how values in the mask's file become labels, a name in `masks.TABLES`.
    """

    key: str
    image: str | None
    mask: str | None
    table: str = "index"


@dataclass(frozen=True)
class PairsDataset(Dataset):
    """A split whose pictures and masks are files below one folder.

    Attributes:
        root: that folder, an absolute path without links.
        pairs: its samples, by key.
        stray: what was found and cannot be used, one line each; `check` reports it.
    """

    root: Path
    pairs: tuple[Pair, ...]
    stray: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, index: int) -> str:
        """The picture's path inside the split, without its ending."""
        return self.pairs[index].key

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [H, W, 3]."""
        return read_image(self._path(index, "image"))

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Labels, uint8 [H, W]; a value that stands for no class stays outside 0 … K − 1."""
        return TABLES[self.pairs[index].table][read_mask(self._path(index, "mask"))]

    def take(self, indices: Iterable[int]) -> Self:
        """These samples only; what was found beside the pairs is left out."""
        return replace(self, pairs=tuple(self.pairs[index] for index in indices), stray=())

    def check(self, *, progress: bool = False) -> None:
        """See that every pair is whole and fits: masks are read; of a JPEG, for its time, header and end alone."""
        with ThreadPoolExecutor(_THREADS, "segfast-check") as pool:
            try:
                offences = pool.map(self._offence, range(len(self)))
                found = list(bar(offences, "check", total=len(self), unit="pair", disable=not progress))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        offenders = [*self.stray, *(offence for offence in found if offence)]
        if offenders:
            raise BadData(
                f"{self.name} {self.split} in {self.root} has {len(offenders)} faults among {len(self)} samples; "
                "repair or remove these:",
                offenders,
            )

    def _path(self, index: int, kind: str) -> Path:
        path = getattr(self.pairs[index], kind)
        if path is None:
            raise BadData(f"{self.key(index)} of {self.name} {self.split} has no {kind}; add it, or remove the other")
        return self.root / path

    def _offence(self, index: int) -> str | None:
        """What is wrong with a sample, in words."""
        pair = self.pairs[index]
        try:
            size = _measure(self._path(index, "image"))
            mask = read_mask(self._path(index, "mask"))
        except (BadData, BadImage) as error:
            return str(error)
        if mask.shape != size:
            return f"{pair.mask} has {mask.shape[0]}×{mask.shape[1]} pixels, but its picture {pair.image} {size[0]}×{size[1]}"
        table = TABLES[pair.table]
        present = np.bincount(mask.ravel(), minlength=256) > 0
        values = np.flatnonzero(present & (table >= len(self.classes)) & (table != IGNORE))
        if len(values):
            listed = ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")
            return f"{pair.mask} has the values {listed}, which stand for none of the {len(self.classes)} classes"
        return None


def subset(items: Sequence[T], fraction: float) -> tuple[T, ...]:
    """That share of the items, at least one, in their order: always the same, and part of any larger share's."""
    if fraction == 1:
        return tuple(items)
    chosen = np.random.default_rng(0).permutation(len(items))[: max(1, round(fraction * len(items)))]
    return tuple(items[index] for index in sorted(chosen))


def _measure(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as `read_image` gives it, from its header; a file whose end is missing is read whole.

    Raises:
        BadImage: it cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            ending = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image.format or "")
            whole = ending is not None and ending in _tail(path)
            W, H = image.size
            turned = image.getexif().get(0x0112) in _ON_ITS_SIDE
    except Exception:  # whatever is the matter, read_image finds the words for it
        whole = False
    if not whole:
        pixels = read_image(path)
        return pixels.shape[0], pixels.shape[1]
    return (W, H) if turned else (H, W)


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return file.read()
