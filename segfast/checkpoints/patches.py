"""Patch embeddings for patches of another size (Beyer et al. 2023, FlexiViT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def resample_patches(weight: Tensor, patch: int) -> Tensor:
    """A patch embedding [D, 3, P, P] for patches of `patch` pixels, [D, 3, patch, patch], fp32.

    By the pseudo-inverse of resizing: a patch enlarged with its picture keeps its embedding, so that
    an encoder sees at first what it was trained on.
    """
    from timm.layers.patch_embed import resample_patch_embed

    return resample_patch_embed(weight.float(), [patch, patch], interpolation="bicubic", antialias=True)
