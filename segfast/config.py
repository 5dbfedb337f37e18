"""The configuration that travels with a model, inside `.safetensors` and `.onnx` files alike."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from segfast import classes as labels
from segfast import formats
from segfast.errors import BadModel, BadOption
from segfast.protocol import Protocol, Size
from segfast.values import is_number, is_whole
from segfast.variants import Variant

METADATA_KEY = "segfast"
# What the metadata of an exported file says beside the Config.
EXPORTED = ("size", "precision", "output", "digest")


@dataclass(frozen=True)
class Config:
    """What a Segmenter's tensors do not say; checkpoints decide it.

    Attributes:
        name: of the family member, or `seg-custom-…` where the sizes are not one of its rows.
        patch, width, depth, heads: of the encoder (paper, Table 1).
        decoder: `linear` or `mask` (paper, section 3.2).
        decoder_depth: blocks of the mask decoder: 2, but 1 for Cityscapes' Seg-L (section 4.4).
        num_classes: K.
        image_size: of training; its grid of patches is that of the position embeddings.
        protocol: preprocessing and sliding window.
        classes, palette: K names, each of its own (a second `road` becomes `road (2)`), and K RGB colours.
        distilled: the encoder has a distillation token (DeiT).
        encoder_eps, decoder_eps: of the LayerNorms (original 1e-5; MMSegmentation's encoder 1e-6).
        position_mode: resampling of position embeddings, `bilinear` or `bicubic` (MMSegmentation).
        encoder_dropout, decoder_dropout, drop_path: in training only (section 4.3; code).
        provenance: where the weights come from, in words.
    """

    name: str
    patch: int
    width: int
    depth: int
    heads: int
    decoder: str
    num_classes: int
    image_size: Size
    protocol: Protocol
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    decoder_depth: int = 2
    distilled: bool = False
    encoder_eps: float = 1e-5
    decoder_eps: float = 1e-5
    position_mode: str = "bilinear"
    encoder_dropout: float = 0.0
    decoder_dropout: float = 0.1
    drop_path: float = 0.1
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Names are keys of answers, so no two are alike, wherever they come from."""
        object.__setattr__(self, "classes", labels.unique(self.classes))

    @property
    def grid(self) -> Size:
        """Patches (h, w) of the training size: the grid of the position embeddings."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token, and DeiT's distillation token."""
        return 2 if self.distilled else 1

    @property
    def random_weights(self) -> bool:
        """Whether the decoder, at least, was never trained: such a model is for timing and for training only."""
        weights = self.provenance.get("weights", "")
        return weights == "random" or weights.endswith(", decoder random")

    def check(self) -> Config:
        """Itself, if its values are possible.

        Raises:
            BadModel: a value is not; the message names it.
        """
        p, named = self.protocol, isinstance(self.name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", self.name)
        _require(named, "name", self.name)
        for name, most in _WHOLE.items():
            _require(is_whole(getattr(self, name)) and 1 <= getattr(self, name) <= most, name, getattr(self, name))
        for name in _FRACTIONS:
            _require(is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1, name, getattr(self, name))
        for owner, name in ((self, "distilled"), (p, "small_windows"), (p, "crop_padding")):
            _require(isinstance(getattr(owner, name), bool), name, getattr(owner, name))
        _require(self.width % self.heads == 0, "heads", f"{self.heads}, which does not divide width {self.width}")
        _require(self.decoder in ("linear", "mask"), "decoder", self.decoder)
        _require(self.position_mode in ("bilinear", "bicubic"), "position_mode", self.position_mode)
        for name, size in (("image_size", self.image_size), ("window", p.window), ("stride", p.stride)):
            _require(len(size) == 2 and all(is_whole(side) and 1 <= side <= 65536 for side in size), name, size)
        _require(min(self.grid) >= 1, "image_size", f"{self.image_size}, smaller than the patch")
        for name, values in (("mean", p.mean), ("std", p.std)):
            _require(len(values) == 3 and all(is_number(value) and abs(value) < 1e6 for value in values), name, "those")
        _require(min(p.std) > 0, "std", p.std)
        gaps = any(s > w for s, w in zip(p.stride, p.window, strict=True))
        _require(not gaps, "stride", f"{p.stride}, over the window {p.window}")
        sides = (65536, *p.fit, 0) if isinstance(p.fit, tuple) and len(p.fit) == 2 and all(map(is_whole, p.fit)) else ()
        _require(p.fit is None or (sides and list(sides) == sorted(sides, reverse=True) and p.fit[1]), "fit", p.fit)
        _require(len(self.classes) == self.num_classes, "classes", f"{len(self.classes)} names")
        _require(all(isinstance(name, str) for name in self.classes), "classes", "anything but names")
        _require(len(self.palette) == self.num_classes, "palette", f"{len(self.palette)} colours")
        colours_fit = all(len(c) == 3 and all(is_whole(x) and 0 <= x <= 255 for x in c) for c in self.palette)
        _require(colours_fit, "palette", "colours that are not three numbers from 0 to 255")
        return self

    def to_json(self, **more: object) -> str:
        """One JSON object: the lowest `format` that says enough, the fields, and `more` (see `segfast.formats`)."""
        return json.dumps(formats.stamped({**dataclasses.asdict(self), **more}, formats.METADATA), ensure_ascii=False)


def from_json(text: str, source: str) -> tuple[Config, dict[str, Any]]:
    """The Config in a JSON object, and the other entries that `to_json` was given.

    Args:
        source: the file it comes from, for messages.

    Raises:
        BadModel: it is malformed, of a newer format, or has fields that are not known here and not listed as ignorable.
    """
    try:
        values = json.loads(text)
        formats.check_version(values["format"], formats.METADATA, source)
        known = {"": (*_fields(Config), *EXPORTED), "protocol": _fields(Protocol)}
        formats.check_fields(values, known, formats.METADATA, source)
        values = formats.without_ignored(values, known)
        values.pop("format")
        more = {key: values.pop(key) for key in EXPORTED if key in values}
        values["protocol"] = Protocol(**{k: _frozen(v) for k, v in values["protocol"].items()})
        provenance = {str(k): str(v) for k, v in values.pop("provenance", {}).items()}
        config = Config(**{k: _frozen(v) for k, v in values.items()}, provenance=provenance)
        return config.check(), more
    except BadModel as error:
        raise BadModel(f"{source}: {error}" if source not in str(error) else str(error)) from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadModel(f"the segfast metadata in {source} is damaged ({error!r}); export or save it again") from None


def family_config(variant: Variant, num_classes: int = 150, image_size: int | Size = 512, **provenance: str) -> Config:
    """The Config of a family member, windows of the training size without overlap (ADE20K's protocol).

    150, 60 and 19 classes are named after ADE20K, Pascal Context and Cityscapes, others by number.

    Raises:
        BadOption: the class count or the image size is out of range.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or not 1 <= num_classes <= 65536:
        raise BadOption(f"num_classes must be a whole number from 1 to 65536; got {num_classes!r}")
    size = check_size(image_size, variant.patch, "image_size")
    num_classes = int(num_classes)
    names, palette = labels.for_count(num_classes)
    return Config(
        name=variant.name,
        patch=variant.patch,
        width=variant.width,
        depth=variant.depth,
        heads=variant.heads,
        decoder=variant.decoder,
        num_classes=num_classes,
        image_size=size,
        protocol=Protocol(variant.mean, variant.std, window=size, stride=size),
        classes=names,
        palette=palette,
        distilled=variant.distilled,
        provenance=provenance,
    )


def check_size(size: int | Size, patch: int, option: str = "size") -> Size:
    """(height, width) of a size given as one side or both, each from one patch to 8192 pixels.

    Raises:
        BadOption: it is not that.
    """
    pair = (size, size) if isinstance(size, Integral) else size
    whole = isinstance(pair, (tuple, list)) and all(isinstance(s, Integral) and not isinstance(s, bool) for s in pair)
    if not isinstance(pair, (tuple, list)) or not whole or len(pair) != 2:
        raise BadOption(f"{option} must be a number of pixels, or (height, width); got {size!r}")
    if not all(patch <= side <= 8192 for side in pair):
        raise BadOption(f"{option} must lie between the patch, {patch}, and 8192 pixels; got {size!r}")
    return int(pair[0]), int(pair[1])


# The largest values of whole-number fields, which are 1 at least, and the fields in [0, 1).
_WHOLE = {"patch": 256, "width": 16384, "depth": 1024, "heads": 1024, "decoder_depth": 1024, "num_classes": 65536}
_FRACTIONS = ("encoder_eps", "decoder_eps", "encoder_dropout", "decoder_dropout", "drop_path")


def _fields(kind: type[Config] | type[Protocol]) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(kind))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _require(condition: object, name: str, value: object) -> None:
    if not condition:
        raise BadModel(f"{name} cannot be {value}")
