"""How good a segmentation is: exact confusion matrices, and what is read from them.

A confusion matrix is int64 [K, K]: how many pixels of the class of the row were given the class of the
column. Those of parts of a set (images, ranks) add up to that of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from segfast.datasets.base import IGNORE
from segfast.dependencies.imports import need
from segfast.errors import BadData

Matrix = NDArray[np.int64]
Labels = NDArray[np.integer]

# Areas in pixels from which an object is medium, and large: those of COCO. The paper does not state its own.
MEDIUM, LARGE = 32**2, 96**2
SIZES = ("small", "medium", "large")
# Pixels that share a side or a corner are connected.
_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says, as fractions.

    A class that neither the truth nor the prediction contains has no IoU (None) and is left out of the
    means, as in the original's evaluation (MMSegmentation's nan-mean) and in torchmetrics'
    MulticlassJaccardIndex; one that is never right counts as 0.

    Attributes:
        miou: the mean IoU of the classes; None without a pixel.
        pixel_accuracy: share of the pixels that are right.
        mean_accuracy: the mean over the classes of the share of their pixels that is right.
        per_class: IoU of every class, in order.
        precision, recall, f1: means over the classes; a class that is never given has no precision, one that is not in
            the truth no recall, and F1 is 2·right / (true + given).
        dice: the same as F1: the names of two fields for one number.
        per_class_precision, per_class_recall, per_class_f1: of every class, in order.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    per_class: tuple[float | None, ...]
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    per_class_precision: tuple[float | None, ...] = ()
    per_class_recall: tuple[float | None, ...] = ()
    per_class_f1: tuple[float | None, ...] = ()

    @property
    def dice(self) -> float | None:
        """Mean Dice of the classes, which is their mean F1."""
        return self.f1


def confusion(truth: Labels, predicted: Labels, num_classes: int) -> Matrix:
    """The confusion matrix of labels of the same shape; pixels whose truth is IGNORE do not count.

    Raises:
        BadData: the shapes differ, or a label is of no class.
    """
    if truth.shape != predicted.shape:
        raise BadData(
            f"the truth has the shape {list(truth.shape)}, the prediction {list(predicted.shape)}; they must agree"
        )
    known = truth != IGNORE
    rows, columns = truth[known].astype(np.intp), predicted[known].astype(np.intp)
    for labels, name in ((rows, "truth"), (columns, "prediction")):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise BadData(
                f"the {name} has the labels {labels.min()} … {labels.max()}, but there are {num_classes} classes; "
                f"labels are 0 … {num_classes - 1}, or {IGNORE} for none"
            )
    return np.bincount(rows * num_classes + columns, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(matrix: Matrix) -> Scores:
    """mIoU, accuracies and the IoU of every class."""
    right, true, given = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    ious, accuracies = _ratios(right, true + given - right), _ratios(right, true)
    precisions, f1s = _ratios(right, given), _ratios(2 * right, true + given)
    total = int(true.sum())
    return Scores(
        _mean(ious),
        int(right.sum()) / total if total else None,
        _mean(accuracies),
        ious,
        _mean(precisions),
        _mean(accuracies),
        _mean(f1s),
        precisions,
        accuracies,
        f1s,
    )


def object_sizes(truth: Labels) -> NDArray[np.uint8]:
    """For every pixel the size of the object it belongs to, as an index into SIZES; uint8, the shape of `truth`.

    An object is a connected component of pixels of one class in the truth, corners included. Its size is
    its area in pixels at the image's own resolution: small below 32², large from 96², as in COCO.

    Raises:
        MissingRuntime: SciPy is not installed.
    """
    need("train", "scipy")
    from scipy.ndimage import label

    sizes = np.zeros(truth.shape, np.uint8)
    for value in np.unique(truth[truth != IGNORE]):
        components, _ = label(truth == value, _NEIGHBOURS)
        area = np.bincount(components.ravel())
        kind = (area >= MEDIUM).astype(np.uint8) + (area >= LARGE)
        kind[0] = 0  # the pixels of all other classes
        sizes += kind[components]
    return sizes


def confusion_by_size(truth: Labels, predicted: Labels, num_classes: int) -> NDArray[np.int64]:
    """Confusion matrices of the pixels of small, medium and large objects, [3, K, K]; they add up to `confusion`.

    The mIoU of one of them is that of Table 4: the objects of other sizes are ignored.

    Raises:
        BadData: as `confusion`.
        MissingRuntime: SciPy is not installed.
    """
    sizes = object_sizes(truth)
    ignored = np.array(IGNORE, truth.dtype)
    return np.stack(
        [confusion(np.where(sizes == s, truth, ignored), predicted, num_classes) for s in range(len(SIZES))]
    )


def scores_by_size(matrices: NDArray[np.int64]) -> Mapping[str, Scores]:
    """The scores of small, medium and large objects."""
    return MappingProxyType({name: scores(matrix) for name, matrix in zip(SIZES, matrices, strict=True)})


def _ratios(parts: Matrix, wholes: Matrix) -> tuple[float | None, ...]:
    return tuple(int(part) / int(whole) if whole else None for part, whole in zip(parts, wholes, strict=True))


def _mean(values: tuple[float | None, ...]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
