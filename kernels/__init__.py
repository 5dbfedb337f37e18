"""The operations segfast computes its own way; nothing here imports the rest of segfast.

Every operation has a plain twin in `segfast.kernels.reference`: its documentation and its oracle.
Wrong arguments raise plain ValueError or TypeError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .attend import attend_packed, attention, attention_backend
    from .images import resize
    from .merge import merge_windows, upsample_argmax

__all__ = ["attend_packed", "attention", "attention_backend", "merge_windows", "resize", "upsample_argmax"]

# Attention needs torch, the rest does not: each is imported when it is first used.
_HOMES = {
    "attend_packed": "attend",
    "attention": "attend",
    "attention_backend": "attend",
    "merge_windows": "merge",
    "resize": "images",
    "upsample_argmax": "merge",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # from now on Python finds it without asking here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
