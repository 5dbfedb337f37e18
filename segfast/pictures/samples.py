"""What the samples of a picture stand for, where they are not plain bytes (docs/pictures.md)."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from segfast.errors import BadImage
from segfast.pictures.tiff import Layout

Pixels = NDArray[np.uint8]

_SCALE_IT = "scale it to 0 … 255 and pass it as uint8 array [H, W, 3]"
# Formats whose decoders stretch what is declared, a maxval or a precision, to 16 bits.
_STRETCHED = ("PPM", "JPEG2000")
# Raw modes of 16-bit colours whose upper bytes Pillow takes, and those that give the lower bytes instead.
_LOWER = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX", "R", "G", "B", "A")
    for order, other in (("L", "B"), ("B", "L"), ("N", "B" if sys.byteorder == "little" else "L"))
}


class SamplesWarning(UserWarning):
    """A picture that was read, but whose file does not say what its samples stand for."""


class Samples(NamedTuple):
    """Samples of one kind.

    Attributes:
        kind: `u`nsigned, s`i`gned or `f`loat.
        bits: of each, 8 … 32.
        low, high: the range that is declared; none if none is.
        inverted: the largest value is black.
    """

    kind: str
    bits: int
    low: float | None = None
    high: float | None = None
    inverted: bool = False


def samples_of(image: Image.Image) -> Samples | None:
    """What the samples of a picture are, before it is loaded; none if they are unsigned and of at most 8 bits."""
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


def to_rgb(image: Image.Image, samples: Samples, lower: Callable[[], Pixels | None], name: str) -> Pixels:
    """RGB bytes [H, W, 3] of a loaded picture whose samples are others.

    Args:
        lower: gives the lower bytes of 16-bit colours, of which Pillow keeps the upper ones; none if it cannot.

    Raises:
        BadImage: the samples are no picture's.
    """
    if len(image.getbands()) == 1:
        return np.repeat(to_bytes(_values(image, samples), samples, name)[..., None], 3, 2)
    upper = np.asarray(image)[..., :3]
    short = samples.high is not None and samples.high < 65535
    dark = image.mode != "CMYK" and _is_dark(int(upper.max()), 255)  # of ink, little is bright
    if samples.bits != 16 or not (short or dark):
        return np.asarray(image.convert("RGB"))
    low = lower() if image.mode != "CMYK" else None
    if low is not None:
        return to_bytes(upper.astype(np.uint16) << 8 | low, samples, name)
    if short or not upper.any():
        raise BadImage(
            f"{name} has samples of 16 bits that use only the lower ones, which are not read of an image that is open already "
            "or of bands by themselves; pass the path, or save it with 8 bits"
        )
    _warn_of_dark(name, samples, int(upper.max()) << 8 | 255, 65535)
    return np.asarray(image.convert("RGB"))


def take_lower(image: Image.Image) -> bool:
    """Let an unloaded picture of 16-bit colours, repaired, give their lower bytes; whether it will."""
    if not isinstance(image, ImageFile):
        return False
    raws = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in image.tile]
    if not raws or any(raw not in _LOWER for raw in raws):
        return False
    if isinstance(image, TiffImageFile) and image.tile[0].codec_name == "libtiff" and Layout.of(image.tag_v2).planar:
        return False  # such bands come by raw modes of the decoder's own
    image.tile = [
        tile._replace(args=(_LOWER[raw], *tile.args[1:]) if isinstance(tile.args, tuple) else _LOWER[raw])
        for tile, raw in zip(image.tile, raws, strict=True)
    ]
    return True


def to_bytes(values: NDArray[Any], samples: Samples, name: str) -> Pixels:
    """Samples of any range → 0 … 255.

    Raises:
        BadImage: no range is declared, and none can be meant.
    """
    if values.size == 0:
        return values.astype(np.uint8)
    found = _floats(values, samples, name) if samples.kind == "f" else _integers(values, samples, name)
    return 255 - found if samples.inverted else found


def _values(image: Image.Image, samples: Samples) -> NDArray[Any]:
    """The samples of a grey picture: Pillow keeps those of 32 bits as int32, and those of 8 as uint8."""
    values = np.asarray(image)
    if samples.kind == "u" and samples.bits == 32 and values.dtype == np.int32:
        return values.view(np.uint32)
    return values.view(np.int8) if samples.kind == "i" and values.dtype == np.uint8 else values


def _integers(values: NDArray[Any], samples: Samples, name: str) -> Pixels:
    lowest, highest = int(values.min()), int(values.max())
    what = f"{name} has {'signed ' if samples.kind == 'i' else ''}samples of {samples.bits} bits"
    top = (1 << samples.bits - (samples.kind == "i")) - 1
    if (
        samples.low is not None
        and samples.high is not None
        and samples.low <= lowest
        and highest <= samples.high <= top
    ):
        if 0 < highest <= 255 and _is_dark(highest, int(samples.high)):
            _warn_of_dark(name, samples, highest, int(samples.high))
        return _from_range(values, samples.low, samples.high)
    if lowest < 0:
        raise BadImage(f"{what} from {lowest} to {highest}, and what is black is not declared; {_SCALE_IT}")
    if samples.bits not in (16, 32) or not _is_dark(highest, top):  # 12 bits in 12, for one, are declared
        return _from_range(values, 0, top)
    if highest <= 255:
        if samples.bits == 16 and samples.kind == "u" and highest:
            _warn(f"{what}, none over 255: they are taken for bytes; save it with 8 bits")
        return values.astype(np.uint8)
    if samples.bits == 16:
        _warn_of_dark(name, samples, highest, top)
        return _from_range(values, 0, top)
    if highest > 65535:
        raise BadImage(f"{what} from {lowest} to {highest}, and what is white is not declared; {_SCALE_IT}")
    _warn(f"{what}, none over 65535: they are taken for samples of 16 bits; if that is wrong, {_SCALE_IT}")
    return _from_range(values, 0, 65535)


def _floats(values: NDArray[Any], samples: Samples, name: str) -> Pixels:
    finite = np.isfinite(values)
    if not finite.any():
        raise BadImage(f"{name} has no sample that is a number; save it again")
    if not finite.all():
        _warn(
            f"{name} has {values.size - np.count_nonzero(finite)} samples that are no finite numbers: NaN is taken for black"
        )
    lowest, highest = float(values[finite].min()), float(values[finite].max())
    values = np.nan_to_num(values, nan=lowest, posinf=highest, neginf=lowest)
    if samples.low is not None and samples.high is not None and samples.high > samples.low:
        return _from_range(values, samples.low, samples.high)
    if lowest >= 0 and highest <= 1:
        return _from_range(values, 0, 1)
    if highest <= 1:
        raise BadImage(
            f"{name} has samples from {lowest:g} to {highest:g}, and what is black is not declared; {_SCALE_IT}"
        )
    if np.count_nonzero((values < 0) | (values > 255)) > values.size / 2:
        raise BadImage(
            f"{name} has samples from {lowest:g} to {highest:g}, and what is white is not declared; {_SCALE_IT}"
        )
    if lowest < 0 or highest > 255:
        _warn(
            f"{name} has samples from {lowest:g} to {highest:g}: they are cut off at 0 and 255; if that is wrong, {_SCALE_IT}"
        )
    return values.clip(0, 255).astype(np.uint8)


def _from_range(values: NDArray[Any], low: float, high: float) -> Pixels:
    """low … high → 0 … 255; of whole powers of two, the upper eight bits."""
    whole = values.dtype.kind in "iu" and low == 0 and high >= 1 and math.log2(high + 1).is_integer()
    if whole:
        shift = int(math.log2(high + 1)) - 8
        return (values >> shift if shift >= 0 else values.astype(np.uint8) << -shift).astype(np.uint8)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((values.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def _is_dark(highest: int, top: int) -> bool:
    """Whether two bits or more are not in use at all."""
    return highest < (top + 1) // 4


def _warn_of_dark(name: str, samples: Samples, highest: int, top: int) -> None:
    _warn(
        f"the samples of {name}, of {samples.bits} bits, reach only {highest} of {top}, so that it may be far too dark; "
        f"if less is white, declare that in the file (TIFF's MaxSampleValue), or {_SCALE_IT}"
    )


def _warn(message: str) -> None:
    warnings.warn(message, SamplesWarning, stacklevel=2)
