"""A set that draws itself: bright shapes on striped, noisy ground.

Nothing is downloaded, and a small model learns it from scratch in minutes: made for tests, tutorials and
checking a training set-up.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.pairs import subset
from segfast.errors import BadOption

SIDE = 96
CLASSES = ("background", "disc", "square", "triangle", "cross")
# Each shape has a hue of its own, give or take; the palette shows it.
HUES = (0.0, 0.02, 0.15, 0.35, 0.62)
SPREAD = 0.04
PALETTE = ((90, 90, 90), (220, 60, 50), (230, 200, 60), (70, 190, 80), (70, 110, 220))
COUNTS = MappingProxyType({"train": 2000, "val": 100})

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ShapesDataset(Dataset):
    """Pictures of 96×96 with 2 to 4 shapes each; a picture is a function of (seed, split, index).

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
        """RGB pixels, uint8 [96, 96, 3]."""
        return self._draw(index)[0].copy()

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Labels, uint8 [96, 96]."""
        return self._draw(index)[1].copy()

    def check(self, *, progress: bool = False) -> None:
        """Nothing can be wrong with what is drawn."""

    def _draw(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return draw(self.seed, tuple(COUNTS).index(self.split), self.indices[index])


@lru_cache(maxsize=8)
def draw(seed: int, split: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture [96, 96, 3] and its labels [96, 96], both uint8."""
    random = np.random.default_rng((seed, split, index))
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + np.float32(0.5)
    pixels = _ground(random, y, x)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(random.integers(2, 5)):
        label = int(random.integers(1, len(CLASSES)))
        inside = _distance(CLASSES[label], random, y, x)                # pixels to the outline, negative inside
        hue = HUES[label] + random.uniform(-SPREAD, SPREAD)
        colour = np.float32(colorsys.hsv_to_rgb(hue % 1, random.uniform(0.65, 1), random.uniform(0.6, 1)))
        cover = np.clip(0.5 - inside, 0, 1)[..., None]                  # smooth at the outline
        pixels = pixels * (1 - cover) + colour * cover
        labels[inside < 0] = label
        labels[np.abs(inside) < 0.5] = IGNORE
    pixels += random.normal(0, 0.05, pixels.shape).astype(np.float32)
    return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8), labels


def _ground(random: np.random.Generator, y: Array, x: Array) -> Array:
    """Pale stripes, [96, 96, 3] in 0 … 1."""
    angle, length, phase = random.uniform(0, np.pi), random.uniform(6, 24), random.uniform(0, 2 * np.pi)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / length) + phase)
    dark, light = (
        np.float32(colorsys.hsv_to_rgb(random.uniform(), random.uniform(0, 0.3), random.uniform(low, low + 0.3)))
        for low in (0.25, 0.55)
    )
    share = (wave[..., None] + 1) / 2
    return (dark * share + light * (1 - share)).astype(np.float32)


def _distance(shape: str, random: np.random.Generator, y: Array, x: Array) -> Array:
    """Signed distance of every pixel to the outline of a shape at a random place, size and angle, [96, 96]."""
    size = random.uniform(13, 24)
    top, left = random.uniform(size * 0.6, SIDE - size * 0.6, 2)
    angle = random.uniform(0, 2 * np.pi)
    across = (x - left) * np.cos(angle) + (y - top) * np.sin(angle)
    along = (y - top) * np.cos(angle) - (x - left) * np.sin(angle)
    if shape == "disc":
        return np.asarray(np.hypot(across, along) - size, np.float32)
    if shape == "square":
        return _box(across, along, size * 0.85, size * 0.85)
    if shape == "cross":
        return np.minimum(_box(across, along, size, size * 0.42), _box(across, along, size * 0.42, size))
    sides = [across * np.cos(turn) + along * np.sin(turn) - size * 0.6 for turn in np.arange(3) * (2 * np.pi / 3)]
    return np.asarray(np.maximum.reduce(sides), np.float32)


def _box(across: Array, along: Array, width: float, height: float) -> Array:
    """Distance to a box of half-sides `width` and `height`, exact along its sides."""
    return np.asarray(np.maximum(np.abs(across) - width, np.abs(along) - height), np.float32)
