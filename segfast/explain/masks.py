"""The class masks of the mask decoder (paper, equation 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segfast.explain.view import Maps, View, look
from segfast.pictures.inputs import ImageLike

if TYPE_CHECKING:
    from segfast.model import Segmenter


@dataclass(frozen=True)
class ClassMasks:
    """What the mask decoder finds of every class in a picture, before anything makes scores of it.

    Attributes:
        view: the picture, as the network saw it.
        classes: K names.
        cosines: of every class embedding with every patch, as they leave the decoder, -1 … 1: float32 [K, h, w]. In the paper
            only the patches are of norm 1, in its code the classes are, too. A LayerNorm over the classes makes
            logits of them, so a class may win where another's cosine is larger.
    """

    view: View
    classes: tuple[str, ...]
    cosines: Maps

    def enlarged(self, label: int) -> NDArray[np.float32]:
        """The mask of one class at the picture's own size, [H, W]."""
        return self.view.enlarge(self.cosines[label])

    def ranked(self) -> list[int]:
        """All classes: those that are best at most patches first, and of equal ones those of the largest mean."""
        wins = np.bincount(self.cosines.argmax(0).ravel(), minlength=len(self.classes))
        order = np.lexsort((-self.cosines.mean((1, 2)), -wins))
        return [int(label) for label in order]


def class_masks(model: Segmenter, image: ImageLike, *, size: int | None = None) -> ClassMasks:
    """The class masks of one picture.

    Args:
        image: whatever `Engine.segment` takes. It is seen whole, in one pass without windows.
        size: of the picture's short side in pixels; by default that of the model's window.

    Raises:
        BadImage: the image cannot be read.
        BadOption: the size is impossible.
        NotSupported: an Engine in place of a Segmenter, or a linear decoder.
    """
    from segfast.explain import seam

    seam.check_checkpoint(model)
    seam.check_mask_decoder(model.config, "class masks")
    view = look(image, model.config, size)
    return ClassMasks(view, model.config.classes, seam.cosines_of(model, view))
