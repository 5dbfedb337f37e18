"""Regions of COCO's JSON: polygons and run lengths, drawn by pycocotools."""

from __future__ import annotations

import math
import threading
import warnings
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segfast.dependencies.imports import load
from segfast.errors import BadData

# Filters of warnings are of all threads: one at a time changes them.
_QUIET = threading.Lock()


class Region(NamedTuple):
    """A labelled part of a picture: polygons [[x, y, x, y, …], …], or run lengths as COCO writes them."""

    label: int
    shape: Any


def inside(shape: Any, size: tuple[int, int], name: str) -> NDArray[np.bool_]:
    """Whether pixels are inside a region, bool [H, W].

    Raises:
        BadData: it cannot be drawn; `name` is the picture's.
    """
    H, W = size
    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' arrays know no `copy` of NumPy 2
            drawn = _pycocotools().decode(_runs(shape, size))
        if drawn.shape != (H, W):
            raise ValueError(f"it is of {drawn.shape[0]}×{drawn.shape[1]} pixels")
    except Exception as error:  # a compiled library, on anything that a file may hold
        raise BadData(f"{name} has a region that cannot be drawn ({error}); draw it again") from None
    return drawn.astype(bool)


def area(said: object, shape: Any, size: tuple[int, int]) -> float:
    """Pixels of a region: what the file says, or as many as it covers where that says none; 0 if it cannot be drawn."""
    if isinstance(said, (int, float)) and math.isfinite(said) and said > 0:
        return float(said)
    try:
        return float(_pycocotools().area(_runs(shape, size)))
    except Exception:  # as above; the check of the data has the words for it
        return 0.0


def _runs(shape: Any, size: tuple[int, int]) -> Any:
    """A region as compressed run lengths; its polygons as one."""
    if not isinstance(shape, list) and not isinstance(shape["counts"], list):
        return shape
    runs = _pycocotools().frPyObjects(shape, *size)
    return _pycocotools().merge(runs) if isinstance(runs, list) else runs


def _pycocotools() -> ModuleType:
    return load("pycocotools.mask", "pycocotools", "pycocotools")
