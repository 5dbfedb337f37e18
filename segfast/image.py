"""Any image → uint8 RGB [H, W, 3]."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import IO, TypeGuard, cast

import numpy as np
from PIL import Image

from segfast.errors import BadImage
from segfast.pictures.arrays import Array, check_array, check_windows, is_array
from segfast.pictures.arrays import Pixels as Pixels
from segfast.pictures.decoding import decode
from segfast.pictures.encoded import read_bytes, read_file, read_path
from segfast.pictures.inputs import ImageLike as ImageLike
from segfast.pictures.inputs import not_an_image
from segfast.pictures.samples import SamplesWarning as SamplesWarning

# Callers may give one image or file to many threads, but Pillow reads either for one thread at a time.
_LOCKS = [threading.Lock() for _ in range(64)]


def _renew_locks() -> None:
    """In a forked child the threads that held the locks are gone, and cannot release them."""
    _LOCKS[:] = [threading.Lock() for _ in _LOCKS]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def read_image(image: ImageLike) -> Pixels:
    """RGB pixels [H, W, 3], uint8, of a path, PIL image, array, tensor, binary file or a file's bytes.

    Files and PIL images of any mode are converted (grey, palette, 16-bit, CMYK, …; docs/pictures.md says how
    more than 8 bits become 8), transparency is dropped as in the original code, an animation gives its first
    frame, a PIL image its current one. EXIF rotation is applied to files and to what `PIL.Image.open` returns,
    but not to images derived from those (by `convert`, `crop`, `rotate`, …), which are taken as they are.
    Arrays and tensors must be uint8 RGB [H, W, 3] already.

    Raises:
        BadImage: it cannot be read as a picture, is empty, or is a file of over 64 megapixels.
    """
    if isinstance(image, (str, os.PathLike)) or _is_path(image):
        return read_path(os.fsdecode(os.fspath(image)))
    if isinstance(image, Image.Image):
        with _lock_of(image):
            return decode(image, "the PIL image")
    if isinstance(image, memoryview) and image.ndim > 1:
        image = np.asarray(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return read_bytes(image)
    if is_array(image):
        return check_array(image)
    if hasattr(image, "read") and not hasattr(image, "encoding"):  # which text files have
        with _lock_of(image):
            return read_file(cast(IO[bytes], image))
    raise not_an_image(image)


def read_windows(windows: Array | Sequence[ImageLike], size: tuple[int, int]) -> list[Pixels]:
    """Windows of that size, each uint8 [H, W, 3], of an array or tensor [n, H, W, 3] or a list of images of any kind.

    Raises:
        BadImage: there are none, or their shape or dtype is another.
    """
    shape = ["n", *size, 3]
    if is_array(windows):
        return list(check_windows(windows, size))
    if not isinstance(windows, (list, tuple)):
        raise BadImage(f"windows must be a uint8 array {shape} or a list of images; got {type(windows).__name__}")
    found = [read_image(window) for window in windows]
    if not found:
        raise BadImage(f"windows must be uint8 {shape}; got an empty list; give at least one")
    for index, pixels in enumerate(found):
        if pixels.shape[:2] != size:
            H, W = pixels.shape[:2]
            raise BadImage(f"windows must be uint8 {shape}; window {index} of the list has {H}×{W} pixels; cut it anew")
    return found


def _is_path(image: object) -> TypeGuard[bytes]:
    """Whether these are the bytes of a path, not of a picture: none is so short and the name of a file."""
    return isinstance(image, bytes) and len(image) <= 4096 and os.path.exists(image)


def _lock_of(thing: object) -> threading.Lock:
    """The lock that whoever reads the same object waits for."""
    return _LOCKS[id(thing) // 64 % len(_LOCKS)]
