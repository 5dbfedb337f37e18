"""The K score maps of a picture, upsampled and through softmax, and how sure the model is where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.errors import BadOption
from segfast.pictures.inputs import ImageLike

if TYPE_CHECKING:
    from segfast.engine import Engine
    from segfast.segmentation import Segmentation


@dataclass(frozen=True)
class ScoreMaps:
    """What a model makes of a picture before it decides.

    Attributes:
        answer: the Segmentation: labels [H, W], classes, palette, pixels.
        scores: softmax scores, float32 [K, H, W].
        entropy: of the scores, float32 [H, W], as a share of that of K equal ones: 0 is certain, 1 knows nothing.
        margin: the best score less the second, float32 [H, W]: 1 is certain, 0 a tie.
    """

    answer: Segmentation
    scores: NDArray[np.float32]
    entropy: NDArray[np.float32]
    margin: NDArray[np.float32]


def score_maps(engine: Engine, image: ImageLike, *, multiscale: bool = False) -> ScoreMaps:
    """The score maps of a picture by the model's protocol, and its doubt.

    Args:
        engine: any Engine that gives logits.
        image: whatever `Engine.segment` takes.
        multiscale: average the paper's 12 views.

    Raises:
        NotSupported: the artifact gives labels only; otherwise as `Engine.segment`.
        BadImage: the image cannot be read.
    """
    answer = engine.segment(image, multiscale=multiscale)
    entropy, margin = doubt(answer.scores)
    return ScoreMaps(answer, answer.scores, entropy, margin)


def doubt(scores: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Entropy [H, W], as a share of log K, and margin [H, W] of scores [K, H, W] that sum to 1.

    Raises:
        BadOption: the scores are no array [K, H, W].
    """
    if scores.ndim != 3 or not len(scores):
        raise BadOption(f"scores must be [K, H, W]; got {list(scores.shape)}; pass Segmentation.scores")
    entropy = np.zeros(scores.shape[1:], np.float32)
    best, second = np.zeros_like(entropy), np.zeros_like(entropy)
    for score in scores:  # class by class: K × H × W numbers are large enough once
        entropy -= score * np.log(np.maximum(score, np.finfo(np.float32).tiny))
        second = np.maximum(second, np.minimum(best, score))
        best = np.maximum(best, score)
    most = np.float32(np.log(len(scores))) if len(scores) > 1 else np.float32(1)
    return np.clip(entropy / most, 0, 1), best - second
