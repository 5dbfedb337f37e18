"""What to say of things that are given for an image, or for many, and are none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from segfast.errors import BadImage, BadOption
from segfast.pictures.arrays import is_array

_WANTED = "pass a path, a PIL image or a uint8 array [H, W, 3]"


def no_image(thing: Any) -> BadImage:
    """The error for what is neither a path, nor a picture, nor an array."""
    if thing is None:
        return BadImage(f"None is no image (OpenCV gives it for a file that it cannot read); {_WANTED}")
    kind = type(thing).__name__
    if isinstance(thing, Mapping):
        return BadImage(f"{kind} is no image; {_WANTED}: one of its values, perhaps")
    if isinstance(thing, (list, tuple)):
        remedy = "lists of pixels become one with np.array(image, np.uint8), and many pictures are for segment_many"
        return BadImage(f"{kind} is no image; {_WANTED}; {remedy}")
    if hasattr(thing, "read"):
        return BadImage(f"{kind} is a file of text, no image; open it in binary: open(path, 'rb')")
    return BadImage(f"{kind} is no image; {_WANTED}, or a file that is open in binary, or its content as bytes")


def no_file(path: str) -> BadImage:
    """The error for a path that leads nowhere."""
    if path.startswith("data:"):
        return BadImage("a data URL is no path; pass the picture in it: base64.b64decode(url.partition(',')[2])")
    if "://" in path:
        return BadImage(
            f"{shorten(path)} is an address, no path; download it, and pass the file or its content as bytes"
        )
    if path.startswith("~"):
        return BadImage(f"there is no file {shorten(path)}; ~ is the shell's: pass os.path.expanduser of it")
    if any(sign in path for sign in "*?["):
        return BadImage(
            f"there is no file {shorten(path)}; if it is a pattern, pass every path that glob.glob gives for it"
        )
    return BadImage(f"there is no file {shorten(path)}; check the path")


def shorten(path: str) -> str:
    """A path for a message: what is no path, such as a picture in base64, may be long."""
    return path if len(path) <= 300 else f"{path[:100]} … (of {len(path)} characters)"


def check_many(images: Any) -> Iterable[Any]:
    """Itself, if it may be iterated over for images.

    Raises:
        BadOption: it is one image, or none at all.
    """
    one = _one(images)
    if one is None and not isinstance(images, Iterable) and not hasattr(images, "__getitem__"):
        one = f"{type(images).__name__} is no list of images; pass a list, or anything that gives one after the other"
    if one is not None:
        raise BadOption(f"segment_many takes many images: {one}")
    several: Iterable[Any] = images
    return several


def _one(images: Any) -> str | None:
    """What is wrong with one image for many, in words; none if it is not one."""
    if isinstance(images, (str, os.PathLike)):
        path = os.fsdecode(os.fspath(images))
        if any(sign in path for sign in "*?["):
            return f"pass the paths that the pattern stands for: sorted(glob.glob({shorten(path)!r}))"
        if Path(path[:4096].replace("\0", "")).is_dir():
            return f"{path} is a folder; pass a list of the pictures in it: sorted(Path({path!r}).glob('*.jpg'))"
        return f"{shorten(path)!r} is one path; pass a list of them: [{shorten(path)!r}]"
    if isinstance(images, Mapping):
        return f"{type(images).__name__} would give its keys; pass a list of its values: list(images.values())"
    kind = type(images).__name__
    if isinstance(images, (Image.Image, bytes, bytearray, memoryview)) or hasattr(images, "read"):
        return f"{kind} is one; pass a list: [image]"
    if is_array(images) and len(images.shape) != 4 and not _holds_names(images.dtype):
        return f"{kind} {list(images.shape)} is one; pass a list: [image], or a batch [n, H, W, 3]"
    return None


def _holds_names(dtype: Any) -> bool:
    return any(word in str(getattr(dtype, "name", dtype)) for word in ("object", "str"))
