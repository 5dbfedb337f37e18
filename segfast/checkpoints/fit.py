"""Tensors of a checkpoint, put into a module whose tensors they must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from segfast.checkpoints.positions import regrid
from segfast.checkpoints.states import State
from segfast.config import Config
from segfast.errors import BadModel
from segfast.protocol import Size

if TYPE_CHECKING:
    from torch import Tensor, nn


def fit(module: nn.Module, state: State, config: Config, source: str, grids: Sequence[Size] = ()) -> None:
    """Give a module its tensors, as fp32; position embeddings of another grid are resampled.

    Args:
        grids: of patches that the position embeddings of the state may have, the weightiest first.

    Raises:
        BadModel: tensors are missing, unexpected or of another shape; the first are named.
    """
    import torch

    state = {name: t for name, t in state.items() if is_plain(t) and not _unused(name)}
    wanted = module.state_dict()
    positions = "encoder.pos_embed" if "encoder.pos_embed" in wanted else "pos_embed"
    if positions in state:
        state[positions] = regrid(state[positions], config, grids, source)
    problems = [
        *(f"{name} is missing" for name in wanted if name not in state),
        *(f"{name} is unexpected" for name in state if name not in wanted),
        *(
            f"{name} is {list(state[name].shape)} instead of {list(wanted[name].shape)}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise BadModel(
            f"{source} does not fit {config.name} with {config.num_classes} classes: "
            f"{'; '.join(problems[:5])}{more}; choose the model and class count it was trained with"
        )
    module.load_state_dict({name: t.to(torch.float32).contiguous() for name, t in state.items()}, assign=True)


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether a value is an ordinary tensor with its numbers in memory."""
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _unused(name: str) -> bool:
    """Classification heads that the encoder carries along and Segmenter never runs."""
    return name.removeprefix("encoder.").startswith(("head.", "head_dist.", "pre_logits.", "fc_norm."))
