"""What a model sees: the paper's figures about Segmenter, as arrays, and as PNG by `python -m segfast.explain`.

Layers and heads count from 1, as the paper counts them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .attention import AttentionMaps, attention_maps
    from .comparison import Comparison, compare
    from .distance import Distances, attention_distances
    from .embeddings import ClassEmbeddings, class_embeddings
    from .masks import ClassMasks, class_masks
    from .palette import safe_palette
    from .scores import ScoreMaps, doubt, score_maps
    from .view import View, look

# Attention needs PyTorch, the rest does not: each is imported when it is first used.
_HOMES = {
    "AttentionMaps": "attention",
    "ClassEmbeddings": "embeddings",
    "ClassMasks": "masks",
    "Comparison": "comparison",
    "Distances": "distance",
    "ScoreMaps": "scores",
    "View": "view",
    "attention_distances": "distance",
    "attention_maps": "attention",
    "class_embeddings": "embeddings",
    "class_masks": "masks",
    "compare": "comparison",
    "doubt": "scores",
    "look": "view",
    "safe_palette": "palette",
    "score_maps": "scores",
}
__all__ = [
    "AttentionMaps",
    "ClassEmbeddings",
    "ClassMasks",
    "Comparison",
    "Distances",
    "ScoreMaps",
    "View",
    "attention_distances",
    "attention_maps",
    "class_embeddings",
    "class_masks",
    "compare",
    "doubt",
    "look",
    "safe_palette",
    "score_maps",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # from now on Python finds it without asking here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
