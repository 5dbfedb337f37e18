"""RGB ↔ HSV in 8 bits as OpenCV computes them, and MMSegmentation's photometric distortion on top.

Hue is in 0 … 179, saturation and value in 0 … 255. Every step of the distortion rounds to bytes, as in the original.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segfast.train.fields import Range, Recipe

Pixels = NDArray[np.uint8]

# OpenCV divides by tables of fixed-point reciprocals with 12 fractional bits.
_SHIFT = 12
_DIVISORS = np.maximum(np.arange(256), 1)
_BY_VALUE = np.where(np.arange(256) > 0, np.rint((255 << _SHIFT) / _DIVISORS), 0).astype(np.int32)
_BY_RANGE = np.where(np.arange(256) > 0, np.rint((180 << _SHIFT) / (6.0 * _DIVISORS)), 0).astype(np.int32)
# Which of (v, p, q, t) are red, green and blue in each sixth of the circle.
_SECTORS = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])


def distort(image: Pixels, recipe: Recipe, random: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation, hue, each with probability one half; contrast second or last.

    MMSegmentation's PhotoMetricDistortion, with its order of draws; the hue's upper end is excluded.

    Args:
        image: RGB [H, W, 3].
    """
    if random.integers(2) and recipe.brightness:
        image = _affine(image, 1.0, random.uniform(-recipe.brightness, recipe.brightness))
    contrast_first = random.integers(2) == 1
    if contrast_first:
        image = _contrast(image, recipe.contrast, random)
    if random.integers(2):
        hsv = rgb_to_hsv(image)
        hsv[..., 1] = _affine(hsv[..., 1], random.uniform(*recipe.saturation), 0.0)
        image = hsv_to_rgb(hsv)
    if random.integers(2) and recipe.hue:
        hsv = rgb_to_hsv(image)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + random.integers(-recipe.hue, recipe.hue)) % 180
        image = hsv_to_rgb(hsv)
    return image if contrast_first else _contrast(image, recipe.contrast, random)


def rgb_to_hsv(image: Pixels) -> Pixels:
    """HSV [H, W, 3] of RGB [H, W, 3], OpenCV's COLOR_RGB2HSV to the bit."""
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    hue = np.where(
        value == red, green - blue, np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    half = 1 << (_SHIFT - 1)
    hue = (hue * _BY_RANGE[spread] + half) >> _SHIFT
    saturation = (spread * _BY_VALUE[value] + half) >> _SHIFT
    return np.stack([hue + 180 * (hue < 0), saturation, value], -1).astype(np.uint8)


def hsv_to_rgb(image: Pixels) -> Pixels:
    """RGB [H, W, 3] of HSV [H, W, 3], OpenCV's COLOR_HSV2RGB as its vector code computes it: truncated to bytes."""
    turns = image[..., 0].astype(np.float32) * np.float32(6 / 180)  # 0 … 6, in sixths of the circle
    sector = np.minimum(turns.astype(np.intp), 5)
    part = turns - sector.astype(np.float32)
    saturation = image[..., 1].astype(np.float32) * np.float32(1 / 255)
    value = image[..., 2].astype(np.float32) * np.float32(1 / 255)
    levels = np.stack(
        [value, value * (1 - saturation), value * (1 - saturation * part), value * (1 - saturation * (1 - part))], -1
    )  # [H, W, 4]: v, p, q, t
    rgb = np.take_along_axis(levels, _SECTORS[sector], -1)
    return (rgb * np.float32(255)).astype(np.uint8)


def _contrast(image: Pixels, factors: Range, random: np.random.Generator) -> Pixels:
    return _affine(image, random.uniform(*factors), 0.0) if random.integers(2) else image


def _affine(image: Pixels, factor: float, offset: float) -> Pixels:
    """factor · image + offset, cut to 0 … 255 and truncated: a table of 256 values."""
    table = (np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)).clip(0, 255).astype(np.uint8)
    return table[image]
