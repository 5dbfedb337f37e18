"""The configuration that travels with a model, inside `.safetensors` and `.onnx` files alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from segfast import classes as labels
from segfast import formats
from segfast.config_values import check_values
from segfast.errors import BadModel, BadOption
from segfast.protocol import Protocol, Size
from segfast.token_merge import Merge
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
        position_antialias: resample them with antialiasing, and for every other grid (timm).
        encoder_dropout, decoder_dropout, drop_path: in training only (section 4.3; code).
        provenance: where the weights come from, in words.
        layer_scale: the encoder's blocks scale their branches channel by channel (DINOv2, DINOv3).
        registers: tokens after the class token that only the encoder uses (Darcet et al. 2024).
        class_token: there is one; SigLIP2 has none.
        patch_positions: position embeddings are for patches alone (DINOv2 with registers).
        rope, rope_temperature: q and k are rotated by the places of patches instead (DINOv3).
        qkv_bias: the Linear of the encoder's q, k and v has a bias.
        mlp: of the encoder: `gelu`, `gelu-tanh` (its approximation by tanh) or `swiglu` (DINOv3's S+).
        hidden: width inside that MLP; 0 for four times `width`.
        merge: of the encoder's tokens, if any are merged (docs/token-merging.md).
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
    # Later than format 1 (`segfast.formats`).
    layer_scale: bool = False
    registers: int = 0
    class_token: bool = True
    patch_positions: bool = False
    position_antialias: bool = False
    rope: bool = False
    rope_temperature: float = 100.0
    qkv_bias: bool = True
    mlp: str = "gelu"
    hidden: int = 0
    merge: Merge | None = None

    def __post_init__(self) -> None:
        """Names are keys of answers, so no two are alike, wherever they come from."""
        object.__setattr__(self, "classes", labels.unique(self.classes))

    @property
    def grid(self) -> Size:
        """Patches (h, w) of the training size: the grid of the position embeddings."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token, DeiT's distillation token, registers."""
        return self.class_token + self.distilled + self.registers

    @property
    def position_prefix(self) -> int:
        """How many of the tokens before the patches have position embeddings."""
        return 0 if self.patch_positions or self.rope else self.prefix_tokens

    def encoder_tokens(self, grid: Size) -> tuple[int, ...]:
        """Tokens of every block of the encoder, of images of h × w patches; fewer behind the one that merges some."""
        whole = self.prefix_tokens + grid[0] * grid[1]
        if self.merge is None:
            return (whole,) * self.depth
        fewer = self.merge.tokens(grid, self.prefix_tokens)
        return (whole,) * self.merge.block + (fewer,) * (self.depth - self.merge.block)

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
        check_values(self)
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
        if isinstance(values.get("merge"), dict):
            known["merge"] = _fields(Merge)
        formats.check_fields(values, known, formats.METADATA, source)
        values = formats.without_ignored(values, known)
        values.pop("format")
        more = {key: values.pop(key) for key in EXPORTED if key in values}
        values["protocol"] = Protocol(**{k: _frozen(v) for k, v in values["protocol"].items()})
        merge = values.pop("merge", None)
        provenance = {str(k): str(v) for k, v in values.pop("provenance", {}).items()}
        config = Config(
            **{k: _frozen(v) for k, v in values.items()},
            provenance=provenance,
            merge=None if merge is None else Merge(**merge),
        )
        return config.check(), more
    except BadModel as error:
        raise BadModel(f"{source}: {error}" if source not in str(error) else str(error)) from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadModel(f"the segfast metadata in {source} is damaged ({error!r}); export or save it again") from None


def family_config(
    variant: Variant, num_classes: int = 150, image_size: int | Size | None = None, **provenance: str
) -> Config:
    """The Config of a family member, windows of the training size without overlap (ADE20K's protocol).

    150, 60 and 19 classes are named after ADE20K, Pascal Context and Cityscapes, others by number.

    Args:
        image_size: of training, by default the variant's: 512 pixels, 518 where the patch is 14. Where it is no multiple of
            the patch, windows are padded to one, whose grid is that of the position embeddings.

    Raises:
        BadOption: the class count or the image size is out of range.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or not 1 <= num_classes <= 65536:
        raise BadOption(f"num_classes must be a whole number from 1 to 65536; got {num_classes!r}")
    size = check_size(variant.window if image_size is None else image_size, variant.patch, "image_size")
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
        image_size=whole_patches(size, variant.patch),
        protocol=Protocol(variant.mean, variant.std, window=size, stride=size),
        classes=names,
        palette=palette,
        provenance=provenance,
        **variant.kind.fields(),
    )


def whole_patches(size: Size, patch: int) -> Size:
    """The size to which the network pads images: (height, width), each the next multiple of the patch."""
    return size[0] + -size[0] % patch, size[1] + -size[1] % patch


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


def _fields(kind: type[Config | Protocol | Merge]) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(kind))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
