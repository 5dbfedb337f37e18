"""Labels that another system has written: a folder of PNG files, one for each picture of a dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from segfast.datasets import IGNORE, Dataset
from segfast.datasets.masks import read_mask
from segfast.errors import BadData, BadOption
from segfast.evaluation.metrics import Labels
from segfast.pictures.selection import LABELS


class LabelFolder:
    """Labels of any system for the pictures of a dataset.

    The file of a picture has its name and `.png`, or `-labels.png` as `segfast.segment` writes it, in the folder itself or
    below it as in the dataset. Its values are class indices, in the order of the dataset's classes.

    Raises:
        BadOption: there is no such folder.
        BadData: files are missing, or stand for several pictures; they are all listed.
    """

    def __init__(self, path: Path, dataset: Dataset):
        if not path.is_dir():
            raise BadOption(f"there is no folder {path}; name one with a label PNG for every picture")
        self._path, self._dataset = path, dataset
        found = [self._find(dataset.key(index)) for index in range(len(dataset))]
        missing = [f"{dataset.key(index)}.png" for index, file in enumerate(found) if file is None]
        if missing:
            raise BadData(
                f"{path} lacks the labels of {len(missing)} of {len(found)} pictures; add a PNG of class indices for each, "
                "named after the picture, or take fewer with --limit",
                missing,
            )
        self._files = [file for file in found if file is not None]
        if shared := [file for file, count in Counter(self._files).items() if count > 1]:
            raise BadData(
                f"{len(shared)} files in {path} would stand for several pictures of one name ({shared[0].name}, …); "
                "lay the labels in folders as the dataset does its pictures",
                [str(file) for file in shared],
            )

    def __repr__(self) -> str:
        return f"labels in {self._path}"

    def labels(self, index: int) -> Labels:
        """Labels [H, W] of a picture of the dataset.

        Raises:
            BadData: the file cannot be read, is of another size, or has values of no class.
        """
        file, wanted = self._files[index], self._dataset.labels(index).shape
        labels, K = read_mask(file), len(self._dataset.classes)
        if labels.shape != wanted:
            (H, W), (h, w) = wanted, labels.shape
            raise BadData(f"{file} has {h}×{w} pixels, its picture {H}×{W}; write labels at the picture's own size")
        if labels.size and labels.max() >= K:
            void = f" ({IGNORE} stands for none, but a prediction is of some class)" if labels.max() == IGNORE else ""
            raise BadData(
                f"{file} has the value {labels.max()}{void}; classes of {self._dataset.name} go from 0 to {K - 1}, "
                "so write their indices, from 0"
            )
        return labels

    def _find(self, key: str) -> Path | None:
        name = PurePosixPath(key)
        places = [Path(str(stem) + ending) for stem in (name, name.name) for ending in (".png", LABELS)]
        return next((self._path / place for place in places if (self._path / place).is_file()), None)
