"""What every dataset offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from segfast.datasets.content import Content

# The label of pixels that count neither in the loss nor in the metrics.
IGNORE = 255


@dataclass(frozen=True)
class Dataset(ABC):
    """One split of labelled pictures; small and picklable, so that worker processes can be sent a copy.

    Attributes:
        name: of the dataset, as `open_dataset` takes it.
        split: `train`, `val`, …
        classes: K names, in the order of their labels.
        palette: K RGB colours.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, index: int) -> str:
        """The stable name of a sample, for reports."""

    @abstractmethod
    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB pixels, uint8 [H, W, 3].

        Raises:
            BadImage: it cannot be read.
        """

    @abstractmethod
    def labels(self, index: int) -> NDArray[np.uint8]:
        """Class index of every pixel, or IGNORE, uint8 [H, W].

        Raises:
            BadData: there are none, or they cannot be read.
        """

    def source(self, index: int) -> Path | None:
        """The picture's file; None where it comes from no file."""
        return None

    @abstractmethod
    def take(self, indices: Iterable[int]) -> Self:
        """The same split with these samples only: a rank's share, or the first few."""

    @abstractmethod
    def check(self, *, progress: bool = False) -> Content | None:
        """See that every sample can be used: pairs, files, sizes and values; gives what they hold.

        None of a set that draws itself, where nothing can be wrong.

        Args:
            progress: show a bar.

        Raises:
            BadData: some cannot, and it lists them all; or nothing can be learnt from what they hold.
        """
