"""How libraries say that memory ran out: of the host, or of a GPU."""

from __future__ import annotations

import sys

# Of errors that are no MemoryError.
_GPU = ("out of memory", "ALLOC_FAILED")
ANYWHERE = (*_GPU, "not enough memory", "allocate memory", "bad_alloc", "bad allocation")
# Of what TensorRT logs, in small letters; its calls say nothing themselves.
_TENSORRT = ("outofmemory", "out of memory", "memory could not be allocated")

REMEDY = (
    "close what else uses it, let go of answers kept from earlier images (their scores are there), "
    "or take a smaller model or device='cpu'"
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error of PyTorch, or what caused it, is that a GPU's memory ran out."""
    of_torch = getattr(sys.modules.get("torch"), "OutOfMemoryError", ())
    while error is not None:
        if isinstance(error, of_torch) or any(words in str(error) for words in _GPU):
            return True
        error = error.__context__
    return False


def logged(text: str) -> bool:
    """Whether what TensorRT logged means that a GPU's memory ran out."""
    return any(words in text.lower() for words in _TENSORRT)
