"""How a model is trained: one Recipe per dataset of the paper, one for anyone's folder, one for drawn shapes.

A pretrained encoder of today brings its own fine-tuning along, whatever the dataset (TODAY).

Where the paper and its code differ, the code is followed: Nesterov momentum, a lowest learning rate, photometric
distortion, and dropout 0.1 in the mask decoder are in the code alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from segfast.checkpoints.native import config_of
from segfast.errors import BadOption
from segfast.train.fields import Recipe
from segfast.variants import DEIT, MIOU, MIOU_AT_640, VARIANTS, kind_of, near

# What AdamW brings along where nothing else is said (Appendix A).
ADAMW = MappingProxyType({"schedule": "cosine", "warmup": 0.1, "min_lr": 0.0, "nesterov": False})

# What fine-tunes DINOv2, DINOv3 and SigLIP2 (docs/results/encoders.md). Their weights, and LayerScale's most of all, are
# so small that one rate for all, high enough for a new decoder, ruins them.
TODAY: Mapping[str, Any] = MappingProxyType(
    {
        "optimizer": "adamw", "lr": 1e-3, "encoder_lr": 3e-5, "min_lr": 0.0, "schedule": "poly", "power": 0.9, "warmup": 0.1,
        "nesterov": False, "weight_decay": 0.05, "clip": 1.0, "drop_path": 0.0, "precision": "auto",
        "automatic": (8, 300, 20_000),
    }
)  # fmt: skip

# What a folder of one's own is trained with (docs/results/encoders.md), and what is where the paper's weights are asked for.
TODAY_MODEL, PAPER_MODEL = "seg-s-dinov2-14", "seg-b-mask-16"

# One Linear on a frozen encoder learns faster: measured there too.
FROZEN_LINEAR = MappingProxyType({"lr": 1e-2})


def recipe(name: str, model: str | None = None, **overrides: object) -> Recipe:
    """The Recipe of a dataset, with what it does otherwise for a model, and with `overrides`.

    Args:
        name: a key of RECIPES.
        model: a member of the family; None is the recipe's own, or the paper's where its weights are asked for, or none.
        overrides: fields of Recipe; AdamW brings cosine and warm-up unless they say otherwise, a DeiT's encoder is
            DeiT's, and an encoder of today is fine-tuned as TODAY says, unless it is random or SGD is asked for.

    Raises:
        BadOption: no such recipe or field, or a value out of range.
    """
    if name not in RECIPES:
        raise BadOption(f"no recipe is named {name!r}; {near(name, list(RECIPES))}")
    unknown = [key for key in overrides if key not in {item.name for item in dataclasses.fields(Recipe)}]
    if unknown:
        raise BadOption(f"a recipe has no field {', '.join(unknown)}; see python -m segfast.train --help")
    row = RECIPES[name]
    model = model or _model(row, overrides)
    encoder = _encoder_of(model, overrides)
    exceptions = EXCEPTIONS.get((name, model or ""), {})
    own: dict[str, Any] = {**_of_encoder(row, encoder), **exceptions, **_of_optimizer(row, encoder, overrides)}
    sides = dataclasses.replace(row, **exceptions).sides
    row = dataclasses.replace(row, **{**own, "model": model})
    fields: dict[str, Any] = {**_yielding(row, sides, overrides), **overrides}
    if row.fit_crop and encoder is not None:
        fields.setdefault("fit_crop", encoder.patch)
    return dataclasses.replace(row, **fields).check()


def _model(row: Recipe, overrides: Mapping[str, object]) -> str | None:
    """The model of a recipe where none is named; None is that of the checkpoint."""
    if overrides.get("checkpoint"):
        return None
    paper = overrides.get("encoder") in ("augreg", "orig", "none") or overrides.get("width")
    return PAPER_MODEL if row.model == TODAY_MODEL and paper else row.model


class _Encoder(NamedTuple):
    """An encoder that weights are loaded into: the name of its kind, empty for the paper's, its patch; its decoder."""

    kind: str
    patch: int
    decoder: str

    @property
    def of_today(self) -> bool:
        return self.kind not in ("", DEIT.name)


def _encoder_of(model: str | None, overrides: Mapping[str, object]) -> _Encoder | None:
    """The encoder of a family member or of a checkpoint of ours; None where only reading the weights would tell."""
    checkpoint, patch = overrides.get("checkpoint"), overrides.get("patch")
    if (row := VARIANTS.get(model or "")) is not None:
        return _Encoder(row.kind.name, patch if isinstance(patch, int) and patch > 0 else row.patch, row.decoder)
    config = (
        config_of(Path(checkpoint)) if isinstance(checkpoint, str) and checkpoint.endswith(".safetensors") else None
    )
    if config is None:
        return None
    kind = kind_of(config)
    return _Encoder("custom" if kind is None else kind.name, config.patch, config.decoder)


def _of_encoder(row: Recipe, encoder: _Encoder | None) -> dict[str, Any]:
    """What an encoder changes in a recipe: its own weights, and crops of whole patches."""
    if encoder is None:
        return {}
    weights = {"encoder": encoder.kind} if encoder.kind and row.encoder == "augreg" else {}
    if row.crop % encoder.patch == 0:
        return weights
    crop = row.crop + -row.crop % encoder.patch  # Variant.window's rule
    return weights | {name: crop for name in ("crop", "stride", "image_size") if getattr(row, name) == row.crop}


def _of_optimizer(row: Recipe, encoder: _Encoder | None, overrides: Mapping[str, object]) -> dict[str, Any]:
    """What goes with the optimizer: how an encoder of today is fine-tuned, or what AdamW brings along."""
    random = overrides.get("encoder", row.encoder) == "none" and not overrides.get("checkpoint")
    if encoder and encoder.of_today and not random and overrides.get("optimizer") != "sgd":
        source = f"{row.source}; {encoder.kind} fine-tuned as in docs/results/encoders.md"
        frozen = {"encoder_lr": None, **(FROZEN_LINEAR if encoder.decoder == "linear" else {})}
        return {**TODAY, **(frozen if overrides.get("freeze") else {}), "source": source}
    return dict(ADAMW) if overrides.get("optimizer") == "adamw" and row.optimizer != "adamw" else {}


def _yielding(row: Recipe, sides: tuple[int, int], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says of options that were not given, where it would contradict those that were.

    Args:
        sides: window and stride of the recipe, before an encoder made its crops whole patches.
    """
    fields: dict[str, Any] = {}
    side = given.get("window") or (given.get("crop") if row.window is None else None)
    if side and "stride" not in given:  # the same share of the window overlaps
        window, stride = sides
        fields["stride"] = max(1, round(side * stride / window))
    if any(given.get(name) for name in ("crop", "window", "stride")):
        fields["fit_crop"] = 0
    if isinstance(lr := given.get("lr"), (int, float)) and "min_lr" not in given and lr < row.min_lr:
        fields["min_lr"] = lr * row.min_lr / row.lr
    if given.get("momentum") == 0 and "nesterov" not in given:
        fields["nesterov"] = False
    if given.get("epochs") is not None and "iterations" not in given:
        fields["iterations"] = 0
    if given.get("width") and "encoder" not in given and not given.get("checkpoint"):
        fields["encoder"] = "none"  # none of another size is public
    if given.get("encoder", "none") != "none":  # which has a size of its own
        fields |= {name: None for name in ("width", "depth")}
    return fields


RECIPES: Mapping[str, Recipe] = MappingProxyType({
    "ade20k": Recipe(
        "ade20k", "section 4.2; Tables 3, 4 and 6: 160k iterations (64 epochs) of 20,210 images",
        image_size=512, max_ratio=4, crop=512, stride=512, iterations=160_000, batch=8, lr=1e-3,
    ),
    "pascal_context": Recipe(
        "pascal_context", "section 4.2; Table 7: 80k iterations (256 epochs) of 4,996 images",
        image_size=520, max_ratio=8, crop=480, stride=320, iterations=80_000, batch=16, lr=1e-3,
    ),
    "cityscapes": Recipe(
        "cityscapes", "section 4.2; Table 8: 80k iterations (216 epochs) of 2,975 images",
        image_size=1024, max_ratio=2, crop=768, stride=512, iterations=80_000, batch=8, lr=1e-2,
    ),
    "folder": Recipe(
        "folder", "section 4.2's fine-tuning, shorter, at the images' own size",
        model=TODAY_MODEL, image_size=None, crop=512, fit_crop=16, stride=480, iterations=0, batch=8, lr=1e-3,
        evaluate_every=None,
    ),
    "shapes": Recipe(
        "shapes", "Appendix A's training from scratch, of a model small enough for any machine",
        model="seg-ti-mask-8", encoder="none", width=128, depth=4, decoder_depth=1, image_size=None, crop=96,
        iterations=200, batch=16, optimizer="adamw", lr=1e-3, min_lr=0.0, schedule="cosine", warmup=0.1, nesterov=False,
        weight_decay=0.05, clip=1.0, ratio=(0.75, 1.5), drop_path=0.0, decoder_dropout=0.0, evaluate_every=100,
        save_every=100,
    ),
})  # fmt: skip

# Where a model is trained otherwise than its dataset's recipe says.
EXCEPTIONS: Mapping[tuple[str, str], Mapping[str, Any]] = MappingProxyType(
    {
        # Section 4.2: the resolution of the Swin Transformer.
        ("ade20k", "seg-l-mask-16"): MappingProxyType({"image_size": 640, "crop": 640, "stride": 640}),
        # Section 4.4: two layers did not fit into memory.
        ("cityscapes", "seg-l-mask-16"): MappingProxyType({"decoder_depth": 1}),
    }
)

# Datasets whose mIoU in the paper is multi-scale (Tables 7 and 8); ADE20K's is single-scale (Tables 3, 4 and 6).
MULTISCALE = ("pascal_context", "cityscapes")
# mIoU of the paper in percent, on the validation sets, of models trained as the recipes and EXCEPTIONS say.
EXPECTED: Mapping[str, Mapping[str, float]] = MappingProxyType({**MIOU, "ade20k": {**MIOU["ade20k"], **MIOU_AT_640}})
