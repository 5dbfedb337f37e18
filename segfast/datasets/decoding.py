"""How what a mask's file holds becomes labels: values and colours, each with the class it stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segfast.datasets.base import IGNORE
from segfast.datasets.class_entry import Colour
from segfast.datasets.class_list import ClassList
from segfast.errors import BadData

# In a table of values: stands for nothing.
UNKNOWN = 256


@dataclass(frozen=True)
class Decoding:
    """What the values and colours of masks stand for.

    Attributes:
        values: (value, label) pairs.
        colours: (colour, label) pairs; empty where none are known.
        is_index: values are labels as they are.
    """

    values: tuple[tuple[int, int], ...]
    colours: tuple[tuple[Colour, int], ...] = ()

    @classmethod
    def of(cls, classes: ClassList, ignore: int | None = None, *, reduce_zero: bool = False) -> Decoding:
        """That of a class list.

        Args:
            ignore: a value that stands for no class, besides 255.
            reduce_zero: 0 stands for no class, and every other value is one too high (ADE20K's).
        """
        # A list numbered from 1 has counted the 0 already.
        known = {value + (reduce_zero and 0 in classes.values): label for label, value in enumerate(classes.values)}
        known = {**dict.fromkeys((*classes.ignored, *((0,) if reduce_zero else ())), IGNORE), **known}
        colours = {colour: label for label, colour in enumerate(classes.colours)}
        grey = all(r == g == b for r, g, b in colours)
        for (r, g, b), label in colours.items():
            # Beside colours, white is of masks in colour: in grey ones 255 is for pixels that do not count.
            if r == g == b and (grey or r not in (*known, IGNORE)):
                known[r] = label
        known.setdefault(IGNORE, IGNORE)
        if ignore is not None:
            known[ignore] = IGNORE
            colours.update(
                {
                    colour: IGNORE
                    for colour, value in zip(classes.colours, classes.values, strict=False)
                    if value == ignore
                }
            )
        colours.update(dict.fromkeys(classes.ignored_colours, IGNORE))
        return cls(tuple(sorted(known.items())), tuple(colours.items()))

    def mapped(self, targets: tuple[int, ...]) -> Decoding:
        """The same with other labels: of each the one in `targets`, UNKNOWN for none."""
        table = (*targets, *[UNKNOWN] * (IGNORE - len(targets)), IGNORE)
        return replace(
            self,
            values=tuple((value, table[label]) for value, label in self.values if table[label] != UNKNOWN),
            colours=tuple((colour, table[label]) for colour, label in self.colours if table[label] != UNKNOWN),
        )

    @cached_property
    def _table(self) -> NDArray[np.uint16]:
        table = np.full(65536, UNKNOWN, np.uint16)
        for value, label in self.values:
            if 0 <= value < 65536:
                table[value] = label
        return table

    @cached_property
    def _packed(self) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        pairs = sorted((r << 16 | g << 8 | b, label) for (r, g, b), label in self.colours)
        return np.array([p for p, _ in pairs], np.uint32), np.array([label for _, label in pairs], np.uint16)

    def of_values(self, values: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Labels [H, W] of values; UNKNOWN where they stand for nothing."""
        return self._table[values]

    def of_colours(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Labels [H, W] of colours [H, W, 3]; UNKNOWN where they stand for nothing."""
        keys, labels = self._packed
        packed = pack(pixels)
        place = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
        return np.where(keys[place] == packed, labels[place], np.uint16(UNKNOWN))


def pack(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Colours [H, W, 3] as one number a pixel, red highest."""
    wide = pixels.astype(np.uint32)
    packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed.astype(np.uint32, copy=False)


def decode(
    raw: NDArray[np.integer], palette: NDArray[np.uint8] | None, decoding: Decoding, name: str
) -> NDArray[np.uint8]:
    """Labels [H, W] of what a mask's file holds.

    Colours, and the colours of a palette that says any, go through the known colours; so do colours whose channels are
    equal, unless they are values. Where no colours are known a palette's indices are values.

    Args:
        raw: values [H, W], indices into the palette [H, W], or colours [H, W, 3].
        palette: [n, 3].

    Raises:
        BadData: values or colours stand for nothing; it lists them.
    """
    if raw.ndim == 3:
        return _decode_colours(raw.astype(np.uint8, copy=False), decoding, name)
    if palette is not None and decoding.colours and _says_colours(palette, raw):
        full = np.zeros((256, 3), np.uint8)
        full[: len(palette)] = palette
        table, by_value = decoding.of_colours(full), decoding.of_values(np.arange(256))
        table[(table == UNKNOWN) & (by_value == IGNORE)] = IGNORE  # Pascal VOC's index 255 has a colour of no class
        labels = table[raw]
        return _known(labels, full[raw], "colours", decoding, name)
    return _known(decoding.of_values(raw), raw, "values", decoding, name)


def _decode_colours(pixels: NDArray[np.uint8], decoding: Decoding, name: str) -> NDArray[np.uint8]:
    equal = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())
    if decoding.colours:
        labels = decoding.of_colours(pixels)
        if equal and (labels == UNKNOWN).any():
            by_value = decoding.of_values(pixels[..., 0])
            labels = by_value if not (by_value == UNKNOWN).any() else labels
        return _known(labels, pixels, "colours", decoding, name)
    if not equal:
        raise BadData(
            f"{name} is in colour, and no colours are known; write them behind the names in classes.txt: car 255 0 0"
        )
    return _known(decoding.of_values(pixels[..., 0]), pixels[..., 0], "values", decoding, name)


def _says_colours(palette: NDArray[np.uint8], raw: NDArray[np.integer]) -> bool:
    """Whether a palette means its colours: it is no ramp of greys by index, and not one colour for all."""
    used = np.unique(raw)
    if len(used) and used[-1] >= len(palette):
        return False
    ramp = np.repeat(np.arange(len(palette), dtype=np.uint8)[:, None], 3, 1)
    return not np.array_equal(palette, ramp) and len(np.unique(palette, axis=0)) > 1


def _known(
    labels: NDArray[np.uint16], raw: NDArray[np.integer], kind: str, decoding: Decoding, name: str
) -> NDArray[np.uint8]:
    unknown = labels == UNKNOWN
    if unknown.any():
        K = len({label for _, label in decoding.values if label != IGNORE})
        found = np.unique(raw[unknown], axis=0).tolist()
        listed = ", ".join(str(tuple(v)) if isinstance(v, list) else str(v) for v in found[:8])
        more = ", …" if len(found) > 8 else ""
        raise BadData(f"{name} has the {kind} {listed}{more}, which stand for none of the {K} classes")
    return labels.astype(np.uint8)
