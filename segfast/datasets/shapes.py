"""A set that draws itself: bright shapes on striped, noisy ground.

Nothing is downloaded, and a small model learns it from scratch in minutes: made for tests, tutorials and
checking a training set-up.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.pairs import subset
from segfast.errors import BadOption

SIDE = 128
CLASSES = ("background", "disc", "square", "triangle", "cross")
# Each shape has a hue of its own, give or take; the palette shows it.
HUES = (0.0, 0.02, 0.15, 0.35, 0.62)
SPREAD = 0.04
NOISE = 0.05  # standard deviation of every channel, of 0 … 1
PALETTE = ((90, 90, 90), (220, 60, 50), (230, 200, 60), (70, 190, 80), (70, 110, 220))
COUNTS = MappingProxyType({"train": 2000, "val": 100})

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ShapesDataset(Dataset):
    """Pictures of 128×128 with one to three shapes each; a picture is a function of (seed, split, index).

    One pixel along every outline is ignored, as in Pascal VOC.

    Attributes:
        indices: which of the split's pictures are in.
    """

    indices: tuple[int, ...]
    seed: int = 0

    @classmethod
    def of(cls, split: str, fraction: float = 1.0, *, seed: int = 0) -> ShapesDataset:
        """A split, or a share of it.

        Raises:
            BadOption: there is no such split.
        """
        if split not in COUNTS:
            raise BadOption(f"shapes has no split {split!r}; there are {', '.join(COUNTS)}")
        return cls("shapes", split, CLASSES, PALETTE, subset(range(COUNTS[split]), fraction), seed)

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """The split and the number of the picture."""
        return f"{self.split}-{self.indices[index]:04}"

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [128, 128, 3]."""
        return self._draw(index)[0].copy()

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Labels, uint8 [128, 128]."""
        return self._draw(index)[1].copy()

    def take(self, indices: Iterable[int]) -> Self:
        """These pictures only."""
        return replace(self, indices=tuple(self.indices[index] for index in indices))

    def check(self, *, progress: bool = False) -> None:
        """Nothing can be wrong with what is drawn."""

    def _draw(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return draw(self.seed, tuple(COUNTS).index(self.split), self.indices[index])


@lru_cache(maxsize=8)
def draw(seed: int, split: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture [128, 128, 3] and its labels [128, 128], both uint8."""
    random = np.random.default_rng((seed, split, index))
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + np.float32(0.5)
    pixels = _ground(random, y, x)  # [128, 128, 3], 0 … 1
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(random.integers(1, 4)):
        label = int(random.integers(1, len(CLASSES)))
        outside = _distance(CLASSES[label], random, y, x)
        hue = HUES[label] + random.uniform(-SPREAD, SPREAD)
        cover = np.clip(0.5 - outside, 0, 1)[..., None]  # smooth across the outline
        pixels += (_colour(hue, random.uniform(0.65, 1), random.uniform(0.6, 1)) - pixels) * cover
        labels[outside < 0] = label
        labels[np.abs(outside) < 0.5] = IGNORE
    pixels += np.float32(NOISE) * random.standard_normal(pixels.shape, np.float32)
    return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8), labels


def _ground(random: np.random.Generator, y: Array, x: Array) -> Array:
    """Pale stripes, [128, 128, 3] in 0 … 1."""
    angle, length, phase = random.uniform(0, math.pi), random.uniform(6, 24), random.uniform(0, 2 * math.pi)
    step = 2 * math.pi / length
    wave = np.sin(x * (math.cos(angle) * step) + y * (math.sin(angle) * step) + phase)
    dark, light = (
        _colour(random.uniform(), random.uniform(0, 0.3), random.uniform(low, low + 0.3)) for low in (0.25, 0.55)
    )
    share = (wave[..., None] + np.float32(1)) / np.float32(2)
    return light + (dark - light) * share


def _distance(shape: str, random: np.random.Generator, y: Array, x: Array) -> Array:
    """Pixels to the outline of a shape at a random place, size and angle, negative inside, [128, 128]."""
    size = random.uniform(22, 38)
    top, left = random.uniform(size * 0.6, SIDE - size * 0.6), random.uniform(size * 0.6, SIDE - size * 0.6)
    angle = random.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    across, along = (x - left) * cos + (y - top) * sin, (y - top) * cos - (x - left) * sin
    if shape == "disc":
        return np.hypot(across, along) - np.float32(size)
    if shape == "square":
        return _box(across, along, size * 0.85, size * 0.85)
    if shape == "cross":
        return np.minimum(_box(across, along, size, size * 0.42), _box(across, along, size * 0.42, size))
    turns = (0, 2 * math.pi / 3, 4 * math.pi / 3)
    return np.maximum.reduce([across * math.cos(t) + along * math.sin(t) - size * 0.6 for t in turns])


def _box(across: Array, along: Array, width: float, height: float) -> Array:
    """Distance to a box of half-sides `width` and `height`, exact along its sides."""
    return np.maximum(np.abs(across) - width, np.abs(along) - height)


def _colour(hue: float, saturation: float, value: float) -> Array:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)
