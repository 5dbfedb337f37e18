"""What to make of errors that say that a GPU's memory ran out."""

from __future__ import annotations

import torch

REMEDY = (
    "close what else uses it, let go of answers kept from earlier images (their scores are there), "
    "or take a smaller model or device='cpu'"
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error of PyTorch, or what caused it, is that the device's memory ran out."""
    while error is not None:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text:
            return True
        error = error.__context__
    return False
