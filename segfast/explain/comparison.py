"""One picture through several models, and where they draw boundaries differently (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segfast.errors import BadModel, BadOption
from segfast.evaluation.metrics import Labels
from segfast.pictures.inputs import ImageLike

if TYPE_CHECKING:
    from segfast.config import Config
    from segfast.engine import Engine
    from segfast.segmentation import Segmentation

# The side of a close-up, as a share of the picture's short side.
CLOSE = 0.28


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    side: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


@dataclass(frozen=True)
class Comparison:
    """What several models make of one picture.

    Attributes:
        names: of the M models, in words.
        patches: their patch sizes.
        answers: their Segmentations.
        disagreement: where not all give the same class, bool [H, W].
        boxes: squares with most disagreement about boundaries, the worst first.
    """

    names: tuple[str, ...]
    patches: tuple[int, ...]
    answers: tuple[Segmentation, ...]
    disagreement: NDArray[np.bool_]
    boxes: tuple[Box, ...]


def compare(engines: Sequence[Engine], image: ImageLike, *, closeups: int = 2) -> Comparison:
    """Segment a picture with several models, and find the boundaries where they disagree.

    Args:
        engines: two at least, with the same classes.
        image: whatever `Engine.segment` takes.
        closeups: how many squares to find; fewer where there is less disagreement.

    Raises:
        BadOption: there are fewer than two engines.
        BadModel: their classes differ.
        As `Engine.segment`.
    """
    check_comparable([engine.config for engine in engines])
    answers = tuple(engine.segment(image) for engine in engines)
    labels = [answer.labels for answer in answers]
    differ = disagreement(labels)
    near = differ & _near_boundaries(labels, max(2, round(0.02 * min(differ.shape))))
    boxes = worst_boxes(near, max(1, round(CLOSE * min(differ.shape))), closeups)
    names = titles([engine.config for engine in engines])
    return Comparison(names, tuple(engine.config.patch for engine in engines), answers, differ, boxes)


def check_comparable(configs: Sequence[Config]) -> None:
    """See that there are models to compare.

    Raises:
        BadOption: there are fewer than two.
        BadModel: their classes differ.
    """
    if len(configs) < 2:
        raise BadOption("a comparison needs two models or more; name others (--compare OTHER… on the command line)")
    first = configs[0]
    for other in configs[1:]:
        if other.classes != first.classes:
            pairs = zip(first.classes, other.classes, strict=False)
            differing = next((f"{a!r} is {b!r} there" for a, b in pairs if a != b), "")
            counts = f"{first.num_classes} classes and {other.num_classes}"
            raise BadModel(
                f"{first.name} and {other.name} have different classes ({differing or counts}); "
                "compare models that were trained for the same dataset"
            )


def titles(configs: Sequence[Config]) -> tuple[str, ...]:
    """A name for each model; those that share one are told apart by number."""
    names = [config.name for config in configs]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    )


def disagreement(labels: Sequence[Labels]) -> NDArray[np.bool_]:
    """Where not all labels [H, W] are the same."""
    differ = np.zeros(labels[0].shape, bool)
    for other in labels[1:]:
        differ |= other != labels[0]
    return differ


def _near_boundaries(labels: Sequence[Labels], radius: int) -> NDArray[np.bool_]:
    """Where a square of that radius holds a boundary of any of the labels."""
    edges = np.zeros(labels[0].shape, np.int64)
    for one in labels:
        edges[1:] |= one[1:] != one[:-1]
        edges[:, 1:] |= one[:, 1:] != one[:, :-1]
    return _box_sums(np.pad(edges, radius), 2 * radius + 1) > 0


def worst_boxes(differ: NDArray[np.bool_], side: int, count: int) -> tuple[Box, ...]:
    """The squares of that side with most pixels that differ, no two of which overlap."""
    left, boxes = differ.astype(np.int64), list[Box]()
    while len(boxes) < count:
        sums = _box_sums(left, side)
        for box in boxes:
            sums[max(0, box.top - side + 1) : box.top + side, max(0, box.left - side + 1) : box.left + side] = 0
        top, start = np.unravel_index(sums.argmax(), sums.shape)
        if not sums[top, start]:
            break
        boxes.append(Box(int(top), int(start), side))
    return tuple(boxes)


def _box_sums(values: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Sums over every square of that side, by its top left corner."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
