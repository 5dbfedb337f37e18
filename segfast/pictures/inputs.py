"""What callers pass for an image, or for many, and the errors that say what to pass instead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from PIL import Image

from segfast.errors import BadImage, BadOption
from segfast.pictures.arrays import Array, is_array

# A path, a PIL image, an array or tensor (uint8 RGB [H, W, 3]), a file open in binary, or a file's bytes.
ImageLike = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | Array | IO[bytes]

_WANTED = "pass a path, a PIL image or a uint8 array [H, W, 3]"


def not_an_image(thing: object) -> BadImage:
    """The error for what is neither a path, nor a picture, nor an array."""
    if thing is None:
        return BadImage(f"None is not an image (OpenCV gives it for a file that it cannot read); {_WANTED}")
    kind = type(thing).__name__
    if isinstance(thing, Mapping):
        return BadImage(f"{kind} is not an image; {_WANTED}: one of its values, perhaps")
    if isinstance(thing, (list, tuple)):
        remedy = (
            "a list of pixels becomes an array with np.array(image, np.uint8); several pictures are for segment_many"
        )
        return BadImage(f"{kind} is not an image; {_WANTED}; {remedy}")
    if hasattr(thing, "read"):
        return BadImage(f"{kind} is a text file, not an image; open it in binary: open(path, 'rb')")
    return BadImage(f"{kind} is not an image; {_WANTED}, or a file that is open in binary, or its content as bytes")


def missing_file(path: str) -> BadImage:
    """The error for a path that leads nowhere."""
    if path.startswith("data:"):
        return BadImage("a data URL is not a path; pass the picture in it: base64.b64decode(url.partition(',')[2])")
    shown = shorten(path)
    if "://" in path:
        return BadImage(f"{shown} is an address, not a path; download it, and pass the file or its content as bytes")
    if path.startswith("~"):
        remedy = "~ is expanded by shells only: pass os.path.expanduser of it"
    elif _is_pattern(path):
        remedy = "if it is a pattern, pass every path that glob.glob gives for it"
    else:
        remedy = "check the path"
    return BadImage(f"there is no file {shown}; {remedy}")


def shorten(path: str) -> str:
    """A path for a message: what was meant as content, such as a picture in base64, may be long."""
    return path if len(path) <= 300 else f"{path[:100]} … (of {len(path)} characters)"


def check_many(images: object) -> Iterable[ImageLike]:
    """The same object, if it can be iterated over for images.

    Raises:
        BadOption: it is a single image, or no iterable.
    """
    wrong = _single(images)
    if wrong:
        raise BadOption(f"segment_many takes many images: {wrong}")
    if not isinstance(images, Iterable) and not hasattr(images, "__getitem__"):
        kind = type(images).__name__
        raise BadOption(
            f"segment_many takes many images: {kind} is no list of images; pass a list, or anything else to iterate over"
        )
    return images  # type: ignore[return-value]  # its items are checked one by one


def _single(images: object) -> str:
    """Why one image cannot be passed for many, and the remedy; empty if it is not a single image."""
    if isinstance(images, (str, os.PathLike)):
        path = os.fsdecode(os.fspath(images))
        if _is_pattern(path):
            return f"pass the paths that the pattern stands for: sorted(glob.glob({shorten(path)!r}))"
        if Path(path[:4096].replace("\0", "")).is_dir():
            return f"{path} is a folder; pass a list of the pictures in it: sorted(Path({path!r}).glob('*.jpg'))"
        return f"{shorten(path)!r} is one path; pass a list of them: [{shorten(path)!r}]"
    kind = type(images).__name__
    if isinstance(images, Mapping):
        return f"{kind} would give its keys; pass a list of its values: list(images.values())"
    if isinstance(images, (Image.Image, bytes, bytearray, memoryview)) or hasattr(images, "read"):
        return f"{kind} is one; pass a list: [image]"
    if is_array(images) and len(images.shape) != 4 and not _holds_names(images):
        return f"{kind} {list(images.shape)} is one; pass a list: [image], or a batch [n, H, W, 3]"
    return ""


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _holds_names(array: Array) -> bool:
    return any(word in str(getattr(array.dtype, "name", array.dtype)) for word in ("object", "str"))
