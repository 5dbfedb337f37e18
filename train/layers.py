"""Which layers of the encoder train, and how fast: frozen ones, a rate of the encoder's own, decay from layer to layer."""

from __future__ import annotations

from typing import TypedDict

from torch import nn

from segfast.errors import BadOption
from segfast.model import DropPath, Segmenter
from segfast.train.fields import Recipe


class Group(TypedDict):
    """Parameters that an optimizer moves at one rate: `factor` times the recipe's."""

    params: list[nn.Parameter]
    factor: float


def freeze(model: Segmenter, recipe: Recipe) -> None:
    """Have the encoder's frozen layers keep their weights and drop nothing, in training too.

    As nothing in them wants a gradient, PyTorch keeps no activations of theirs.

    Raises:
        BadOption: more blocks are to be frozen than there are.
    """
    encoder = model.encoder
    depth = len(encoder.blocks)
    if recipe.freeze_blocks > depth:
        raise BadOption(
            f"--freeze-blocks must be at most {depth}, the blocks of {model.config.name}; got {recipe.freeze_blocks}"
        )
    first = depth + 2 if recipe.freeze else recipe.freeze_blocks + 1 if recipe.freeze_blocks else 0
    for name, parameter in encoder.named_parameters():
        if _layer(name, depth) < first:
            parameter.requires_grad_(False)
    for name, module in encoder.named_modules():
        if _layer(name, depth) < first:
            _drop_nothing(module)


def groups(model: Segmenter, recipe: Recipe) -> list[Group]:
    """The parameters that train, by the factor of their rate and in the model's order.

    The decoder's factor is 1. The encoder's is encoder_lr / lr, times layer_decay for each layer that lies
    between it and the decoder, as BEiT and timm have it: layers are the embeddings, every block, and the last norm.
    """
    depth, found = len(model.encoder.blocks), dict[float, list[nn.Parameter]]()
    ratio = 1.0 if recipe.encoder_lr is None else recipe.encoder_lr / recipe.lr
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        factor = ratio * recipe.layer_decay ** (depth + 1 - _layer(rest, depth)) if part == "encoder" else 1.0
        if parameter.requires_grad:
            found.setdefault(factor, []).append(parameter)
    return [Group(params=parameters, factor=factor) for factor, parameters in found.items()]


def _layer(name: str, depth: int) -> int:
    """The layer that something of the encoder belongs to: 0 embeddings, 1 … depth blocks, depth + 1 the last norm."""
    first, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) + 1 if first == "blocks" and rest else depth + 1 if first == "norm" else 0


def _drop_nothing(module: nn.Module) -> None:
    if isinstance(module, nn.Dropout):
        module.p = 0.0
    elif isinstance(module, DropPath):
        module.rate = 0.0
