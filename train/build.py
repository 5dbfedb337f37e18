"""The model that a run starts from: an encoder's weights, a checkpoint, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segfast.checkpoints.load import load_model
from segfast.config import Config, whole_patches
from segfast.create import create_model
from segfast.datasets.base import Dataset
from segfast.errors import BadOption, NotSupported
from segfast.evaluation.evaluate import RESIZED
from segfast.kernels.attend import BACKENDS, attention_backend, cudnn_is_right
from segfast.kernels.rotary import Rotation
from segfast.model import Segmenter, resample_positions
from segfast.token_merge import Merge
from segfast.train.attend import cpu_attention
from segfast.train.fields import Recipe
from segfast.train.layers import freeze
from segfast.variants import VARIANTS, family_name, variant

ATTENTIONS = tuple(BACKENDS)
# Words for the weights that a member of the family starts from.
ENCODERS = {"augreg", "orig"} | {row.kind.name for row in VARIANTS.values() if row.kind.name}
# Encoders of the first ViT paper, trained by random cropping only (section 4.2), and DeiT's without distillation
# token; by width and patch.
ORIG = {
    (768, 16): "vit_base_patch16_384.orig_in21k_ft_in1k",
    (768, 32): "vit_base_patch32_224.orig_in21k",
    (1024, 16): "vit_large_patch16_224.orig_in21k",
    (1024, 32): "vit_large_patch32_384.orig_in21k_ft_in1k",
}
DEIT = {
    (192, 16): "deit_tiny_patch16_224.fb_in1k",
    (384, 16): "deit_small_patch16_224.fb_in1k",
    (768, 16): "deit_base_patch16_384.fb_in1k",
}


def build_model(recipe: Recipe, dataset: Dataset) -> tuple[Segmenter, list[str]]:
    """The model of a recipe for the classes of a dataset, ready to train, and what to tell about it.

    Random weights are those of the recipe's seed on every machine.

    Raises:
        BadOption: options contradict each other.
        BadModel, UnknownModel, DownloadFailed: as `create_model` and `load_model`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.checkpoint is not None:
            model, notes = _from_checkpoint(recipe, dataset)
        else:
            model, notes = _from_encoder(recipe, dataset)
    freeze(model, recipe)
    return model.train(), notes


def encoder_source(recipe: Recipe) -> str | None:
    """The timm name or file of the encoder's weights; None for random ones.

    Raises:
        BadOption: there are no such weights for this model.
    """
    assert recipe.model is not None  # only a checkpoint needs none
    row, kind = variant(recipe.model), recipe.encoder
    if kind == "none":
        return None
    if kind not in ENCODERS:
        return kind
    wants_deit = kind == "deit"
    if row.kind.name:
        found = row.encoder if kind == row.kind.name else None
    elif kind == "augreg":
        found = row.encoder if row.encoder and "augreg" in row.encoder else None
    else:
        found = (DEIT if wants_deit else ORIG).get((row.width, row.patch))
    if found is None:
        known = f"its own is {row.encoder}" if row.encoder else "none are public"
        raise BadOption(
            f"there are no {kind} encoder weights for {row.name} ({known}); name a file, a timm name, or none"
        )
    return found


def fetched(recipe: Recipe) -> str | None:
    """The encoder that a run may have to wait for, in words; None where it starts from a file, a checkpoint or nothing.

    Raises:
        BadOption: as `encoder_source`.
    """
    source = encoder_source(recipe) if recipe.checkpoint is None else None
    if source is None or Path(source).exists():
        return None
    return f"encoder {source}: from timm's cache, or downloaded now (without a network: --encoder FILE)"


def set_attention(model: Segmenter, name: str, device: torch.device) -> None:
    """Choose what computes attention; `auto` is what was measured as the fastest to train with, else PyTorch's choice.

    Raises:
        BadOption: there is no such choice, or it is not installed.
        NotSupported: it cannot run on this device.
    """
    if name not in ATTENTIONS:
        raise BadOption(f"--attention must be one of {', '.join(ATTENTIONS)}; got {name!r}")
    if device.type != "cuda" and name not in ("auto", "sdpa"):
        raise NotSupported(f"--attention {name} needs an NVIDIA GPU; use --attention sdpa")
    if name == "auto" and device.type == "cpu":
        model.set_attention(cpu_attention)
        return
    if name == "cudnn" and (wrong := [N for N in _lengths(model) if not cudnn_is_right(N)]):
        raise BadOption(
            f"--attention cudnn: this cuDNN gives wrong answers for {' and '.join(map(str, wrong))} tokens, which 128 does not "
            "divide; use --attention auto"
        )
    try:
        model.set_attention(attention_backend(name))
    except ValueError as error:
        raise BadOption(str(error)) from None


def _lengths(model: Segmenter) -> list[int]:
    """Tokens that attend to each other in training, in the encoder and in a mask decoder."""
    config = model.config
    patches = config.grid[0] * config.grid[1]
    return sorted({*config.encoder_tokens(config.grid)}) + [patches + config.num_classes] * (config.decoder == "mask")


def save_activations(model: Segmenter) -> None:
    """Keep only the input of every block of the encoder, and compute the rest again for the gradient (Seg-L/8)."""
    for block in model.encoder.blocks:
        block.forward = partial(_recomputed, block.forward)  # type: ignore[method-assign]


def _recomputed(
    forward: Callable[[Tensor, Rotation | None], Tensor], tokens: Tensor, rotation: Rotation | None = None
) -> Tensor:
    """A block's output, recomputed for the gradient if one is wanted; the Engine of an evaluation wants none."""
    if not torch.is_grad_enabled():
        return forward(tokens, rotation)
    return checkpoint(forward, tokens, rotation, use_reentrant=False)


def _from_encoder(recipe: Recipe, dataset: Dataset) -> tuple[Segmenter, list[str]]:
    source = encoder_source(recipe)
    resized = recipe.width is not None or (recipe.depth is not None and source is None)
    if source is not None and resized:
        raise BadOption("--width makes a model that no encoder fits; add --encoder none")
    assert recipe.model is not None
    base = create_model(
        recipe.model,
        num_classes=len(dataset.classes),
        image_size=recipe.crop,
        pretrained=source or False,
        patch=recipe.patch,
        depth=recipe.depth if source else None,
    )
    model = Segmenter(_trained_config(base.config, recipe, dataset, source))
    if not resized:
        model.encoder.load_state_dict(base.encoder.state_dict())
    start = f"encoder {source}, decoder random" if source else "random weights"
    return model, [f"{model.config.name}, {_size(model)}: {start}"]


def _from_checkpoint(recipe: Recipe, dataset: Dataset) -> tuple[Segmenter, list[str]]:
    """A checkpoint's model; where its classes are not as many, with a new head; its positions resampled to the crop."""
    assert recipe.checkpoint is not None
    theirs = load_model(recipe.checkpoint)
    if recipe.model not in (None, theirs.config.name):
        raise BadOption(f"{recipe.checkpoint} holds {theirs.config.name}, not {recipe.model}; leave --model out")
    same = replace(recipe, decoder_depth=theirs.config.decoder_depth, width=None, depth=None)
    config = _trained_config(theirs.config, same, dataset, recipe.checkpoint)
    model, state = Segmenter(config), theirs.state_dict()
    prefix, old = config.position_prefix, theirs.config.grid
    if config.grid != old and not config.rope:
        positions = state["encoder.pos_embed"]
        how = config.position_mode, config.position_antialias
        state["encoder.pos_embed"] = resample_positions(positions, prefix, old, config.grid, *how)
    fresh = model.state_dict()
    new = [name for name in fresh if state[name].shape != fresh[name].shape]
    model.load_state_dict({name: fresh[name] if name in new else state[name] for name in fresh})
    notes = [f"{config.name}, {_size(model)}: continued from {recipe.checkpoint}"]
    if new:
        notes.append(
            f"ATTENTION: {recipe.checkpoint} has {theirs.config.num_classes} classes, {dataset.name} {config.num_classes}: "
            f"{', '.join(new)} start at random"
        )
    elif theirs.config.classes != config.classes:
        notes.append(f"ATTENTION: the classes of {recipe.checkpoint} have other names; its head is kept as it is")
    return model, notes


def _trained_config(config: Config, recipe: Recipe, dataset: Dataset, start: str | None) -> Config:
    """What the trained model's files will say."""
    window, stride = recipe.sides
    width, depth = recipe.width or config.width, recipe.depth or config.depth
    heads = config.heads if recipe.width is None else width // 64
    name = (
        config.name
        if (width, depth) == (config.width, config.depth)
        else family_name(
            width=width,
            depth=depth,
            heads=heads,
            patch=config.patch,
            decoder=config.decoder,
            kind=config,
        )
    )
    fit = None if dataset.name in RESIZED else recipe.fit  # the paper's are resized in evaluation alone
    protocol = replace(config.protocol, window=(window, window), stride=(stride, stride), fit=fit)
    trained = replace(
        config,
        name=name,
        width=width,
        depth=depth,
        heads=heads,
        decoder_depth=recipe.decoder_depth,
        num_classes=len(dataset.classes),
        image_size=whole_patches((recipe.crop, recipe.crop), config.patch),
        protocol=protocol,
        classes=tuple(dataset.classes),
        palette=tuple(dataset.palette),
        encoder_dropout=recipe.dropout,
        decoder_dropout=recipe.decoder_dropout,
        drop_path=recipe.drop_path,
        provenance={"start": start or "random", "dataset": dataset.name},
        merge=config.merge if recipe.merge is None else Merge.parse(recipe.merge),
    )
    if trained.merge is not None:
        trained.merge.check(trained)
    return trained.check()


def _size(model: Segmenter) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} million parameters"
