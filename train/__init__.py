"""Training Segmenters as the paper and its code do, on one machine or many."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fields import Recipe as Recipe
    from .loop import train as train
    from .mapped import fit as fit
    from .recipes import RECIPES as RECIPES
    from .recipes import recipe as recipe
    from .running import Running as Running

_HOMES = {
    "RECIPES": "recipes",
    "Recipe": "fields",
    "recipe": "recipes",
    "Running": "running",
    "fit": "mapped",
    "train": "loop",
}
__all__ = ["RECIPES", "Recipe", "Running", "fit", "recipe", "train"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from segfast.dependencies.imports import need

    need("train", "torch")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
