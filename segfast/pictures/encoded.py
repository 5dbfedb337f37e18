"""Encoded pictures → RGB pixels: a path, an open file, or a file's bytes."""

from __future__ import annotations

import errno
import io
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from segfast.errors import BadImage
from segfast.pictures import png
from segfast.pictures.arrays import Pixels
from segfast.pictures.decoding import decode, too_large
from segfast.pictures.formats import FORMATS, unknown_format
from segfast.pictures.inputs import missing_file, shorten

Source = Path | IO[bytes]


def read_path(path: str) -> Pixels:
    """RGB pixels [H, W, 3] of a file on disk; BadImage if it is no picture that can be read."""
    name = shorten(path)
    try:
        if os.path.isdir(path):
            raise BadImage(f"{name} is a folder; name the pictures in it, or use `python -m segfast.segment`")
        if os.path.getsize(path) == 0:
            raise BadImage(f"{name} is empty; copy or download it again")
        return _read(Path(path), name)
    except FileNotFoundError:
        raise missing_file(path) from None
    except PermissionError:
        raise BadImage(f"{name} may not be read; check its permissions") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            raise missing_file(path) from None
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"{name} cannot be opened ({reason}); copy or download it again") from None


def read_file(file: IO[bytes]) -> Pixels:
    """RGB pixels [H, W, 3] of an open file, from its start if it can seek; BadImage if it is closed or no picture."""
    named = getattr(file, "name", None)
    name = f"the open file {shorten(named)}" if isinstance(named, str) else f"the {type(file).__name__}"
    if getattr(file, "closed", False):
        raise BadImage(f"{name} is closed; pass it while it is open, or pass its path")
    return _read(_rewindable(file, name), name)


def read_bytes(content: bytes | bytearray | memoryview) -> Pixels:
    """RGB pixels [H, W, 3] of a file's content; BadImage if it is no picture."""
    return _read(io.BytesIO(bytes(content)), f"the picture of {len(content)} bytes")


def _rewindable(file: IO[bytes], name: str) -> IO[bytes]:
    """The file itself, or its content in memory if it cannot seek."""
    with suppress(AttributeError):
        if file.seekable():
            return file
    try:
        return io.BytesIO(file.read())
    except Exception as error:  # of whatever it reads from
        raise BadImage(f"{name} cannot be read ({error or type(error).__name__}); open it anew, in binary") from None


def _read(source: Source, name: str) -> Pixels:
    """The pixels of a file; a PNG's are read without its metadata if Pillow fails over that."""
    try:
        return _open(source, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(name) from None
    except (FileNotFoundError, PermissionError, Warning):
        raise
    except Exception as error:  # decoders raise nearly anything
        pixels = _without_extras(source, name)
        if pixels is None:
            raise _explain(error, source, name) from None
        return pixels


def _open(source: Source, name: str) -> Pixels:
    def reopen() -> Image.Image:
        return Image.open(source, formats=FORMATS)

    with reopen() as image:
        return decode(image, name, reopen)


def _without_extras(source: Source, name: str) -> Pixels | None:
    with _at_start(source) as file:
        if file.read(len(png.SIGNATURE)) != png.SIGNATURE:
            return None
        content = png.SIGNATURE + file.read()
    for stripped in png.without_extras(content):
        with suppress(Exception):
            return _open(io.BytesIO(stripped), name)
    return None


def _explain(error: Exception, source: Source, name: str) -> BadImage:
    """Why a file could not be read."""
    if isinstance(error, BadImage):
        return error
    if not isinstance(error, UnidentifiedImageError):
        return BadImage(f"{name} cannot be opened ({error or type(error).__name__}); copy or download it again")
    with _at_start(source) as file:
        return unknown_format(file, name)


def _at_start(source: Source) -> AbstractContextManager[IO[bytes]]:
    """The file, open at its start."""
    if isinstance(source, Path):
        return open(source, "rb")
    source.seek(0)
    return nullcontext(source)
