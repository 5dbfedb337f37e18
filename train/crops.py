"""Crops that fit the pictures, where no size was asked for."""

from __future__ import annotations

from dataclasses import replace
from statistics import median_high

from segfast.config import whole_patches
from segfast.datasets.base import Dataset
from segfast.errors import BadData, BadImage
from segfast.train.fields import Recipe

# So many pictures, evenly spread, tell how large a set's are.
LOOKED_AT = 48
# Smaller crops than those of ImageNet would show an encoder less than it ever saw.
LEAST = 224


def fitted(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with crops that are no larger than the pictures of a training set, which would only be padded.

    Of a recipe with `fit_crop`, a patch in pixels, the crop becomes the median of the pictures' shorter sides in whole
    patches, if that is less; the stride keeps its share of the window.
    """
    if not recipe.fit_crop:
        return recipe
    crop = recipe.crop
    if sides := _shorter_sides(dataset) if recipe.image_size is None else [recipe.image_size]:
        side = max(LEAST, median_high(sides))
        crop = min(crop, whole_patches((side, side), recipe.fit_crop)[0])
    stride = recipe.stride and round(recipe.stride * crop / recipe.crop)
    return replace(recipe, crop=crop, stride=stride, fit_crop=0)


def _shorter_sides(dataset: Dataset) -> list[int]:
    """Of some pictures, in pixels; those that cannot be read are left to the check of the whole set."""
    sides = []
    count = min(LOOKED_AT, len(dataset))
    for place in range(count):
        try:
            sides.append(min(dataset.image(place * len(dataset) // count).shape[:2]))
        except (BadImage, BadData):
            continue
    return sides
