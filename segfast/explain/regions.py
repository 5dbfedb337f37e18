"""Connected regions of a prediction, and the patches in their middle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segfast.dependencies.imports import need
from segfast.explain.view import Patch

# A small region has at least so many patches, where there is one: single patches are often mistakes.
SMALLEST = 4


class Region(NamedTuple):
    """A connected region of one class: its size in patches, its class, and the patch in its middle."""

    area: int
    label: int
    middle: Patch


def regions_of(labels: NDArray[np.integer]) -> list[Region]:
    """The connected regions of labels [h, w], the largest first; neighbours share an edge.

    Raises:
        MissingRuntime: SciPy is not installed.
    """
    need("train", "scipy")
    from scipy import ndimage

    found = []
    for label in np.unique(labels).tolist():
        numbered, _ = ndimage.label(labels == label)
        for number, around in enumerate(ndimage.find_objects(numbered), 1):
            inside = numbered[around] == number
            # The patch farthest from all others' is inside the region whatever its shape.
            depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            middle = int(row) + around[0].start, int(column) + around[1].start
            found.append(Region(int(inside.sum()), label, middle))
    return sorted(found, key=lambda region: (-region.area, region.middle))


def large_and_small(labels: NDArray[np.integer]) -> tuple[Patch, ...]:
    """The middles of the largest region and of a small one of another class, if there is one."""
    regions = regions_of(labels)
    others = [region for region in regions if region.label != regions[0].label]
    small = [region for region in others if region.area >= SMALLEST] or others
    return (regions[0].middle, *(region.middle for region in small[-1:]))
