"""What an evaluation opens: a split with its masks; or, to be predicted alone, the pictures of one that has none."""

from __future__ import annotations

from pathlib import Path

from segfast.datasets import Dataset, open_dataset
from segfast.datasets.options import Reading
from segfast.datasets.pairs import PairsDataset
from segfast.datasets.places import ALIASES
from segfast.datasets.unlabelled import open_pictures
from segfast.errors import BadData, BadOption

# Splits that have masks: where those are not found, something is wrong with the folder.
_LABELLED = frozenset(name for names in ALIASES.values() for name in names)


def open_split(name: str, root: str | None, split: str, reading: Reading, *, predicting: bool) -> Dataset:
    """A split of a dataset.

    Args:
        predicting: nothing is measured, so that pictures without masks will do; of a test set, not of train or val.

    Raises:
        BadData, BadOption: as `open_dataset`.
    """
    if not predicting or root is None:
        return open_dataset(name, root, split, reading=reading)
    expected = split.lower() in _LABELLED
    try:
        dataset = open_dataset(name, root, split, reading=reading)
    except (BadData, BadOption) as error:
        pictures = open_pictures(name, Path(root), split, reading)
        if pictures is None:
            raise
        if expected:
            raise _without_masks(error, split) from None
        return pictures
    if expected or not isinstance(dataset, PairsDataset) or any(one.mask for one in dataset.pairs):
        return dataset
    return open_pictures(name, Path(root), split, reading) or dataset


def _without_masks(error: BadData | BadOption, split: str) -> BadData:
    """Why the masks of a split are not found, and how its pictures are segmented without them."""
    words = f"{error.message if isinstance(error, BadData) else error}; pictures of {split} are expected to have masks: only a "
    words += "test set is predicted without (images/test, --split test); or run python -m segfast.segment ENGINE PICTURES -o OUT"
    return BadData(words, error.offenders if isinstance(error, BadData) else ())
