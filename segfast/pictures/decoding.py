"""A PIL image of any mode → RGB bytes, upright; or the error that says why it cannot be read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from segfast.errors import BadImage
from segfast.pictures import samples, sixteen_bit, tiff
from segfast.pictures.arrays import Pixels

# 64 megapixels. A larger file is refused before it is decoded; a larger array was decoded by the caller.
MAX_PIXELS = 1 << 26

# What undoes each EXIF orientation but the first.
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: Image.Image, name: str, reopen: Callable[[], Image.Image] | None = None) -> Pixels:
    """RGB pixels [H, W, 3] of an image of any mode.

    Args:
        name: of the image, for messages.
        reopen: opens the same file again, for a second pass over it.

    Raises:
        BadImage: it is too large, empty, damaged or closed, or its samples cannot be taken for a picture's.
    """
    if image.width * image.height > MAX_PIXELS:
        raise too_large(f"{name} ({image.width}×{image.height})")
    if 0 in image.size:
        raise BadImage(f"{name} has no pixels ({image.width}×{image.height}); give it at least one")
    try:
        return _decode(image, name, reopen)
    except MemoryError:
        raise BadImage(f"{name} does not fit in memory; make it smaller") from None
    except (BadImage, Warning):
        raise
    except Exception as error:  # decoders and corrupt profiles raise nearly anything
        raise _explain(error, image, name) from None


def too_large(name: str) -> BadImage:
    """The error for a file of over MAX_PIXELS pixels."""
    return BadImage(
        f"{name} has over {MAX_PIXELS >> 20} megapixels (2^20 each), the limit for files; "
        "make it smaller, or cut it and pass the parts"
    )


def _decode(image: Image.Image, name: str, reopen: Callable[[], Image.Image] | None) -> Pixels:
    if isinstance(image, TiffImageFile) and hasattr(image, "tag_v2"):
        tiff.check_layout(image, name)
    kind = samples.samples_of(image)
    image = _load(image)
    if kind is not None and len(image.getbands()) == 1:
        return samples.grey_to_rgb(image, kind, name)
    if kind is not None and kind.bits == 16:
        return sixteen_bit.to_rgb(image, kind, lambda: _lower_bytes(reopen), name)
    if image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _load(image: Image.Image) -> Image.Image:
    """The image with its pixels decoded, and upright if it comes from a file."""
    tiff.repair(image)
    try:
        image.load()
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # Pillow's limit for a PNG's texts, met after the pixels
            raise
    return _upright(image) if isinstance(image, ImageFile.ImageFile) else image


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF block says.

    Not by ImageOps.exif_transpose, which rewrites the whole block and fails on any odd tag.
    """
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # a damaged block, on which Pillow raises nearly anything, says nothing
        return image
    return image.transpose(_UNDO[orientation]) if orientation in _UNDO else image


def _lower_bytes(reopen: Callable[[], Image.Image] | None) -> Pixels | None:
    """The lower bytes of 16-bit colours [H, W, 3], by a second pass over the file; None if they cannot be had."""
    if reopen is None:
        return None
    with reopen() as image:
        tiff.repair(image)
        return np.asarray(_load(image))[..., :3] if sixteen_bit.select_lower(image) else None


def _explain(error: Exception, image: Image.Image, name: str) -> BadImage:
    """Why an image could not be loaded."""
    if _is_closed(image):
        return BadImage(
            f"{name} was closed before its pixels were read; segment it inside the with block, "
            "call its load() there, or pass the path"
        )
    if isinstance(image, TiffImageFile) and "raw mode" in str(error):
        return tiff.unsupported(tiff.Layout.of(image.tag_v2), name)
    return BadImage(f"{name} is damaged ({error or type(error).__name__}); copy or download it again")


def _is_closed(image: Image.Image) -> bool:
    file = getattr(image, "fp", None)
    if getattr(image, "tile", None) and (file is None or getattr(file, "closed", False)):
        return True
    try:
        return image.im is None
    except ValueError:  # after its close()
        return True
