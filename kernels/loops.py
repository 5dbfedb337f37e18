"""Whether the compiled loops run here or their NumPy twins: numba may be missing, or installed and broken."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

_failed: list[str] = []


@cache
def load(name: str) -> ModuleType | None:
    """The module of compiled loops `name`, after a trial of it; None where the twins have to do."""
    try:
        module = import_module(f".{name}", __package__)
        module.trial()
    except ModuleNotFoundError as error:
        _failed.append("numba is not installed" if error.name == "numba" else f"numba is broken ({error})")
    except Exception as error:  # of a NumPy it does not know, broken binaries, a compiler that fails: anything
        _failed.append(f"numba is broken ({(str(error).strip().splitlines() or [type(error).__name__])[0]})")
    else:
        return module
    return None


def notes(merging: bool = True) -> list[str]:
    """What runs slower than it could, for people; what has not run yet is tried.

    Args:
        merging: windows are merged on the CPU, too.
    """
    load("merge_cpu" if merging else "resize_cpu")
    if _failed:
        what = "images are resized and windows merged" if merging else "images are resized"
        return [f"{_failed[0]}: {what} in NumPy, slower"]
    from .cpu import uncached

    return (
        [f"numba cannot keep its compiled loops ({uncached[0]}), so that each process compiles them"]
        if uncached
        else []
    )
