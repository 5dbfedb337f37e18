"""Colours that readers who see few colours tell apart as well."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from segfast.classes import Palette
from segfast.errors import BadOption

# Okabe and Ito, "Color Universal Design" (2008), without its black.
OKABE_ITO: Palette = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
)  # fmt: skip
# Linear RGB as people without cones for long and for medium wavelengths see it: Machado, Oliveira and Fernandes,
# "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), severity 1.
PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
# Linear sRGB → XYZ, relative to the white point D65.
_XYZ = np.array(
    ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
)
_WHITE = _XYZ.sum(1)
_STEPS = 12  # candidates along each channel


@lru_cache(maxsize=8)
def safe_palette(count: int) -> Palette:
    """K colours, of which those that come first are the easiest to tell apart.

    First Okabe and Ito's; each further one is as far as can be from all before it for whichever of normal,
    protanopic and deuteranopic eyes has it hardest.

    Raises:
        BadOption: not from 1 to 256 colours are asked for.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 256:
        raise BadOption(f"a palette has from 1 to 256 colours; got {count!r}")
    candidates = np.stack(np.meshgrid(*[np.linspace(0, 255, _STEPS).round()] * 3, indexing="ij"), -1).reshape(-1, 3)
    chosen, seen = list(OKABE_ITO[:count]), _as_seen(candidates)
    taken = _as_seen(np.array([*chosen, (255, 255, 255), (0, 0, 0)], np.float64))  # paper and what is ignored are taken
    nearest = np.min([difference(seen, taken[:, one : one + 1]) for one in range(taken.shape[1])], 0)
    while len(chosen) < count:
        best = int(nearest.argmax())
        r, g, b = (int(value) for value in candidates[best])
        chosen.append((r, g, b))
        nearest = np.minimum(nearest, difference(seen, seen[:, best : best + 1]))
    return tuple(chosen)


def difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The difference of colours in CIELAB for the eyes that tell them apart worst, of [3 eyes, n, 3]: [n]."""
    return np.linalg.norm(one - other, axis=-1).min(0)


def _as_seen(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB colours 0 … 255, [n, 3], in CIELAB to normal, protanopic and deuteranopic eyes: [3, n, 3]."""
    unit = colours / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    eyes = np.stack([linear, linear @ np.array(PROTANOPIA).T, linear @ np.array(DEUTERANOPIA).T])
    scaled = np.clip(eyes, 0, 1) @ _XYZ.T / _WHITE
    f = np.where(scaled > (6 / 29) ** 3, np.cbrt(scaled), scaled * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def apply(palette: Palette, order: list[int]) -> Palette:
    """A safe palette for as many classes as `palette` has, its first colours for the classes that come first in `order`.

    Classes that `order` leaves out keep the colours that are left. Beyond 256 classes colours repeat.
    """
    K = len(palette)
    colours = safe_palette(min(K, 256))
    ranked = [*order, *(label for label in range(K) if label not in set(order))]
    placed = {label: colours[place % len(colours)] for place, label in enumerate(ranked)}
    return tuple(placed[label] for label in range(K))
