"""How far the heads of the encoder look (paper, Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.errors import BadOption
from segfast.explain.view import View, look
from segfast.pictures.inputs import ImageLike, check_many

if TYPE_CHECKING:
    from torch import Tensor

    from segfast.model import Segmenter

# Bytes of the attention weights that are held at a time.
_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True)
class Distances:
    """Mean attention distances.

    Attributes:
        pixels: of layer and head, float64 [L, A], in pixels of what the network gets.
        pictures: over how many it is the mean.
        sizes: (height, width) of what the network got of each.
    """

    pixels: NDArray[np.float64]
    pictures: int
    sizes: tuple[tuple[int, int], ...]


def attention_distances(model: Segmenter, images: Sequence[ImageLike], *, size: int | None = None) -> Distances:
    """Mean attention distance of every head of the encoder, over pictures.

    For a patch it is the mean distance of its centre to those of all patches, weighted by its attention to
    them. Tokens without a place (class token, registers) are left out, and the weights of the patches sum to 1 without
    them. It is computed for some rows at a time: no N × N matrix is made.

    Args:
        images: pictures, each of which is seen whole in one pass.
        size: of their short sides in pixels; by default that of the model's window.

    Raises:
        BadImage: a picture cannot be read.
        BadOption: there is no picture, or the size is impossible.
        NotSupported: an Engine in place of a Segmenter, or an encoder that merges tokens.
    """
    from segfast.explain import seam

    seam.check_checkpoint(model)
    seam.check_whole(model.config, "encoder", range(1, model.config.depth + 1))
    total, sizes = np.zeros((model.config.depth, model.config.heads)), []
    for image in check_many(images):
        view = look(image, model.config, size)
        total += _distances_of(model, view)
        sizes.append(view.size)
    if not sizes:
        raise BadOption("attended distances are a mean over pictures, and there is none; name at least one")
    return Distances(total / len(sizes), len(sizes), tuple(sizes))


def _distances_of(model: Segmenter, view: View) -> NDArray[np.float64]:
    """Of one picture, [L, A]."""
    from segfast.explain import seam

    found: dict[int, NDArray[np.float64]] = {}
    tokens, layers = seam.tokens_of(model.config, "encoder", view), range(1, model.config.depth + 1)

    def measure(layer: int, q: Tensor, k: Tensor) -> None:
        found[layer] = mean_distance(q[tokens.of_patches], k[tokens.of_patches], view.grid, view.patch)

    seam.watch(model, view, "encoder", layers, measure)
    return np.stack([found[layer] for layer in layers])


def mean_distance(
    q: Tensor, k: Tensor, grid: tuple[int, int], patch: int, chunk: int | None = None
) -> NDArray[np.float64]:
    """Mean attention distance in pixels of every head, [A], for queries and keys of patches [h·w, A, d].

    Args:
        chunk: rows of the attention matrices that are held at a time; by default what 64 MB hold.
    """
    import torch

    from segfast.explain.seam import weights

    N, A = q.shape[:2]
    chunk = chunk or max(1, _CHUNK_BYTES // (4 * N * A))
    rows, columns = (torch.arange(side, device=q.device, dtype=torch.float32) * patch for side in grid)
    centres = torch.cartesian_prod(rows, columns)  # [N, 2]
    total = torch.zeros(A, dtype=torch.float64, device=q.device)
    exact = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
    for start in range(0, N, chunk):
        apart = exact(centres[start : start + chunk], centres)  # [n, N]
        total += (weights(q[start : start + chunk], k) * apart).sum(-1).double().sum(-1)
    return (total / N).cpu().numpy()
