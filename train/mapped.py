"""Training on a dataset of one's own classes of Python: any that gives pairs of picture and labels by number."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from segfast.classes import generated_palette
from segfast.datasets.base import IGNORE, Dataset
from segfast.datasets.content import Content, Look, survey
from segfast.datasets.pairs import subset
from segfast.errors import BadData, BadOption
from segfast.train.fields import Recipe
from segfast.train.loop import train_on
from segfast.train.recipes import recipe as named
from segfast.train.running import Running
from segfast.train.state import Progress

# Of every so many samples one is for validation, where no set of its own is given.
HELD_OUT = 10


class MapStyle(Protocol):
    """A dataset by number, such as PyTorch's."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sequence[object]: ...


def fit(
    recipe: str | Recipe,
    dataset: MapStyle,
    out: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    val: MapStyle | None = None,
    running: Running | None = None,
    **overrides: object,
) -> Progress:
    """Train on any map-style dataset of (picture, labels), or go on with the run in `out`; see `train`.

    Of a run that goes on, the number of samples and the classes are compared, and not what the samples hold: they come from
    no files that could be looked at.

        fit("folder", dataset=MyDataset(), out="run", classes=["road", "other"], model="seg-s-mask-16", epochs=40)

    Args:
        recipe: a name of `RECIPES`, or a Recipe.
        dataset: `dataset[i]` is a pair: a picture, uint8 RGB [H, W, 3] (an array, a tensor [H, W, 3] or [3, H, W], or one
            of Pillow), neither normalised nor augmented; and labels, whole numbers [H, W], the index of a class or 255
            for none. It is sent to worker processes as it is.
        out: folder of the run.
        classes: K names, in the order of the labels.
        val: the same for validation; by default every tenth sample is kept apart for it.
        running: how it runs.
        overrides: fields of the recipe, as on the command line.

    Raises:
        BadData: a sample is no such pair; the first of them are listed.
        As `train`.
    """
    if isinstance(recipe, Recipe):
        chosen = replace(recipe, **overrides).check() if overrides else recipe  # type: ignore[arg-type]
    else:
        model = overrides.pop("model", None)
        chosen = named(recipe, model if model is None else str(model), **overrides)
    names = tuple(str(name) for name in classes)
    if not 1 <= len(names) <= IGNORE:
        raise BadOption(f"classes are 1 to {IGNORE} names; got {len(names)}")
    return train_on(lambda: _sets(dataset, val, names, chosen.fraction), chosen, out, running or Running())


def _sets(
    dataset: MapStyle, val: MapStyle | None, names: tuple[str, ...], fraction: float
) -> tuple[MapDataset, MapDataset]:
    """Train and val."""
    count = len(dataset)
    if count < (1 if val is not None else 2):
        raise BadData(f"the dataset has {count} samples; give one at least, or two where none are given for val")
    held = set() if val is not None else set(range(HELD_OUT - 1, count, HELD_OUT)) or {count - 1}
    kept = subset([index for index in range(count) if index not in held], fraction)
    palette = generated_palette(len(names))
    apart = sorted(held) if val is None else range(len(val))
    return (
        MapDataset("dataset", "train", names, palette, dataset, kept),
        MapDataset("dataset", "val", names, palette, dataset if val is None else val, tuple(apart)),
    )


@dataclass(frozen=True)
class MapDataset(Dataset):
    """A map-style dataset as one of ours.

    Attributes:
        pairs: the map-style dataset of (image, labels).
        indices: which of them are in.
    """

    pairs: MapStyle
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """The number of the sample in its source."""
        return str(self.indices[index])

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [H, W, 3]."""
        return self._pair(index)[0]

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Labels, uint8 [H, W]."""
        return self._pair(index)[1]

    def take(self, indices: Iterable[int]) -> Self:
        """These samples only."""
        return replace(self, indices=tuple(self.indices[index] for index in indices))

    def check(self, *, progress: bool = False) -> Content:
        """See that every sample is a pair of a picture and its labels; one after another, as the source may be of one thread."""
        content = survey(self, self._look, progress=progress, threads=1)
        if content.faults:
            count = len(content.faults)
            raise BadData(f"{count} of {len(self)} samples for {self.split} cannot be used; mend them:", content.faults)
        return content.checked()

    def _look(self, index: int) -> Look:
        """What a sample holds, or what is wrong with it, in words."""
        try:
            image, labels = self._pair(index)
        except BadData as error:
            return Look(fault=str(error))
        return Look(counts=np.bincount(labels.ravel(), minlength=256), size=(image.shape[0], image.shape[1]))

    def _pair(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        number = self.indices[index]
        sample = self.pairs[number]
        try:
            first, second = sample
        except (TypeError, ValueError):
            raise BadData(
                f"sample {number} is {type(sample).__name__}, where a pair (picture, labels) is wanted"
            ) from None
        image, labels = np.asarray(first), np.asarray(second)
        if image.ndim == 3 and image.shape[2] != 3 and image.shape[0] == 3:
            image = image.transpose(1, 2, 0)
        labels = labels[0] if labels.ndim == 3 and labels.shape[0] == 1 else labels
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise BadData(
                f"sample {number} has a picture {image.dtype} {list(image.shape)}; give uint8 RGB [H, W, 3], not normalised"
            )
        if labels.shape != image.shape[:2] or labels.dtype.kind not in "iub":
            raise BadData(
                f"sample {number} has labels {labels.dtype} {list(labels.shape)}; give whole numbers of the picture's size "
                f"{list(image.shape[:2])}"
            )
        K = len(self.classes)
        wrong = np.unique(labels[(labels != IGNORE) & ((labels < 0) | (labels >= K))])
        if len(wrong):
            listed = ", ".join(map(str, wrong[:8]))
            raise BadData(
                f"sample {number} has the labels {listed}; there are {K} classes, 0 … {K - 1}, and {IGNORE} for none"
            )
        return np.ascontiguousarray(image), labels.astype(np.uint8)
