"""What a picture's samples stand for where they are not plain bytes, and how they become bytes (docs/pictures.md)."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from segfast.errors import BadImage
from segfast.pictures.arrays import Pixels
from segfast.pictures.tiff import Layout

Values = NDArray[Any]  # samples of any type of number

_SCALE_IT = "scale it to 0 … 255 and pass it as uint8 array [H, W, 3]"
# Formats whose decoders stretch the range that the file declares (a maxval, a precision) to 16 bits.
_STRETCHED = ("PPM", "JPEG2000")


class SamplesWarning(UserWarning):
    """A picture was read, though its file does not say what its samples stand for."""


class Samples(NamedTuple):
    """The type and range of a picture's samples.

    Attributes:
        kind: `u`nsigned, s`i`gned or `f`loat.
        bits: of each sample, 8 … 32.
        low, high: the declared range; None if none is declared.
        inverted: the largest value is black.
    """

    kind: str
    bits: int
    low: float | None = None
    high: float | None = None
    inverted: bool = False


def samples_of(image: Image.Image) -> Samples | None:
    """The samples of an image that is not loaded yet; None if they are unsigned and of at most 8 bits."""
    if isinstance(image, TiffImageFile) and hasattr(image, "tag_v2"):
        layout = Layout.of(image.tag_v2)
        if layout.kind == "u" and layout.bits <= 8:
            return None
        inverted = layout.photometric == 0 and image.mode != "1"
        return Samples(layout.kind, layout.bits, layout.low, layout.high, inverted)
    if image.mode.startswith("I;16"):
        return Samples("u", 16, *((0, 65535) if image.format in _STRETCHED else ()))
    if image.mode == "I":
        return Samples("u", 16, 0, 65535) if image.format in _STRETCHED else Samples("i", 32)
    if image.mode == "F":
        return Samples("f", 32)
    wide = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
    return Samples("u", 16) if wide and image.format not in _STRETCHED else None


def grey_to_rgb(image: Image.Image, samples: Samples, name: str) -> Pixels:
    """RGB bytes [H, W, 3] of a loaded grey image.

    Raises:
        BadImage: no range is declared, and none can be inferred.
    """
    values = np.asarray(image)  # Pillow keeps samples of 32 bits as int32, those of 8 as uint8
    if samples.kind == "u" and samples.bits == 32 and values.dtype == np.int32:
        values = values.view(np.uint32)
    elif samples.kind == "i" and values.dtype == np.uint8:
        values = values.view(np.int8)
    return np.repeat(to_bytes(values, samples, name)[..., None], 3, 2)


def to_bytes(values: Values, samples: Samples, name: str) -> Pixels:
    """Samples of any range → 0 … 255.

    Raises:
        BadImage: no range is declared, and none can be inferred.
    """
    found = _floats(values, samples, name) if samples.kind == "f" else _integers(values, samples, name)
    return 255 - found if samples.inverted else found


def is_dark(highest: int, top: int) -> bool:
    """Whether the two upper bits or more are never used."""
    return highest < (top + 1) // 4


def warn_of_dark(name: str, samples: Samples, highest: int, top: int) -> None:
    """Warn that a picture may be read too dark: its largest sample is far below the largest there could be."""
    _warn(
        f"the samples of {name}, of {samples.bits} bits, reach only {highest} of {top}, so that it may be far too dark; "
        f"if less is white, declare that in the file (TIFF's MaxSampleValue), or {_SCALE_IT}"
    )


def _integers(values: Values, samples: Samples, name: str) -> Pixels:
    lowest, highest, low, high = int(values.min()), int(values.max()), samples.low, samples.high
    what = f"{name} has {'signed ' if samples.kind == 'i' else ''}samples of {samples.bits} bits"
    top = (1 << samples.bits - (samples.kind == "i")) - 1
    if low is not None and high is not None and low <= lowest and highest <= high <= top:
        if 0 < highest <= 255 and is_dark(highest, int(high)):
            warn_of_dark(name, samples, highest, int(high))
        return _from_range(values, low, high)
    if lowest < 0:
        raise _undeclared("black", what, lowest, highest)
    if samples.bits not in (16, 32) or not is_dark(highest, top):  # 12 bits packed into 12, for one, use all of them
        return _from_range(values, 0, top)
    if highest <= 255:
        if samples.bits == 16 and samples.kind == "u" and highest:
            _warn(f"{what}, none over 255: they are taken for bytes; save it with 8 bits")
        return values.astype(np.uint8)
    if samples.bits == 16:
        warn_of_dark(name, samples, highest, top)
        return _from_range(values, 0, top)
    if highest > 65535:
        raise _undeclared("white", what, lowest, highest)
    _warn(f"{what}, none over 65535: they are taken for samples of 16 bits; if that is wrong, {_SCALE_IT}")
    return _from_range(values, 0, 65535)


def _floats(values: Values, samples: Samples, name: str) -> Pixels:
    finite = np.isfinite(values)
    if not finite.any():
        raise BadImage(f"{name} has no sample that is a number; save it again")
    if not finite.all():
        count = values.size - np.count_nonzero(finite)
        _warn(f"{name} has {count} samples that are no finite numbers: NaN is taken for black")
    lowest, highest, low, high = float(values[finite].min()), float(values[finite].max()), samples.low, samples.high
    values = np.nan_to_num(values, nan=lowest, posinf=highest, neginf=lowest)
    if low is not None and high is not None and high > low:
        return _from_range(values, low, high)
    if lowest >= 0 and highest <= 1:
        return _from_range(values, 0, 1)
    what = f"{name} has samples"
    if highest <= 1:
        raise _undeclared("black", what, lowest, highest)
    if np.count_nonzero((values < 0) | (values > 255)) > values.size / 2:
        raise _undeclared("white", what, lowest, highest)
    if lowest < 0 or highest > 255:
        _warn(f"{what} from {lowest:g} to {highest:g}: they are cut off at 0 and 255; if that is wrong, {_SCALE_IT}")
    return values.clip(0, 255).astype(np.uint8)


def _undeclared(end: str, what: str, lowest: float, highest: float) -> BadImage:
    span = f"from {lowest} to {highest}" if isinstance(lowest, int) else f"from {lowest:g} to {highest:g}"
    return BadImage(f"{what} {span}, and what is {end} is not declared; {_SCALE_IT}")


def _from_range(values: Values, low: float, high: float) -> Pixels:
    """low … high → 0 … 255: the upper eight bits of integers whose range is a whole number of bits, else scaled."""
    if values.dtype.kind in "iu" and low == 0 and high >= 1 and math.log2(high + 1).is_integer():
        shift = int(math.log2(high + 1)) - 8
        return (values >> shift if shift >= 0 else values.astype(np.uint8) << -shift).astype(np.uint8)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((values.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def _warn(message: str) -> None:
    warnings.warn(message, SamplesWarning, stacklevel=2)
