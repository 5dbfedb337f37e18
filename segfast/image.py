"""Any picture → uint8 RGB [H, W, 3]."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segfast.errors import BadImage

Pixels = NDArray[np.uint8]

# 64 megapixels. A larger file is refused before it is decoded; a larger array was decoded by the caller.
MAX_PIXELS = 1 << 26

# Formats whose decoders only decode: no Ghostscript, no remote or scripted content.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "TGA", "AVIF")
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
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".tif", ".tiff", ".bmp", ".dib", ".gif",
     ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tga"]
)


def read_image(image: Any) -> Pixels:
    """RGB pixels [H, W, 3], uint8, of a path, PIL image, array or tensor.

    Files and PIL images of any mode are converted (grey, palette, 16-bit, CMYK, …), transparency is
    dropped as in the original code, EXIF rotation is applied, an animation gives its first frame.
    Arrays and tensors must be uint8 RGB [H, W, 3] already.

    Raises:
        BadImage: it cannot be read as a picture, is empty, or has over MAX_PIXELS pixels.
    """
    if isinstance(image, (str, os.PathLike)):
        return _open(Path(image))
    if isinstance(image, Image.Image):
        return _rgb(image, "the PIL image")
    return _check_array(image)


def _open(path: Path) -> Pixels:
    try:
        if path.is_dir():
            raise BadImage(f"{path} is a folder; name the pictures in it, or use `python -m segfast.segment`")
        if path.stat().st_size == 0:
            raise BadImage(f"{path} is empty; copy or download it again")
        with Image.open(path, formats=FORMATS) as image:
            return _rgb(image, str(path))
    except FileNotFoundError:
        raise BadImage(f"there is no file {path}; check the path") from None
    except PermissionError:
        raise BadImage(f"{path} may not be read; check its permissions") from None
    except UnidentifiedImageError:
        raise BadImage(
            f"{path} is no picture in a format that is read ({', '.join(FORMATS)}); convert it to PNG or JPEG"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(str(path)) from None
    except (OSError, ValueError) as error:
        raise BadImage(f"{path} cannot be opened ({error}); copy or download it again") from None


def _rgb(image: Image.Image, name: str) -> Pixels:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"{name} ({image.width}×{image.height})")
    if 0 in image.size:
        raise BadImage(f"{name} has no pixels ({image.width}×{image.height}); give it at least one")
    try:
        image.load()
        image = _upright(image)
        if image.mode.startswith("I") or image.mode == "F":
            image = _eight_bit(image)
        return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise BadImage(f"{name} does not fit in memory; make it smaller") from None
    except Exception as error:  # decoders and corrupt profiles raise nearly anything
        raise BadImage(f"{name} is damaged ({error or type(error).__name__}); copy or download it again") from None


def _upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF block says it is held.

    Not by ImageOps.exif_transpose, which writes the whole block anew and fails where any tag is odd.
    """
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # a damaged block, which Pillow meets with nearly any exception, says nothing
        return image
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (or 32, of which Pillow uses 16 for PNG) → 8 bits, which `convert` would clip."""
    values = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(np.nan_to_num(values).clip(0, 255).astype(np.uint8))
    return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))


def _check_array(image: Any) -> Pixels:
    shape, dtype = tuple(getattr(image, "shape", ())), str(getattr(image, "dtype", type(image).__name__))
    if not hasattr(image, "shape") or not hasattr(image, "dtype"):
        raise BadImage(f"{type(image).__name__} is no image; pass a path, a PIL image or a uint8 array [H, W, 3]")
    if dtype.removeprefix("torch.") != "uint8":
        raise BadImage(
            f"the image must be uint8 RGB with values 0 … 255, not {dtype} (no normalisation: the model does that); "
            "convert it, for example (image * 255).round().clip(0, 255).astype('uint8')"
        )
    if len(shape) != 3 or shape[2] != 3:
        channels_first = len(shape) == 3 and shape[0] == 3
        remedy = "permute it with (1, 2, 0)" if channels_first else "one RGB image, without a batch axis, is wanted"
        raise BadImage(f"the image must have the shape [H, W, 3], not {list(shape)}; {remedy}")
    if 0 in shape:
        raise BadImage(f"the image has no pixels ({list(shape)}); give it at least one")
    if dtype.startswith("torch."):
        image = image.detach().cpu().numpy()
    return np.array(image)  # a copy: the caller may reuse the buffer while the answer still shows it


def _too_large(name: str) -> BadImage:
    return BadImage(
        f"{name} has over {MAX_PIXELS >> 20} megapixels (2^20 each), the limit for files; "
        "make it smaller, or cut it and pass the parts"
    )
