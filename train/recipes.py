"""How a model is trained: one Recipe per dataset of the paper, one for anyone's folder, one for drawn shapes.

Where the paper and its code differ, the code is followed: Nesterov momentum, a lowest learning rate, photometric
distortion, and dropout 0.1 in the mask decoder are in the code alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from segfast.errors import BadOption
from segfast.variants import MIOU, MIOU_AT_640, VARIANTS, near

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("poly", "cosine")
PRECISIONS = ("fp32", "bf16", "fp16")
# What AdamW brings along where nothing else is said (Appendix A).
ADAMW = MappingProxyType({"schedule": "cosine", "warmup": 0.1, "min_lr": 0.0, "nesterov": False})

Range = tuple[float, float]


def _option(help: str, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """A field of a Recipe, which is also an option of the command line."""
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes, up to rounding; the command line is made of its fields."""

    dataset: str = _option(
        "name of the dataset's layout", choices=("ade20k", "pascal_context", "cityscapes", "folder", "shapes")
    )
    source: str = _option("where these values come from", "", fixed=True)
    model: str | None = _option("family member, such as seg-b-mask-16; none: the checkpoint's", "seg-b-mask-16")
    encoder: str = _option(
        "weights to start from: augreg, orig, deit (a DeiT's own; section 4.2), a timm name, a file, or none", "augreg"
    )
    checkpoint: str | None = _option("a trained Segmenter to continue from instead: file or published name", None)
    width: int | None = _option("of the encoder, a multiple of 64, instead of the model's", None)
    depth: int | None = _option("blocks of the encoder, instead of the model's", None)
    decoder_depth: int = _option("blocks of a mask decoder (section 3.2)", 2)

    iterations: int = _option("steps of the optimizer", 160_000)
    batch: int = _option("images per step, over all devices and micro-batches", 8)
    optimizer: str = _option(
        "sgd (section 4.2), or adamw with cosine and warm-up (Appendix A)", "sgd", choices=OPTIMIZERS
    )
    lr: float = _option("learning rate at its highest", 1e-3)
    min_lr: float = _option("learning rate at its lowest", 1e-5)
    schedule: str = _option("how the rate falls", "poly", choices=SCHEDULES)
    power: float = _option("of the poly schedule", 0.9)
    warmup: float = _option("share of the iterations in which the rate rises linearly", 0.0)
    momentum: float = _option("of SGD", 0.9)
    nesterov: bool = _option("momentum of SGD by Nesterov", True)
    beta1: float = _option("of AdamW", 0.9)
    beta2: float = _option("of AdamW", 0.999)
    weight_decay: float = _option("of all parameters", 0.0)
    clip: float | None = _option("largest norm of the gradient", None)

    image_size: int | None = _option("short side that images are resized to before augmentation; none: their own", 512)
    max_ratio: float = _option("long side over short side, at most, of that resizing", 4)
    crop: int = _option("side of the training crops", 512)
    window: int | None = _option("side of the sliding window of the trained model; none: the crop", None)
    stride: int | None = _option("of that window; none: the window", None)
    ratio: tuple[float, float] = _option("range of the random resizing", (0.5, 2.0))
    cat_max_ratio: float = _option("a crop of which one class covers this share is drawn again", 0.75)
    flip: float = _option("probability of the mirror image", 0.5)
    brightness: int = _option("photometric distortion: added at most", 32)
    contrast: tuple[float, float] = _option("photometric distortion: range of the factor", (0.5, 1.5))
    saturation: tuple[float, float] = _option("photometric distortion: range of the factor", (0.5, 1.5))
    hue: int = _option("photometric distortion: added at most, of 180", 18)

    dropout: float = _option("in the encoder (Table 2)", 0.0)
    drop_path: float = _option("stochastic depth of the encoder, at its last block (Table 2)", 0.1)
    decoder_dropout: float = _option("in the mask decoder", 0.1)
    fraction: float = _option("share of the training set to use (Table 5)", 1.0)
    precision: str = _option("fp32, or autocast to bf16 or fp16", "fp32", choices=PRECISIONS)
    seed: int = _option("of every random number", 0)
    evaluate_every: int = _option("iterations between evaluations; 0: only the last", 5000)
    save_every: int = _option("iterations between saved states", 1000)

    @property
    def sides(self) -> tuple[int, int]:
        """Window and stride of the sliding window."""
        window = self.window or self.crop
        return window, self.stride or window

    @property
    def warmup_iterations(self) -> int:
        """Iterations in which the learning rate rises."""
        return round(self.warmup * self.iterations)

    @property
    def fit(self) -> tuple[int, int] | None:
        """(long, short) that images are made to fit before they are augmented or evaluated, if they are."""
        return None if self.image_size is None else (int(self.max_ratio * self.image_size), self.image_size)

    def check(self) -> Recipe:
        """Itself, if its values are possible.

        Raises:
            BadOption: one is not; the message names the option and its range.
        """
        for item in dataclasses.fields(self):
            value, choices = getattr(self, item.name), item.metadata.get("choices")
            if choices and value not in choices:
                raise BadOption(f"--{flag(item)} must be one of {', '.join(choices)}; got {value!r}")
            if item.name in _RANGES and value is not None:
                _check_range(flag(item), value, *_RANGES[item.name])
        window, stride = self.sides
        if stride > window:
            raise BadOption(f"--stride must be at most the window, {window}; got {stride}")
        if self.min_lr > self.lr:
            raise BadOption(f"--min-lr must be at most --lr, {self.lr}; got {self.min_lr}")
        if self.width is not None and self.width % 64:
            raise BadOption(f"--width must be a multiple of 64, the size of a head (section 4.2); got {self.width}")
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise BadOption("--nesterov needs a --momentum over 0; add --no-nesterov")
        return self


def recipe(name: str, model: str | None = None, **overrides: Any) -> Recipe:
    """The Recipe of a dataset, with what it does otherwise for a model, and with `overrides`.

    Args:
        name: a key of RECIPES.
        model: a member of the family; None is the recipe's own.
        overrides: fields of Recipe; AdamW brings cosine and warm-up unless they say otherwise, and a DeiT's
            encoder is DeiT's.

    Raises:
        BadOption: no such recipe or field, or a value out of range.
    """
    if name not in RECIPES:
        raise BadOption(f"no recipe is named {name!r}; {near(name, list(RECIPES))}")
    unknown = [key for key in overrides if key not in {item.name for item in dataclasses.fields(Recipe)}]
    if unknown:
        raise BadOption(f"a recipe has no field {', '.join(unknown)}; see python -m segfast.train --help")
    row = RECIPES[name]
    model = model or (None if overrides.get("checkpoint") else row.model)
    optimizer = ADAMW if overrides.get("optimizer") == "adamw" and row.optimizer != "adamw" else {}
    exceptions = EXCEPTIONS.get((name, model), {}) if model else {}
    known = VARIANTS.get(model or "")
    encoder = {"encoder": "deit"} if known and known.distilled and row.encoder == "augreg" else {}
    return dataclasses.replace(row, **{**exceptions, **optimizer, **encoder, "model": model, **overrides}).check()


def flag(item: dataclasses.Field[Any]) -> str:
    """The command line's name of a field."""
    return item.name.replace("_", "-")


def _check_range(name: str, value: Any, least: float, most: float) -> None:
    values = value if isinstance(value, tuple) else (value,)
    if not all(math.isfinite(number) and least <= number <= most for number in values):
        raise BadOption(f"--{name} must lie between {least:g} and {most:g}; got {value}")
    if isinstance(value, tuple) and (len(value) != 2 or value[0] > value[1]):
        raise BadOption(f"--{name} is a range: two numbers, the lower first; got {value}")


_MANY, _SIDE, _BELOW_ONE = 10**9, 8192, 0.999999
_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "width": (64, 16384),
        "depth": (1, 1024),
        "decoder_depth": (1, 1024),
        "iterations": (1, _MANY),
        "batch": (1, 65536),
        "lr": (0, 1e3),
        "min_lr": (0, 1e3),
        "power": (0, 100),
        "warmup": (0, _BELOW_ONE),
        "momentum": (0, _BELOW_ONE),
        "beta1": (0, _BELOW_ONE),
        "beta2": (0, _BELOW_ONE),
        "weight_decay": (0, 1e3),
        "clip": (1e-9, 1e9),
        "image_size": (8, _SIDE),
        "max_ratio": (1, 1000),
        "crop": (8, _SIDE),
        "window": (8, _SIDE),
        "stride": (1, _SIDE),
        "ratio": (0.01, 100),
        "cat_max_ratio": (0, 1),
        "flip": (0, 1),
        "brightness": (0, 255),
        "contrast": (0, 100),
        "saturation": (0, 100),
        "hue": (0, 180),
        "dropout": (0, _BELOW_ONE),
        "drop_path": (0, _BELOW_ONE),
        "decoder_dropout": (0, _BELOW_ONE),
        "fraction": (1e-9, 1),
        "seed": (0, 2**63 - 1),
        "evaluate_every": (0, _MANY),
        "save_every": (1, _MANY),
    }
)

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
        image_size=None, crop=512, stride=480, iterations=20_000, batch=8, lr=1e-3, evaluate_every=1000,
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
