"""Weights of the classes in the loss: as given, or by how often their pixels occur."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segfast.datasets.base import Dataset
from segfast.errors import BadOption
from segfast.progress import bar
from segfast.train.fields import Recipe, weights_of
from segfast.train.world import World

_THREADS = 8


def class_weights(recipe: Recipe, dataset: Dataset, world: World) -> Tensor | None:
    """The weight of every class, float32 [K]; None where all count alike.

    Raises:
        BadOption: they are not as many as the classes.
        BadData: a mask cannot be read.
    """
    K = len(dataset.classes)
    if recipe.class_weights is None:
        return None
    if recipe.class_weights == "inverse":
        weights = world.share(inverse(count(dataset)).tolist() if world.first else None)
        return torch.tensor(weights, dtype=torch.float32)
    given = weights_of(recipe.class_weights)
    if len(given) != K:
        raise BadOption(
            f"--class-weights has {len(given)} numbers, but there are {K} classes: {', '.join(dataset.classes)}"
        )
    return torch.tensor(given, dtype=torch.float32)


def inverse(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 / (classes that occur · share of the pixels), whose mean over the pixels is 1; 1 for what never occurs."""
    present = counts > 0
    shares = counts[present] / max(1, counts.sum())
    weights = np.ones(len(counts))
    weights[present] = 1 / (len(shares) * shares) if len(shares) else 1
    return weights


def count(dataset: Dataset) -> NDArray[np.int64]:
    """How many pixels of every class a dataset has, int64 [K]."""
    K = len(dataset.classes)

    def of(index: int) -> NDArray[np.int64]:
        return np.bincount(dataset.labels(index).ravel(), minlength=256)[:K]

    total = np.zeros(K, np.int64)
    with ThreadPoolExecutor(_THREADS, "segfast-count") as pool:
        for part in bar(pool.map(of, range(len(dataset))), "count pixels", total=len(dataset), unit="mask"):
            total += part
    return total
