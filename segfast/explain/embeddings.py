"""Which classes the mask decoder takes to be alike (paper, Figure 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from segfast.model import Segmenter


@dataclass(frozen=True)
class ClassEmbeddings:
    """The class embeddings that the mask decoder has learned.

    Attributes:
        classes: K names.
        vectors: float32 [K, D].
        plane: their coordinates in 2-D, float64 [K, 2].
        explained: shares of the variance along these two axes, 0 … 1, [2].
        similarity: cosines of any two, float64 [K, K].
    """

    classes: tuple[str, ...]
    vectors: NDArray[np.float32]
    plane: NDArray[np.float64]
    explained: NDArray[np.float64]
    similarity: NDArray[np.float64]


def class_embeddings(model: Segmenter) -> ClassEmbeddings:
    """The class embeddings of a mask decoder, in 2-D, and how similar any two are.

    Raises:
        NotSupported: an Engine in place of a Segmenter, or a linear decoder.
    """
    from segfast.explain.seam import check_checkpoint, check_mask_decoder

    check_checkpoint(model)
    check_mask_decoder(model.config, "class embeddings")
    vectors = model.decoder.get_parameter("cls_emb").detach()[0].float().cpu().numpy()  # [K, D]
    plane, explained = project(vectors)
    return ClassEmbeddings(model.config.classes, vectors, plane, explained, cosines(vectors))


def project(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vectors [K, D] about their mean, on their first two singular directions [K, 2], and the variance there, [2].

    The signs, which a singular value decomposition leaves open, are those that make the largest coordinate positive.
    """
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    axes = min(2, lengths.size)
    plane, explained = np.zeros((len(vectors), 2)), np.zeros(2)
    plane[:, :axes] = left[:, :axes] * lengths[:axes]
    explained[:axes] = lengths[:axes] ** 2 / max(float((lengths**2).sum()), np.finfo(np.float64).tiny)
    largest = np.take_along_axis(plane, np.abs(plane).argmax(0)[None], 0)
    return plane * np.where(largest < 0, -1, 1), explained


def cosines(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of the angle between any two of vectors [K, D]: [K, K]; 0 for a vector of zeros."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float64).tiny)
    return unit @ unit.T
