"""The operations segfast computes its own way; nothing here imports the rest of segfast.

Every operation has a plain twin in `segfast.kernels.reference`: its documentation and its oracle.
Wrong arguments raise plain ValueError or TypeError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attend import attend_packed as attend_packed
    from .attend import attention as attention
    from .attend import attention_backend as attention_backend
    from .images import resize as resize
    from .merge import merge_windows as merge_windows
    from .merge import upsample_argmax as upsample_argmax

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
