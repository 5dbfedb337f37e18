"""Which values a Config may have: a file may say anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from segfast.errors import BadModel
from segfast.values import is_number, is_whole
from segfast.variants import DEIT, PLAIN, kind_of

if TYPE_CHECKING:
    from segfast.config import Config

# The largest values of whole-number fields, which are 1 at least, the fields that are yes or no, and those in [0, 1).
_WHOLE = {"patch": 256, "width": 16384, "depth": 1024, "heads": 1024, "decoder_depth": 1024, "num_classes": 65536}
_YES_OR_NO = (
    "distilled",
    "layer_scale",
    "class_token",
    "patch_positions",
    "position_antialias",
    "rope",
    "qkv_bias",
)
_FRACTIONS = ("encoder_eps", "decoder_eps", "encoder_dropout", "decoder_dropout", "drop_path")


def check_values(config: Config) -> None:
    """See that a Config's values are possible.

    Raises:
        BadModel: one is not; the message names it.
    """
    p, named = config.protocol, isinstance(config.name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", config.name)
    _require(named, "name", config.name)
    for name, most in _WHOLE.items():
        _require(is_whole(getattr(config, name)) and 1 <= getattr(config, name) <= most, name, getattr(config, name))
    for name in _FRACTIONS:
        _require(is_number(getattr(config, name)) and 0 <= getattr(config, name) < 1, name, getattr(config, name))
    for owner, name in (*((config, name) for name in _YES_OR_NO), (p, "small_windows"), (p, "crop_padding")):
        _require(isinstance(getattr(owner, name), bool), name, getattr(owner, name))
    _require(config.width % config.heads == 0, "heads", f"{config.heads}, which does not divide width {config.width}")
    _require(config.decoder in ("linear", "mask"), "decoder", config.decoder)
    _require(config.position_mode in ("bilinear", "bicubic"), "position_mode", config.position_mode)
    for name, size in (("image_size", config.image_size), ("window", p.window), ("stride", p.stride)):
        _require(len(size) == 2 and all(is_whole(side) and 1 <= side <= 65536 for side in size), name, size)
    _require(min(config.grid) >= 1, "image_size", f"{config.image_size}, smaller than the patch")
    for name, values in (("mean", p.mean), ("std", p.std)):
        _require(len(values) == 3 and all(is_number(value) and abs(value) < 1e6 for value in values), name, "those")
    _require(min(p.std) > 0, "std", p.std)
    gaps = any(s > w for s, w in zip(p.stride, p.window, strict=True))
    _require(not gaps, "stride", f"{p.stride}, over the window {p.window}")
    _check_fit(p.fit)
    _require(len(config.classes) == config.num_classes, "classes", f"{len(config.classes)} names")
    _require(all(isinstance(name, str) for name in config.classes), "classes", "anything but names")
    _require(len(config.palette) == config.num_classes, "palette", f"{len(config.palette)} colours")
    colours_fit = all(len(c) == 3 and all(is_whole(x) and 0 <= x <= 255 for x in c) for c in config.palette)
    _require(colours_fit, "palette", "colours that are not three numbers from 0 to 255")
    _check_encoder(config)
    _check_merge(config)


def _check_fit(fit: object) -> None:
    """See that what images are resized to fit into is two sides, the longer first."""
    if fit is not None:
        sides = fit if isinstance(fit, tuple) and len(fit) == 2 and all(map(is_whole, fit)) else (0, 0)
        _require(65536 >= sides[0] >= sides[1] >= 1, "fit", fit)


def _check_encoder(config: Config) -> None:
    """See that the fields of today's encoders go together."""
    for name, most in (("registers", 1024), ("hidden", 65536)):
        _require(is_whole(getattr(config, name)) and 0 <= getattr(config, name) <= most, name, getattr(config, name))
    temperature = config.rope_temperature
    _require(is_number(temperature) and 1 <= temperature < 1e9, "rope_temperature", temperature)
    _require(config.mlp in ("gelu", "gelu-tanh", "swiglu"), "mlp", config.mlp)
    mode = config.position_mode
    _require(mode == "bicubic" or not config.position_antialias, "position_antialias", f"set with {mode}")
    _require(config.class_token or not config.distilled, "distilled", "set without a class token")
    if kind_of(config) not in (PLAIN, DEIT):  # no other head size has been measured
        head = f"{config.heads} of {config.width // config.heads} channels; encoders other than the paper's have 64 in each"
        _require(config.width == 64 * config.heads, "heads", head)
    if config.rope:
        for name in ("patch_positions", "position_antialias"):
            _require(not getattr(config, name), name, "set beside rope, which has no position embeddings")


def _check_merge(config: Config) -> None:
    """See that the encoder can merge tokens so."""
    if config.merge is not None and (fault := config.merge.fault(config)) is not None:
        raise BadModel(f"merge cannot be {config.merge}: {fault}")


def _require(condition: object, name: str, value: object) -> None:
    if not condition:
        raise BadModel(f"{name} cannot be {value}")
