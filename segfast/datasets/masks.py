"""Masks: pictures whose values stand for classes."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfast.datasets.base import IGNORE
from segfast.errors import BadData
from segfast.pictures import png
from segfast.pictures.decoding import MAX_PIXELS

# Cityscapes' labelIds of its 19 classes, in the order of their trainIds (cityscapesScripts, helpers/labels.py).
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_LAST_ID = 33

_INDEX = np.arange(256, dtype=np.uint8)


def _one_based() -> NDArray[np.uint8]:
    """ADE20K: 0 is ignored, every other value one too high."""
    table = np.maximum(_INDEX, 1) - 1
    table[[0, 255]] = IGNORE
    return table.astype(np.uint8)


def _cityscapes() -> NDArray[np.uint8]:
    """Cityscapes' labelIds: 19 of them are evaluated, the others are ignored."""
    table = _INDEX.copy()  # what is no labelId stays out of range
    table[: _CITYSCAPES_LAST_ID + 1] = IGNORE
    table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    return table


# Value in the file → label. Values that stand for nothing stay outside the classes, where checks find them.
TABLES = MappingProxyType({"index": _INDEX, "one-based": _one_based(), "cityscapes-ids": _cityscapes()})

# Lossless formats that masks are read from, by suffix; those of files that change values, with what to do.
SUFFIXES = frozenset((".png", ".tif", ".tiff", ".bmp", ".gif"))
LOSSY = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".webp"))
_FORMATS = ("PNG", "TIFF", "BMP", "GIF")


class Raw(NamedTuple):
    """What a mask's file holds.

    Attributes:
        values: [H, W], uint8 or uint16: values, or indices into the palette; or colours, uint8 [H, W, 3].
        palette: uint8 [n, 3] where there is one.
    """

    values: NDArray[np.uint8] | NDArray[np.uint16]
    palette: NDArray[np.uint8] | None = None


def read_raw(path: Path) -> Raw:
    """What a mask's file holds, whatever it stands for.

    Raises:
        BadData: it is missing or damaged, of a format that changes values, or has values over 65535.
    """
    if path.suffix.lower() in LOSSY:
        raise BadData(
            f"{path} is no mask: {path.suffix} changes the values of pixels; save it as PNG from where it comes from"
        )
    try:
        values, raw, palette = _read(path, path)
    except FileNotFoundError:
        raise BadData(f"there is no mask {path}; add it") from None
    except BadData:
        raise
    except Exception as error:  # decoders raise nearly anything
        values, raw, palette = _read_without_extras(path, error)
    if raw in ("L;2", "L;4"):  # Pillow spreads grey of few bits over 0 … 255
        values = values // (85 if raw == "L;2" else 17)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.dtype != np.uint8:
        values = _whole(values, path)
    return Raw(values, palette)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The values of a mask without colours, uint8 [H, W], as they are in the file.

    Raises:
        BadData: as `read_raw`; or it is in colour, or has values over 255.
    """
    values = read_raw(path).values
    if values.ndim == 3:
        if not (values == values[..., :1]).all():
            raise BadData(f"{path} is in colour, where a class index is wanted; save it as grey or palette PNG")
        values = values[..., 0]
    if values.size and values.max() > 255:
        raise BadData(f"{path} has the value {values.max()}; a class index, or {IGNORE} for none, is at most 255")
    return values.astype(np.uint8, copy=False)


def _whole(values: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    """Numbers of 16 bits or more, as uint16; −1, another word for none, as 65535."""
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise BadData(f"{path} has values that are no whole numbers; save its class indices")
    values = np.where(values == -1, 65535, values)
    if values.size and (values.min() < 0 or values.max() > 65535):
        odd = values.min() if values.min() < 0 else values.max()
        raise BadData(f"{path} has the value {odd:.0f}; values go from 0 to 65535")
    return values.astype(np.uint16)


def _read(source: Path | IO[bytes], path: Path) -> tuple[NDArray[Any], object, NDArray[np.uint8] | None]:
    """The values of a mask, Pillow's name for how they lie in the file, and its palette."""
    with Image.open(source, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadData(f"{path} has over {MAX_PIXELS >> 20} megapixels; cut it and its picture")
        raw = image.tile[0][3] if image.tile else ""
        raw = raw[0] if isinstance(raw, tuple) else raw
        if image.mode == "P":
            values = np.asarray(image)
            table = image.getpalette("RGB") or []
            return values, raw, np.array(table, np.uint8).reshape(-1, 3)
        if image.mode in ("LA", "La", "PA"):
            return np.asarray(image)[..., 0], raw, None
        if image.mode in ("RGB", "RGBA", "RGBX"):
            return np.asarray(image)[..., :3], raw, None
        if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
            return np.asarray(image), raw, None
        raise BadData(f"{path} is {image.mode}, which holds no classes; save it as grey, palette or RGB PNG")


def _read_without_extras(path: Path, error: Exception) -> tuple[NDArray[Any], object, NDArray[np.uint8] | None]:
    """The same where Pillow fails over what lies beside the pixels, such as a large profile."""
    with suppress(Exception):
        for stripped in png.without_extras(path.read_bytes()):
            with suppress(SyntaxError, ValueError, OSError):
                return _read(io.BytesIO(stripped), path)
    kind = path.suffix[1:].upper() or "a picture"
    raise BadData(
        f"{path} cannot be read as {kind} ({error or type(error).__name__}); copy or convert it again"
    ) from None
