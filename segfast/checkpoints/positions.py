"""Position embeddings of a checkpoint: the grid they were learned on, and the way to the grid that is wanted.

A count of tokens does not say its grid: 576 patches are 24 × 24, 18 × 32 or 12 × 48. So the grid comes from what is said
of it, and only then from a square root.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from segfast.config import Config
from segfast.errors import BadModel
from segfast.protocol import Size

if TYPE_CHECKING:
    from torch import Tensor

# Where training scripts write the input size of a model, and under which names, [(channels,) height, width] or one side.
_SECTIONS = ("args", "config", "cfg", "model_args", "hyper_parameters", "pretrained_cfg", "default_cfg", "settings")
_SIZES = ("img_size", "image_size", "input_size")


def regrid(positions: Tensor, config: Config, grids: Sequence[Size], source: str) -> Tensor:
    """Position embeddings [1, prefix + gh·gw, D] on the config's grid: themselves if that is theirs, else resampled.

    Args:
        grids: what is said of their grid, the weightiest first; what does not fit their count is passed over.
        source: the file they come from, for messages.

    Raises:
        BadModel: nothing that is said fits their count, which is no square either.
    """
    from segfast.model import resample_positions

    prefix = config.position_prefix
    tokens = positions.shape[1] - prefix if positions.ndim == 3 else 0
    side = math.isqrt(max(0, tokens))
    grid = next(((h, w) for h, w in (*grids, (side, side)) if h * w == tokens > 0), None)
    if grid is None:
        raise BadModel(
            f"{source} has position embeddings {list(positions.shape)}, no square grid after {prefix} prefix token(s) as "
            f"{config.name} wants, and does not say which grid; choose the encoder of that model, or say the size in "
            f"pixels that it was trained at: torch.save({{**checkpoint, 'img_size': (H, W)}}, 'sized.pth')"
        )
    if grid == config.grid:
        return positions
    how = config.position_mode, config.position_antialias
    return resample_positions(positions.float(), prefix, grid, config.grid, *how)


def stated_grids(content: Mapping[str, object], patch: int) -> list[Size]:
    """The grids of patches that a checkpoint's own settings speak of."""
    sections = [content, *(part for name in _SECTIONS if isinstance(part := content.get(name), Mapping))]
    sizes = [_size(section.get(name)) for section in sections for name in _SIZES]
    return [(size[0] // patch, size[1] // patch) for size in sizes if size is not None]


def _size(value: object) -> Size | None:
    """(height, width) of a side, a size, or a shape with channels before it; None for anything else."""
    sides = [value, value] if isinstance(value, int) else list(value)[-2:] if isinstance(value, (list, tuple)) else []
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        return None
    return sides[0], sides[1]
