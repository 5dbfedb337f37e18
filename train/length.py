"""How long a run is: iterations, of epochs or of the size of the training set."""

from __future__ import annotations

import math
from dataclasses import replace

from segfast.train.fields import Recipe
from segfast.train.state import Progress

EVALUATIONS = 10


def settled(recipe: Recipe, size: int, progress: Progress | None = None) -> Recipe:
    """The recipe with its iterations and evaluations in figures, for a training set of `size` samples.

    `iterations` 0 is `epochs`; without epochs it is what the recipe's `automatic` says.

    Args:
        progress: of a run that goes on, maybe with another batch: epochs count the pictures it has seen.
    """
    iterations = recipe.iterations
    if not iterations:
        done, seen = (progress.iteration, progress.seen or 0) if progress else (0, 0)
        passes, least, most = recipe.automatic
        left = (passes if recipe.epochs is None else recipe.epochs) * size - seen
        iterations = max(1, done + math.ceil(left / recipe.batch))
        if recipe.epochs is None:
            iterations = min(most, max(least, iterations))
    every = recipe.evaluate_every
    if every is None:
        every = max(1, math.ceil(iterations / EVALUATIONS))
    return replace(recipe, iterations=iterations, epochs=None, evaluate_every=every)


def length(recipe: Recipe, size: int) -> str:
    """The length of a settled recipe, in words."""
    epochs = recipe.iterations * recipe.batch / size
    return f"{recipe.iterations} iterations of {recipe.batch} pictures, {epochs:.3g} epochs of {size}"
