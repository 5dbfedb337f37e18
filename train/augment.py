"""The original's augmentation, in its order, as a function of (seed, epoch, index).

Resize, crop, flip, photometric distortion; padding (`data.Collate`) and normalising on the training device
(`data.normalise`) follow. Only the pixels that the crop keeps are resized, which gives the same bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfast.datasets.base import IGNORE
from segfast.protocol import Size
from segfast.train.colour import distort
from segfast.train.fields import Recipe

Pixels = NDArray[np.uint8]
# The corners of a picture that was turned: ImageNet's mean.
FILL = (124, 116, 104)
# How often a crop is drawn again (MMSegmentation's RandomCrop).
REDRAWS = 10
# Weights of the bilinear resizing are whole numbers, parts of this.
ONE = 2048


def generator(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of (seed, epoch, index), or of another key: the same on every machine, rank and worker."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def augment(image: Pixels, labels: Pixels, recipe: Recipe, random: np.random.Generator) -> tuple[Pixels, Pixels]:
    """One training crop of an image [H, W, 3] and its labels [H, W], at most crop × crop."""
    size = resized(image.shape[:2], recipe, random.random())
    top, left = choose_crop(labels, size, recipe, random)
    rows, columns = (slice(start, start + recipe.crop) for start in (top, left))
    image, labels = resize_image(image, size, rows, columns), resize_labels(labels, size, rows, columns)
    if random.random() < recipe.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image, labels = turned(image, labels, recipe, random)
    return distort(image, recipe, random), labels


def turned(image: Pixels, labels: Pixels, recipe: Recipe, random: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Upside down, by quarters of a circle, by any angle: what a recipe asks for, of none of which the paper's does.

    Nothing is drawn for what is not asked for.
    """
    if recipe.vertical_flip and random.random() < recipe.vertical_flip:
        image, labels = image[::-1], labels[::-1]
    if recipe.quarter_turns and random.random() < recipe.quarter_turns:
        quarters = int(random.integers(1, 4))
        image, labels = np.rot90(image, quarters), np.rot90(labels, quarters)
    if recipe.rotate:
        angle = random.uniform(-recipe.rotate, recipe.rotate)
        image = np.asarray(
            Image.fromarray(np.ascontiguousarray(image)).rotate(angle, Image.Resampling.BILINEAR, fillcolor=FILL)
        )
        labels = np.asarray(
            Image.fromarray(np.ascontiguousarray(labels)).rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORE)
        )
    return image, labels


def resized(size: Size, recipe: Recipe, draw: float) -> Size:
    """The size an image is resized to for a draw from 0 … 1.

    Its sides fit into (max_ratio · im, im) times a factor within `ratio`; without im, into its own times the factor.
    mmcv's rescale_size: the bounds are truncated to whole pixels, the sides are rounded.
    """
    least, most = recipe.ratio
    factor = least + (most - least) * draw
    long, short = (max(1, int(side * factor)) for side in recipe.fit or (max(size), min(size)))
    scale = min(long / max(size), short / min(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def choose_crop(labels: Pixels, size: Size, recipe: Recipe, random: np.random.Generator) -> Size:
    """The crop's corner (top, left) in an image of `size`; one with a single or a dominant class is drawn again."""
    margins = [max(side - recipe.crop, 0) + 1 for side in size]
    top, left = (int(random.integers(margin)) for margin in margins)
    for _ in range(REDRAWS if recipe.cat_max_ratio < 1 else 0):
        rows, columns = (slice(start, start + recipe.crop) for start in (top, left))
        if balanced(resize_labels(labels, size, rows, columns), recipe.cat_max_ratio):
            break
        top, left = (int(random.integers(margin)) for margin in margins)
    return top, left


def balanced(labels: Pixels, most: float) -> bool:
    """Whether a crop holds two classes or more, none of them on a share of `most` of its labelled pixels."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < most)


def resize_labels(labels: Pixels, size: Size, rows: slice, columns: slice) -> Pixels:
    """A part of the labels [H, W] resized to `size`, nearest neighbour as in OpenCV."""
    (H, W), (h, w) = labels.shape, size
    take = [
        np.minimum((np.arange(n)[part] * (N / n)).astype(np.intp), N - 1)
        for N, n, part in ((H, h, rows), (W, w, columns))
    ]
    return labels[take[0][:, None], take[1]]


def resize_image(image: Pixels, size: Size, rows: slice, columns: slice) -> Pixels:
    """A part of the image [H, W, 3] resized to `size`, bilinear, half-pixel centres, without antialiasing.

    The fixed-point arithmetic of OpenCV: weights of 11 bits, of which the columns' products lose 4 and the rows' 16.
    """
    (H, W), (h, w) = image.shape[:2], size
    if size == (H, W):
        return image[rows, columns]
    (above, below, down), (left, right, across) = _taps(H, h, rows), _taps(W, w, columns)
    first, last = above[0], below[-1] + 1
    band = image[first:last].astype(np.int32)  # the source rows that the part needs
    mixed = (band[:, left] * (ONE - across)[:, None] + band[:, right] * across[:, None]) >> 4  # [·, w', 3]
    down = down[:, None, None]
    upper, lower = ((ONE - down) * mixed[above - first]) >> 16, (down * mixed[below - first]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _taps(length: int, target: int, part: slice) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32]]:
    """For each kept position its two source positions, and the weight of the second in parts of ONE."""
    centres = ((np.arange(target)[part] + 0.5) * (length / target) - 0.5).astype(np.float32)
    near = np.floor(centres).astype(np.intp)
    weights = np.rint((centres - near) * ONE).astype(np.int32)
    return near.clip(0, length - 1), (near + 1).clip(0, length - 1), weights
