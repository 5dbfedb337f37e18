"""Pictures and masks on disk: pairs of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.content import Content, Look, survey
from segfast.datasets.decoding import Decoding, decode
from segfast.datasets.masks import TABLES, read_mask, read_raw
from segfast.errors import BadData, BadImage
from segfast.image import read_image
from segfast.pictures.formats import FORMATS
from segfast.pictures.samples import samples_of

T = TypeVar("T")

# EXIF orientations that turn a picture on its side.
_ON_ITS_SIDE = (5, 6, 7, 8)
# What samples of 14 bits stay below, where those of 16 become 0 … 255.
_DIM = 64


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
        decoding: how masks become labels, of a folder of one's own; otherwise the pairs' tables say it.
        notes: how its files were understood, one line each.
    """

    root: Path
    pairs: tuple[Pair, ...]
    stray: tuple[str, ...] = ()
    decoding: Decoding | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, index: int) -> str:
        """The picture's path inside the split, without its ending."""
        return self.pairs[index].key

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [H, W, 3]."""
        return read_image(self._path(index, "image"))

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Labels, uint8 [H, W]; a value of the paper's datasets that stands for no class stays outside 0 … K − 1."""
        path = self._path(index, "mask")
        if self.decoding is None:
            return TABLES[self.pairs[index].table][read_mask(path)]
        return decode(*read_raw(path), self.decoding, str(path))

    def source(self, index: int) -> Path | None:
        """The picture's file."""
        return self._path(index, "image")

    def take(self, indices: Iterable[int]) -> Self:
        """These samples only; what was found beside the pairs is left out."""
        return replace(self, pairs=tuple(self.pairs[index] for index in indices), stray=())

    def check(self, *, progress: bool = False) -> Content:
        """See that every pair is whole and fits: masks are read; of a JPEG, for its time, header and end alone."""
        return survey(self, self._look, progress=progress).whole(self.root, self.stray).checked()

    def _path(self, index: int, kind: str) -> Path:
        path = getattr(self.pairs[index], kind)
        if path is None:
            raise BadData(f"{self.key(index)} of {self.name} {self.split} has no {kind}; add it, or remove the other")
        return self.root / path

    def _look(self, index: int) -> Look:
        """What a sample holds, or what is wrong with it, in words."""
        pair = self.pairs[index]
        try:
            size, orientation, dim = measure(self._path(index, "image"))
            raw, palette = read_raw(self._path(index, "mask"))
            if raw.shape[:2] != size:
                return Look(fault=_misfit(pair, raw.shape[:2], size, orientation))
            if self.decoding is not None:
                labels = decode(raw, palette, self.decoding, str(pair.mask))
                counts = np.bincount(labels.ravel(), minlength=256)
                return Look(counts=counts, size=size, turned=orientation > 1, dim=dim)
            return self._look_at_index(index, size, orientation > 1)
        except (BadData, BadImage) as error:
            return Look(fault=str(error))

    def _look_at_index(self, index: int, size: tuple[int, int], turned: bool) -> Look:
        """The same of a mask that one of the paper's datasets has."""
        pair = self.pairs[index]
        table, values = TABLES[pair.table], read_mask(self._path(index, "mask"))
        counts = np.bincount(values.ravel(), minlength=256)
        odd = np.flatnonzero((counts > 0) & (table >= len(self.classes)) & (table != IGNORE))
        if len(odd):
            listed = ", ".join(map(str, odd[:8])) + (", …" if len(odd) > 8 else "")
            return Look(
                fault=f"{pair.mask} has the values {listed}, which stand for none of the {len(self.classes)} classes"
            )
        return Look(counts=np.bincount(table, weights=counts, minlength=256).astype(np.int64), size=size, turned=turned)


def _misfit(pair: Pair, mask: tuple[int, ...], size: tuple[int, int], orientation: int) -> str:
    """Sizes that differ, in words."""
    words = f"{pair.mask} has {mask[0]}×{mask[1]} pixels, but its picture {pair.image} {size[0]}×{size[1]}"
    if orientation in _ON_ITS_SIDE and (mask[1], mask[0]) == size:
        words += (
            f", upright: the picture is turned by its EXIF orientation {orientation}, and the mask was drawn on it unturned; "
            "turn the mask as well, or remove the orientation (exiftool -Orientation= -n)"
        )
    return words


def subset(items: Sequence[T], fraction: float) -> tuple[T, ...]:
    """That share of the items, at least one, in their order: always the same, and part of any larger share's."""
    if fraction == 1:
        return tuple(items)
    chosen = np.random.default_rng(0).permutation(len(items))[: max(1, round(fraction * len(items)))]
    return tuple(items[index] for index in sorted(chosen))


class Measured(NamedTuple):
    """A picture's (H, W) as `read_image` gives it, its EXIF orientation, and whether samples of 16 bits use 14 or fewer."""

    size: tuple[int, int]
    orientation: int = 1
    dim: bool = False


def measure(path: Path) -> Measured:
    """What a picture's header says of it; a file whose end is missing, or of more than 8 bits, is read whole.

    Raises:
        BadImage: it cannot be read.
    """
    orientation, wide = 1, False
    try:
        with Image.open(path, formats=FORMATS) as image:
            samples = samples_of(image)
            wide = samples is not None and (samples.kind, samples.bits) == ("u", 16)
            ending = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image.format or "")
            whole = not wide and ending is not None and ending in _tail(path)
            W, H = image.size
            with suppress(Exception):  # a damaged block says nothing
                orientation = int(image.getexif().get(0x0112, 1))
    except Exception:  # whatever is the matter, read_image finds the words for it
        whole = False
    if not whole:
        pixels = read_image(path)
        return Measured((pixels.shape[0], pixels.shape[1]), orientation, wide and int(pixels.max()) < _DIM)
    return Measured((W, H) if orientation in _ON_ITS_SIDE else (H, W), orientation)


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return file.read()
