"""Any picture → uint8 RGB [H, W, 3]."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from segfast.errors import BadImage
from segfast.pictures import foreign, png
from segfast.pictures.arrays import Pixels as Pixels
from segfast.pictures.arrays import check_array, check_windows, is_array
from segfast.pictures.decoding import decode
from segfast.pictures.remedies import no_file, no_image, shorten

# 64 megapixels. A larger file is refused before it is decoded; a larger array was decoded by the caller.
MAX_PIXELS = 1 << 26

# Formats whose decoders only decode: no Ghostscript, no remote or scripted content.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "TGA", "AVIF")
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".webp",
        ".avif",
        ".avifs",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".pfm",
        ".jp2",
        ".j2k",
        ".j2c",
        ".jpc",
        ".jpf",
        ".jpx",
        ".tga",
    ]
)

# One image or file may be given to many threads, and Pillow's reading of either is for one at a time.
_LOCKS = [threading.Lock() for _ in range(64)]


def _let_go() -> None:
    """In a forked child: the threads that hold locks are not there to let go."""
    _LOCKS[:] = [threading.Lock() for _ in _LOCKS]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def read_image(image: Any) -> Pixels:
    """RGB pixels [H, W, 3], uint8, of a path, PIL image, array, tensor, binary file or a file's bytes.

    Files and PIL images of any mode are converted (grey, palette, 16-bit, CMYK, …; docs/pictures.md
    says what becomes of more than 8 bits), transparency is dropped as in the original code, an
    animation gives its first frame, a PIL image the one it stands at. EXIF rotation is applied to
    files and to what `PIL.Image.open` gives, but to no image that was made from one (by `convert`,
    `crop`, `rotate`, …): that is taken as it is. Arrays and tensors must be uint8 RGB [H, W, 3] already.

    Raises:
        BadImage: it cannot be read as a picture, is empty, or has over MAX_PIXELS pixels.
    """
    if isinstance(image, (str, os.PathLike)) or _is_path(image):
        return _of_path(os.fsdecode(os.fspath(image)))
    if isinstance(image, Image.Image):
        with _alone(image):
            return _rgb(image, "the PIL image")
    if isinstance(image, memoryview) and image.ndim > 1:
        image = np.asarray(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _of_file(io.BytesIO(bytes(image)), f"the picture of {len(image)} bytes")
    if is_array(image):
        return check_array(image)
    if hasattr(image, "read") and not hasattr(image, "encoding"):  # which files of text have
        with _alone(image):
            return _of_file(*_binary(image))
    raise no_image(image)


def read_windows(windows: Any, size: tuple[int, int]) -> list[Pixels]:
    """Windows of that size, each uint8 [H, W, 3], of one array or tensor [n, H, W, 3] or a list of anything that is read.

    Raises:
        BadImage: they are none, or of another shape or dtype.
    """
    if not isinstance(windows, (list, tuple)):
        if not is_array(windows):
            raise BadImage(
                f"windows must be a uint8 array {['n', *size, 3]} or a list of images; got {type(windows).__name__}"
            )
        return list(check_windows(windows, size))
    found = [read_image(window) for window in windows]
    if not found:
        raise BadImage(f"windows must be uint8 {['n', *size, 3]}; got an empty list; give at least one")
    for index, pixels in enumerate(found):
        if pixels.shape[:2] != size:
            H, W = pixels.shape[:2]
            raise BadImage(
                f"windows must be uint8 {['n', *size, 3]}; window {index} of the list has {H}×{W} pixels; cut it anew"
            )
    return found


def _is_path(image: Any) -> bool:
    """Whether these are the bytes of a path, not of a picture: no picture is so short and names a file."""
    return isinstance(image, bytes) and len(image) <= 4096 and os.path.exists(image)


def _alone(thing: Any) -> threading.Lock:
    """A lock that nobody else holds who reads the same object."""
    return _LOCKS[id(thing) // 64 % len(_LOCKS)]


def _of_path(path: str) -> Pixels:
    name = shorten(path)
    try:
        if os.path.isdir(path):
            raise BadImage(f"{name} is a folder; name the pictures in it, or use `python -m segfast.segment`")
        if os.path.getsize(path) == 0:
            raise BadImage(f"{name} is empty; copy or download it again")
        return _of_file(Path(path), name)
    except FileNotFoundError:
        raise no_file(path) from None
    except PermissionError:
        raise BadImage(f"{name} may not be read; check its permissions") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            raise no_file(path) from None
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"{name} cannot be opened ({reason}); copy or download it again") from None


def _binary(file: Any) -> tuple[IO[bytes], str]:
    """An open file that can be rewound, and its name for messages."""
    named = getattr(file, "name", None)
    name = f"the open file {shorten(named)}" if isinstance(named, str) else f"the {type(file).__name__}"
    if getattr(file, "closed", False):
        raise BadImage(f"{name} is closed; pass it while it is open, or pass its path")
    try:
        if file.seekable():
            return file, name
    except AttributeError:
        pass
    try:
        return io.BytesIO(file.read()), name
    except Exception as error:  # of whatever it reads from
        raise BadImage(f"{name} cannot be read ({error or type(error).__name__}); open it anew, in binary") from None


def _of_file(source: Path | IO[bytes], name: str) -> Pixels:
    """The pixels of a file. What lies beside them in a PNG is left out where Pillow fails over it."""
    try:
        return _opened(source, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name) from None
    except (FileNotFoundError, PermissionError, Warning):
        raise
    except Exception as error:  # decoders raise nearly anything
        pixels = _without_extras(source, name)
        if pixels is None:
            raise _said(error, source, name) from None
        return pixels


def _opened(source: Path | IO[bytes], name: str) -> Pixels:
    def opened() -> Image.Image:
        return Image.open(source, formats=FORMATS)

    with opened() as image:
        return _rgb(image, name, opened)


def _without_extras(source: Path | IO[bytes], name: str) -> Pixels | None:
    with _reader(source) as file:
        if file.read(len(png.SIGNATURE)) != png.SIGNATURE:
            return None
        content = png.SIGNATURE + file.read()
    for stripped in png.without_extras(content):
        with suppress(Exception):
            return _opened(io.BytesIO(stripped), name)
    return None


def _said(error: Exception, source: Path | IO[bytes], name: str) -> BadImage:
    """What is the matter with a file, for people."""
    if isinstance(error, BadImage):
        return error
    if not isinstance(error, UnidentifiedImageError):
        return BadImage(f"{name} cannot be opened ({error or type(error).__name__}); copy or download it again")
    with _reader(source) as file:
        return foreign.refusal(file, name, f"read ({', '.join(FORMATS)})")


def _reader(source: Path | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    """A file at its start."""
    if isinstance(source, Path):
        return open(source, "rb")
    source.seek(0)
    return nullcontext(source)


def _rgb(image: Image.Image, name: str, again: Callable[[], Image.Image] | None = None) -> Pixels:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"{name} ({image.width}×{image.height})")
    if 0 in image.size:
        raise BadImage(f"{name} has no pixels ({image.width}×{image.height}); give it at least one")
    return decode(image, name, again)


def _too_large(name: str) -> BadImage:
    return BadImage(
        f"{name} has over {MAX_PIXELS >> 20} megapixels (2^20 each), the limit for files; "
        "make it smaller, or cut it and pass the parts"
    )
