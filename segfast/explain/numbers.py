"""The numbers behind the figures, as JSON and npz files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfast import files
from segfast.explain.attention import AttentionMaps
from segfast.explain.comparison import Comparison
from segfast.explain.distance import Distances
from segfast.explain.embeddings import ClassEmbeddings
from segfast.explain.masks import ClassMasks
from segfast.explain.scores import ScoreMaps

Path = str | os.PathLike[str]


def write_attention(found: AttentionMaps, path: Path) -> None:
    """`maps` [Q, L, A, h, w], `others` [Q, L, A, n], `queries` as text, `layers`, `heads`, and the `part`."""
    queries = [query if isinstance(query, str) else f"{query[0]},{query[1]}" for query in found.queries]
    named = {"queries": queries, "part": found.part, "layers": found.layers, "heads": found.heads}
    _write_arrays(path, maps=found.maps, others=found.others, **{name: np.asarray(of) for name, of in named.items()})


def write_distances(found: Distances, name: str, path: Path) -> None:
    """`pixels`: a list for each layer, of its heads' mean attention distances."""
    content = {"model": name, "pictures": found.pictures, "sizes": found.sizes, "pixels": found.pixels.tolist()}
    files.write_text(json.dumps(content) + "\n", path)


def write_embeddings(found: ClassEmbeddings, name: str, path: Path) -> None:
    """`classes`, their `plane` coordinates, the variance `explained` by its axes, the `similarity` of any two, `vectors`."""
    content = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asdict(found).items()}
    files.write_text(json.dumps({"model": name, **content}, ensure_ascii=False) + "\n", path)


def write_masks(found: ClassMasks, path: Path) -> None:
    """`cosines` [K, h, w], and the `classes`."""
    _write_arrays(path, cosines=found.cosines, classes=found.classes)


def write_scores(found: ScoreMaps, path: Path) -> None:
    """`scores` [K, H, W] in half precision, and the `classes`."""
    _write_arrays(path, scores=found.scores.astype(np.float16), classes=found.answer.classes)


def write_doubt(found: ScoreMaps, path: Path) -> None:
    """`entropy` and `margin` [H, W], `labels` [H, W], and the `classes`."""
    _write_arrays(
        path, entropy=found.entropy, margin=found.margin, labels=found.answer.labels, classes=found.answer.classes
    )


def write_comparison(found: Comparison, path: Path) -> None:
    """`labels` [M, H, W], `disagreement` [H, W], `boxes` (top, left, side) of the close-ups, `names` and `classes`."""
    labels = np.stack([answer.labels for answer in found.answers])
    boxes = np.array(found.boxes, np.int64).reshape(-1, 3)
    names, classes = found.names, found.answers[0].classes
    _write_arrays(path, labels=labels, disagreement=found.disagreement, boxes=boxes, names=names, classes=classes)


def _write_arrays(path: Path, **arrays: NDArray[Any] | tuple[str, ...]) -> None:
    """Write arrays as npz, atomically; texts are arrays of text, which load without pickles."""
    with files.publish(path) as temporary, open(temporary, "wb") as file:
        content: dict[str, Any] = {name: np.asarray(values) for name, values in arrays.items()}
        np.savez_compressed(file, **content)
