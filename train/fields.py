"""What a Recipe is: its fields, which are also the options of the command line, and the values they may have."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from segfast.datasets.options import Reading
from segfast.errors import BadOption
from segfast.token_merge import Merge

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("poly", "cosine")
PRECISIONS = ("fp32", "bf16", "fp16", "auto")
_MANY, _SIDE, _BELOW_ONE, _HIGHEST = 10**9, 8192, 0.999999, 1e3

Range = tuple[float, float]


def _option(help: str, default: object = dataclasses.MISSING, **more: object) -> Any:
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
        "weights to start from: augreg, orig (section 4.2), the model's own (deit, dinov2, dinov2reg, dinov3, siglip2), "
        "a timm name, a file, or none",
        "augreg",
    )
    checkpoint: str | None = _option("a trained Segmenter to continue from instead: file or published name", None)
    width: int | None = _option("of the encoder, a multiple of 64, instead of the model's", None, within=(64, 16384))
    depth: int | None = _option(
        "blocks of the encoder, instead of the model's: the first ones of its weights", None, within=(1, 1024)
    )
    patch: int | None = _option(
        "of the encoder: 8, 14, 16 or 32, whose weights are resampled; none: the model's", None, within=(1, 256)
    )
    decoder_depth: int = _option("blocks of a mask decoder (section 3.2)", 2, within=(1, 1024))

    merge: str | None = _option(
        "merge the most alike tokens behind a block of the encoder, FRACTION@BLOCK such as 0.25@1; none: as the "
        "checkpoint says",
        None,
    )

    freeze: bool = _option("train the decoder alone: the encoder keeps its weights and drops nothing", False)
    freeze_blocks: int = _option(
        "blocks of the encoder, from its first, that keep their weights, and the embeddings before them",
        0,
        within=(0, 1024),
    )
    encoder_lr: float | None = _option("learning rate of the encoder at its highest; none: --lr", None)
    layer_decay: float = _option("factor of the encoder's rate from each block to the one before it", 1.0)

    iterations: int = _option(
        "steps of the optimizer; 0: as --epochs or the training set's size say", 160_000, within=(0, _MANY)
    )
    epochs: float | None = _option("passes over the training set, instead of iterations", None, within=(1e-6, 1e6))
    automatic: tuple[int, int, int] = _option(
        "where neither says how long: passes over the training set, iterations at least, and at most",
        (64, 1_000, 20_000),
        fixed=True,
    )
    patience: int = _option("evaluations without a better mIoU after which a run ends; 0: none", 0, within=(0, _MANY))
    batch: int = _option("images per step, over all devices and micro-batches", 8, within=(1, 65536))
    optimizer: str = _option(
        "sgd (section 4.2), or adamw with cosine and warm-up (Appendix A)", "sgd", choices=OPTIMIZERS
    )
    lr: float = _option("learning rate at its highest", 1e-3, within=(0, _HIGHEST))
    min_lr: float = _option("learning rate at its lowest", 1e-5, within=(0, _HIGHEST))
    schedule: str = _option("how the rate falls", "poly", choices=SCHEDULES)
    power: float = _option("of the poly schedule", 0.9, within=(0, 100))
    warmup: float = _option("share of the iterations in which the rate rises linearly", 0.0, within=(0, _BELOW_ONE))
    momentum: float = _option("of SGD", 0.9, within=(0, _BELOW_ONE))
    nesterov: bool = _option("momentum of SGD by Nesterov", True)
    beta1: float = _option("of AdamW", 0.9, within=(0, _BELOW_ONE))
    beta2: float = _option("of AdamW", 0.999, within=(0, _BELOW_ONE))
    weight_decay: float = _option("of all parameters", 0.0, within=(0, 1e3))
    clip: float | None = _option("largest norm of the gradient", None, within=(1e-9, 1e9))

    class_weights: str | None = _option(
        "of the cross-entropy: inverse (of the classes' frequency), or K numbers with commas; none: all alike", None
    )
    dice: float = _option("weight of a Dice loss beside the cross-entropy", 0.0, within=(0, 1e3))

    image_size: int | None = _option(
        "short side that images are resized to before augmentation; none: their own", 512, within=(8, _SIDE)
    )
    max_ratio: float = _option("long side over short side, at most, of that resizing", 4, within=(1, 1000))
    crop: int = _option("side of the training crops", 512, within=(8, _SIDE))
    fit_crop: int = _option(
        "patch, where crops fit the pictures in whole ones of it; 0: they are as said", 0, fixed=True
    )
    window: int | None = _option(
        "side of the sliding window of the trained model; none: the crop", None, within=(8, _SIDE)
    )
    stride: int | None = _option("of that window; none: the window", None, within=(1, _SIDE))
    ratio: tuple[float, float] = _option("range of the random resizing", (0.5, 2.0), within=(0.01, 100))
    cat_max_ratio: float = _option("a crop of which one class covers this share is drawn again", 0.75, within=(0, 1))
    flip: float = _option("probability of the mirror image", 0.5, within=(0, 1))
    vertical_flip: float = _option("probability of the picture upside down", 0.0, within=(0, 1))
    quarter_turns: float = _option("probability of a turn by 90, 180 or 270 degrees", 0.0, within=(0, 1))
    rotate: float = _option("largest turn to either side, in degrees", 0.0, within=(0, 180))
    brightness: int = _option("photometric distortion: added at most", 32, within=(0, 255))
    contrast: tuple[float, float] = _option("photometric distortion: range of the factor", (0.5, 1.5), within=(0, 100))
    saturation: tuple[float, float] = _option(
        "photometric distortion: range of the factor", (0.5, 1.5), within=(0, 100)
    )
    hue: int = _option("photometric distortion: added at most, of 180", 18, within=(0, 180))

    dropout: float = _option("in the encoder (Table 2)", 0.0, within=(0, _BELOW_ONE))
    drop_path: float = _option(
        "stochastic depth of the encoder, at its last block (Table 2)", 0.1, within=(0, _BELOW_ONE)
    )
    decoder_dropout: float = _option("in the mask decoder", 0.1, within=(0, _BELOW_ONE))
    fraction: float = _option("share of the training set to use (Table 5)", 1.0, within=(1e-9, 1))
    ignore_index: int | None = _option(
        "folder: a value of masks that is no class, besides 255", None, within=(0, 65535)
    )
    reduce_zero_label: bool = _option("folder: 0 in masks is no class, and other values are one too high", False)
    map: str | None = _option("folder: a file that merges, renames, ignores or drops classes by name", None)
    val_fraction: float | None = _option(
        "folder: share of the pictures to evaluate on, where none are set apart", None, within=(1e-6, 0.999999)
    )
    follow_links: bool = _option("folder: follow links wherever they lead", False)
    precision: str = _option(
        "fp32, autocast to bf16 or fp16, or auto: bf16 where the machine has it", "fp32", choices=PRECISIONS
    )
    seed: int = _option("of every random number", 0, within=(0, 2**63 - 1))
    evaluate_every: int | None = _option(
        "iterations between evaluations; 0: only the last; none: ten in a run", 5000, within=(0, _MANY)
    )
    save_every: int = _option("iterations between saved states", 1000, within=(1, _MANY))

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
    def reading(self) -> Reading:
        """How a folder of one's own is read."""
        return Reading(**{item.name: getattr(self, item.name) for item in dataclasses.fields(Reading)})

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
            if "within" in item.metadata and value is not None:
                _check_range(flag(item), value, *item.metadata["within"])
        window, stride = self.sides
        if stride > window:
            raise BadOption(f"--stride must be at most the window, {window}; got {stride}")
        if self.min_lr > self.lr:
            raise BadOption(f"--min-lr must be at most --lr, {self.lr}; got {self.min_lr}")
        if self.iterations and self.epochs is not None:
            raise BadOption("--iterations and --epochs both say how long to train; give one of them")
        if self.class_weights not in (None, "inverse"):
            weights_of(self.class_weights)
        if self.merge is not None:
            Merge.parse(self.merge)
        if self.width is not None and self.width % 64:
            raise BadOption(f"--width must be a multiple of 64, the size of a head (section 4.2); got {self.width}")
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise BadOption("--nesterov needs a --momentum over 0; add --no-nesterov")
        self._check_encoder()
        return self

    def _check_encoder(self) -> None:
        """That what is said of the encoder's training fits together."""
        if self.patch is not None and self.checkpoint is not None:
            raise BadOption("--patch resamples an encoder's weights; a --checkpoint has its own patch: leave one out")
        if (self.freeze or self.freeze_blocks) and self.encoder == "none" and self.checkpoint is None:
            raise BadOption(
                f"--freeze{'' if self.freeze else '-blocks'} would keep random weights; name an --encoder, or leave it out"
            )
        if self.freeze and (self.freeze_blocks or self.encoder_lr is not None or self.layer_decay != 1):
            raise BadOption(
                "--freeze leaves nothing for --freeze-blocks, --encoder-lr and --layer-decay; leave them out"
            )
        if self.encoder_lr is not None and not 0 < self.encoder_lr <= _HIGHEST:
            raise BadOption(
                f"--encoder-lr must lie over 0 and up to {_HIGHEST:g}; got {self.encoder_lr}; --freeze keeps the encoder"
            )
        if self.encoder_lr is not None and not self.lr:
            raise BadOption("--encoder-lr follows the schedule of --lr, which must be over 0")
        if not 0 < self.layer_decay <= 1:
            raise BadOption(
                f"--layer-decay must lie over 0 and up to 1, where every layer has the same rate; got {self.layer_decay}"
            )


def weights_of(text: str) -> tuple[float, ...]:
    """The numbers of `class_weights`, one a class.

    Raises:
        BadOption: they are none, or none is over 0.
    """
    try:
        weights = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        weights = ()
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise BadOption(
            f"--class-weights must be inverse, or a number from 0 for every class such as 1,2.5,1; got {text!r}"
        )
    return weights


def flag(item: dataclasses.Field[object]) -> str:
    """The command line's name of a field."""
    return item.name.replace("_", "-")


def _check_range(name: str, value: float | Range, least: float, most: float) -> None:
    values = value if isinstance(value, tuple) else (value,)
    if not all(math.isfinite(number) and least <= number <= most for number in values):
        raise BadOption(f"--{name} must lie between {least:g} and {most:g}; got {value}")
    if isinstance(value, tuple) and (len(value) != 2 or value[0] > value[1]):
        raise BadOption(f"--{name} is a range: two numbers, the lower first; got {value}")
