"""Which samples a step takes, and how they become a batch: the same for any worker count and world size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from segfast.datasets.base import IGNORE, Dataset
from segfast.errors import SegfastError
from segfast.inference import normalisation
from segfast.train.augment import augment, generator
from segfast.train.fields import Recipe
from segfast.train.world import World

Sample = tuple[int, int]
Crop = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Batch(NamedTuple):
    """Crops, padded to one size.

    Attributes:
        images: uint8 [B, crop, crop, 3].
        labels: uint8 [B, crop, crop], IGNORE where padded.
        sizes: int64 [B, 2]: height and width that are not padding.
    """

    images: Tensor
    labels: Tensor
    sizes: Tensor


def samples(step: int, size: int, batch: int, seed: int, shift: int = 0) -> list[Sample]:
    """(epoch, index) of every sample of a step, over all ranks.

    Epochs follow each other without a gap: a batch may end one and begin the next, none is dropped.

    Args:
        size: of the training set.
        shift: how many more were taken before than steps of this batch take, of a run whose batch changed.
    """
    taken = []
    for position in range(step * batch + shift, (step + 1) * batch + shift):
        epoch, place = divmod(position, size)
        taken.append((epoch, int(order(epoch, size, seed)[place])))
    return taken


def order(epoch: int, size: int, seed: int) -> np.ndarray:
    """The samples of an epoch: a permutation that seed and epoch decide."""
    key = (epoch, size, seed)
    if key not in _orders:
        if len(_orders) > 1:  # a batch spans two epochs, or is all of one
            _orders.clear()
        random = generator(seed, epoch)
        _orders[key] = random.permutation(size)
    return _orders[key]


_orders: dict[tuple[int, int, int], np.ndarray] = {}


class Steps(Sampler[list[Sample]]):
    """The samples of one rank, step by step."""

    def __init__(self, recipe: Recipe, size: int, world: World, first: int, shift: int = 0):
        self.recipe, self.size, self.world, self.first, self.shift = recipe, size, world, first, shift

    def __len__(self) -> int:
        return self.recipe.iterations - self.first

    def __iter__(self) -> Iterator[list[Sample]]:
        share = self.recipe.batch // self.world.size
        begin = share * self.world.rank
        for step in range(self.first, self.recipe.iterations):
            yield samples(step, self.size, self.recipe.batch, self.recipe.seed, self.shift)[begin : begin + share]


class Augmented(TorchDataset[Crop | SegfastError]):
    """Training crops of a dataset by (epoch, index); where a file was damaged since it was checked, the error.

    Raised in a worker, it would arrive as a traceback.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe):
        self.dataset, self.recipe = dataset, recipe

    def __getitem__(self, sample: Sample) -> Crop | SegfastError:
        epoch, index = sample
        random = generator(self.recipe.seed, epoch, index)
        try:
            image, labels = self.dataset.image(index), self.dataset.labels(index)
        except SegfastError as error:
            return error
        return augment(image, labels, self.recipe, random)


class Collate:
    """Crops → a Batch, padded to crop × crop at the right and the bottom; or the first error among them."""

    def __init__(self, crop: int):
        self.crop = crop

    def __call__(self, given: list[Crop | SegfastError]) -> Batch | SegfastError:
        """A Batch of images [H, W, 3] and their labels [H, W]."""
        crops = [crop for crop in given if not isinstance(crop, SegfastError)]
        if len(crops) < len(given):
            return next(error for error in given if isinstance(error, SegfastError))
        B, side = len(crops), self.crop
        images = np.zeros((B, side, side, 3), np.uint8)
        labels = np.full((B, side, side), IGNORE, np.uint8)
        for i, (image, truth) in enumerate(crops):
            h, w = truth.shape
            images[i, :h, :w], labels[i, :h, :w] = image, truth
        sizes = [truth.shape for _, truth in crops]
        return Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.tensor(sizes))


def loader(
    dataset: Dataset,
    recipe: Recipe,
    world: World,
    *,
    first: int,
    workers: int,
    pin: bool,
    ahead: int = 4,
    shift: int = 0,
    begin: Callable[[int], None] | None = None,
) -> DataLoader[Batch | SegfastError]:
    """Batches of this rank from step `first` to the last, prepared ahead by worker processes.

    Args:
        ahead: batches that each worker prepares ahead.
        shift: see `samples`.
        begin: what every worker calls first, with its number.
    """
    return DataLoader(
        Augmented(dataset, recipe),  # type: ignore[arg-type]
        batch_sampler=Steps(recipe, len(dataset), world, first, shift),
        collate_fn=Collate(recipe.crop),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=begin,
        generator=torch.Generator(),  # a draw of the global one would be no resume
    )


def normalise(batch: Batch, mean: Tensor, std: Tensor) -> Tensor:
    """Network input [B, 3, H, W] of a Batch; padding is 0 after normalising, as in the original.

    Args:
        mean, std: of RGB in 0 … 1, [3, 1, 1].
    """
    images = normalisation.normalise(batch.images, mean, std)
    H, W = images.shape[-2:]
    rows = torch.arange(H, device=images.device) < batch.sizes[:, :1]  # [B, H]
    columns = torch.arange(W, device=images.device) < batch.sizes[:, 1:]  # [B, W]
    return images * (rows[:, None, :, None] & columns[:, None, None, :])
