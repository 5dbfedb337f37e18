"""Masks: pictures whose values stand for classes."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO

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


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The values of a grey or palette PNG, uint8 [H, W], as they are in the file.

    Raises:
        BadData: it is missing, damaged, in colour, or has values over 255.
    """
    try:
        values, raw = _read(path, path)
    except FileNotFoundError:
        raise BadData(f"there is no mask {path}; add it") from None
    except BadData:
        raise
    except Exception as error:  # decoders raise nearly anything
        values, raw = _read_without_extras(path, error)
    if raw in ("L;2", "L;4"):  # Pillow spreads grey of few bits over 0 … 255
        values = values // (85 if raw == "L;2" else 17)
    if values.dtype != np.uint8 and values.max() > 255:
        raise BadData(f"{path} has the value {values.max()}; a class index, or {IGNORE} for none, is at most 255")
    return values.astype(np.uint8, copy=False)


def _read(source: Path | IO[bytes], path: Path) -> tuple[NDArray[np.integer], object]:
    """The values of a mask, and Pillow's name for how they lie in the file."""
    with Image.open(source, formats=("PNG",)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadData(f"{path} has over {MAX_PIXELS >> 20} megapixels; cut it and its picture")
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise BadData(
                f"{path} is in colour ({image.mode}), where a class index is wanted; save it as grey or palette PNG"
            )
        raw = image.tile[0][3] if image.tile else ""
        return np.asarray(image), raw


def _read_without_extras(path: Path, error: Exception) -> tuple[NDArray[np.integer], object]:
    """The same where Pillow fails over what lies beside the pixels, such as a large profile."""
    with suppress(Exception):
        for stripped in png.without_extras(path.read_bytes()):
            with suppress(SyntaxError, ValueError, OSError):
                return _read(io.BytesIO(stripped), path)
    raise BadData(f"{path} cannot be read as PNG ({error or type(error).__name__}); copy or convert it again") from None
