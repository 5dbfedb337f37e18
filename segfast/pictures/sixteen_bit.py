"""Colours of 16 bits a sample, of which Pillow keeps the upper bytes: the lower ones take a second pass over the file."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from segfast.errors import BadImage
from segfast.pictures.arrays import Pixels
from segfast.pictures.samples import Samples, is_dark, to_bytes, warn_of_dark
from segfast.pictures.tiff import Layout

# Pillow's raw modes of 16-bit colours → those of the other byte order, by which Pillow keeps the lower bytes instead.
_LOWER = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX", "R", "G", "B", "A")
    for order, other in (("L", "B"), ("B", "L"), ("N", "B" if sys.byteorder == "little" else "L"))
}


def to_rgb(image: Image.Image, samples: Samples, read_lower: Callable[[], Pixels | None], name: str) -> Pixels:
    """RGB bytes [H, W, 3] of a loaded image of 16-bit colours.

    The upper bytes are the result, unless a smaller range is declared or they are so dark that the lower ones
    may matter.

    Args:
        read_lower: gives the lower bytes [H, W, 3]; None if it cannot.

    Raises:
        BadImage: the lower bytes are needed, and cannot be read.
    """
    upper = np.asarray(image)[..., :3]
    declared = samples.high is not None and samples.high < 65535
    dark = image.mode != "CMYK" and is_dark(int(upper.max()), 255)  # of ink, little is bright
    if not (declared or dark):
        return np.asarray(image.convert("RGB"))
    lower = read_lower() if image.mode != "CMYK" else None
    if lower is not None:
        return to_bytes(upper.astype(np.uint16) << 8 | lower, samples, name)
    if declared or not upper.any():
        raise BadImage(
            f"{name} has samples of 16 bits that use only the lower ones, which cannot be read of an image that is open "
            "already or whose bands are stored separately; pass the path, or save it with 8 bits"
        )
    warn_of_dark(name, samples, int(upper.max()) << 8 | 255, 65535)
    return np.asarray(image.convert("RGB"))


def select_lower(image: Image.Image) -> bool:
    """Make an image that is not loaded yet, but repaired, decode to its lower bytes; False if it cannot."""
    if not isinstance(image, ImageFile):
        return False
    raws = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in image.tile]
    if not raws or any(raw not in _LOWER for raw in raws):
        return False
    if isinstance(image, TiffImageFile) and image.tile[0].codec_name == "libtiff" and Layout.of(image.tag_v2).planar:
        return False  # for these the decoder chooses raw modes of its own
    image.tile = [
        tile._replace(args=(_LOWER[raw], *tile.args[1:]) if isinstance(tile.args, tuple) else _LOWER[raw])
        for tile, raw in zip(image.tile, raws, strict=True)
    ]
    return True
