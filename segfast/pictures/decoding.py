"""An open picture → RGB bytes: its mode, its orientation, and what is the matter where it cannot be read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from segfast.errors import BadImage
from segfast.pictures import foreign, samples, tiff
from segfast.pictures.arrays import Pixels

# What undoes each EXIF orientation but the first.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: Image.Image, name: str, again: Callable[[], Image.Image] | None = None) -> Pixels:
    """RGB pixels [H, W, 3] of an image of any mode.

    Args:
        again: opens it anew, for what one pass over the file does not give.

    Raises:
        BadImage: it is damaged, closed, or its samples are no picture's.
    """
    try:
        _check_layout(image, name)
        kind = samples.samples_of(image)
        loaded = _loaded(image)
        return _colours(loaded) if kind is None else samples.to_rgb(loaded, kind, lambda: _lower(again), name)
    except MemoryError:
        raise BadImage(f"{name} does not fit in memory; make it smaller") from None
    except (BadImage, Warning):
        raise
    except Exception as error:  # decoders and corrupt profiles raise nearly anything
        raise _damage(error, image, name) from None


def _loaded(image: Image.Image) -> Image.Image:
    tiff.repair(image)
    try:
        image.load()
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # Pillow's limit of a PNG's texts behind the pixels
            raise
    return _upright(image) if isinstance(image, ImageFile.ImageFile) else image


def _colours(image: Image.Image) -> Pixels:
    """Any mode of 8 bits → RGB."""
    if image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _lower(again: Callable[[], Image.Image] | None) -> Pixels | None:
    """The lower bytes of 16-bit colours, by a second pass."""
    if again is None:
        return None
    with again() as image:
        tiff.repair(image)
        return np.asarray(_loaded(image))[..., :3] if samples.take_lower(image) else None


def _check_layout(image: Image.Image, name: str) -> None:
    """Refuse what Pillow opens, but reads as something else."""
    if not isinstance(image, TiffImageFile) or not hasattr(image, "tag_v2"):
        return
    if tiff.is_preview(image):
        raise BadImage(
            f"{name} is a raw file of a camera, or the like: its first picture ({image.width}×{image.height}) is a preview; "
            "develop it with a raw converter (rawpy, for example), and pass the result"
        )
    layout = tiff.Layout.of(image.tag_v2)
    if tiff.is_misread(layout):
        raise foreign.other_layout(layout, name)


def _damage(error: Exception, image: Image.Image, name: str) -> BadImage:
    """What is the matter with an image that cannot be loaded."""
    if _is_closed(image):
        return BadImage(
            f"{name} was closed before its pixels were read; segment it inside the with block, "
            "call its load() there, or pass the path"
        )
    if isinstance(image, TiffImageFile) and "raw mode" in str(error):
        return foreign.other_layout(tiff.Layout.of(image.tag_v2), name)
    return BadImage(f"{name} is damaged ({error or type(error).__name__}); copy or download it again")


def _is_closed(image: Image.Image) -> bool:
    file = getattr(image, "fp", None)
    if getattr(image, "tile", None) and (file is None or getattr(file, "closed", False)):
        return True
    try:
        return image.im is None
    except ValueError:  # after its close()
        return True


def _upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF block says it is held.

    Not by ImageOps.exif_transpose, which writes the whole block anew and fails where any tag is odd.
    """
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # a damaged block, which Pillow meets with nearly any exception, says nothing
        return image
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
