"""The family: Ti, S, B, L and their DeiT twins × patch 8, 16, 32 × linear or mask decoder (paper, Table 1); its mIoU.

Beside the paper's encoders stand those of today: DINOv2, DINOv3 and SigLIP2 in their own patch size.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from segfast import refusals
from segfast.errors import BadOption, UnknownModel

if TYPE_CHECKING:
    from segfast.config import Config

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderKind:
    """What encoders of one kind have in common; the attributes are those of `Config`.

    Attributes:
        name: in the names of members, empty for the paper's own.
    """

    name: str = ""
    distilled: bool = False
    encoder_eps: float = 1e-5
    position_mode: str = "bilinear"
    position_antialias: bool = False
    layer_scale: bool = False
    registers: int = 0
    class_token: bool = True
    patch_positions: bool = False
    rope: bool = False
    qkv_bias: bool = True
    mlp: str = "gelu"

    def fields(self) -> dict[str, Any]:
        """The fields of a Config."""
        return {name: value for name, value in asdict(self).items() if name != "name"}


_STRUCTURE = ("distilled", "layer_scale", "registers", "class_token", "patch_positions", "rope")


def structure(kind: EncoderKind | Config) -> dict[str, bool | int | str]:
    """What tells an encoder's kind from the others: the tensors that it has, and what they mean.

    Biases of q, k and v, which DINOv3's own files have and timm's do not, and which of the two GELUs it is make no other kind.
    """
    mlp = {"mlp": "swiglu" if kind.mlp == "swiglu" else "gelu"}
    return {name: getattr(kind, name) for name in _STRUCTURE} | mlp


@dataclass(frozen=True)
class Variant:
    """One member of the family.

    Attributes:
        width, depth, heads: of the encoder; the mask decoder has its width and heads.
        encoder: the timm name of the weights to start from, if any are public: on ImageNet for the paper's encoders,
            self-supervised or on captions for today's.
        kind: what the encoder is beside its sizes.
    """

    name: str
    width: int
    depth: int
    heads: int
    patch: int
    decoder: str
    distilled: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    encoder: str | None
    kind: EncoderKind

    @property
    def window(self) -> int:
        """The side of its windows in pixels by default: 512, or the next multiple of the patch."""
        return 512 + -512 % self.patch


#            width depth heads  {patch: ImageNet weights in timm}
_VIT = {
    "ti": (192, 12, 3, {16: "vit_tiny_patch16_384.augreg_in21k_ft_in1k"}),
    "s": (384, 12, 6, {16: "vit_small_patch16_384.augreg_in21k_ft_in1k",
                       32: "vit_small_patch32_384.augreg_in21k_ft_in1k"}),
    "b": (768, 12, 12, {8: "vit_base_patch8_224.augreg_in21k_ft_in1k",
                        16: "vit_base_patch16_384.augreg_in21k_ft_in1k",
                        32: "vit_base_patch32_384.augreg_in21k_ft_in1k"}),
    "l": (1024, 24, 16, {16: "vit_large_patch16_384.augreg_in21k_ft_in1k",
                         32: "vit_large_patch32_384.orig_in21k_ft_in1k"}),
}  # fmt: skip
_DEIT = {
    "ti": (192, 12, 3, {16: "deit_tiny_distilled_patch16_224.fb_in1k"}),
    "s": (384, 12, 6, {16: "deit_small_distilled_patch16_224.fb_in1k"}),
    "b": (768, 12, 12, {16: "deit_base_distilled_patch16_384.fb_in1k"}),
}
PATCHES = (8, 16, 32)
RESIZED = (8, 14, 16, 32)  # that weights of any patch are resampled to

PLAIN = EncoderKind()
DEIT = EncoderKind("deit", distilled=True)
# Oquab et al. 2023; with registers, Darcet et al. 2024. timm resamples the positions of all with antialiasing.
DINOV2 = EncoderKind(
    "dinov2", encoder_eps=1e-6, position_mode="bicubic", position_antialias=True, layer_scale=True
)  # fmt: skip
DINOV2_REGISTERS = replace(DINOV2, name="dinov2reg", registers=4, patch_positions=True)
# Siméoni et al. 2025; S+ has SwiGLU. timm leaves out the biases of q, k and v, which distillation left at 0.
DINOV3 = EncoderKind("dinov3", layer_scale=True, registers=4, rope=True, qkv_bias=False)
DINOV3_SWIGLU = replace(DINOV3, mlp="swiglu")
# Tschannen et al. 2025; timm has the exact GELU in B.
SIGLIP2 = EncoderKind(
    "siglip2", encoder_eps=1e-6, position_mode="bicubic", position_antialias=True, class_token=False, patch_positions=True
)  # fmt: skip
SIGLIP2_TANH = replace(SIGLIP2, mlp="gelu-tanh")

_S, _B, _L = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
#    size     kind           width, depth, heads  patch  weights in timm
_TODAY = (
    ("s", DINOV2, _S, 14, "vit_small_patch14_dinov2.lvd142m"),
    ("b", DINOV2, _B, 14, "vit_base_patch14_dinov2.lvd142m"),
    ("l", DINOV2, _L, 14, "vit_large_patch14_dinov2.lvd142m"),
    ("s", DINOV2_REGISTERS, _S, 14, "vit_small_patch14_reg4_dinov2.lvd142m"),
    ("b", DINOV2_REGISTERS, _B, 14, "vit_base_patch14_reg4_dinov2.lvd142m"),
    ("l", DINOV2_REGISTERS, _L, 14, "vit_large_patch14_reg4_dinov2.lvd142m"),
    ("s", DINOV3, _S, 16, "vit_small_patch16_dinov3.lvd1689m"),
    ("splus", DINOV3_SWIGLU, _S, 16, "vit_small_plus_patch16_dinov3.lvd1689m"),
    ("b", DINOV3, _B, 16, "vit_base_patch16_dinov3.lvd1689m"),
    ("l", DINOV3, _L, 16, "vit_large_patch16_dinov3.lvd1689m"),
    ("b", SIGLIP2, _B, 16, "vit_base_patch16_siglip_512.v2_webli"),
    ("l", SIGLIP2_TANH, _L, 16, "vit_large_patch16_siglip_512.v2_webli"),
)  # fmt: skip
DECODERS = ("linear", "mask")


def _family() -> dict[str, Variant]:
    rows = [
        _variant(size, kind, (width, depth, heads), patch, decoder, encoders.get(patch))
        for kind, table in ((PLAIN, _VIT), (DEIT, _DEIT))
        for size, (width, depth, heads, encoders) in table.items()
        for decoder in DECODERS
        for patch in PATCHES
    ]
    rows += [
        _variant(size, kind, sizes, patch, decoder, encoder)
        for size, kind, sizes, patch, encoder in _TODAY
        for decoder in DECODERS
    ]
    return {row.name: row for row in rows}


def _variant(
    size: str, kind: EncoderKind, sizes: tuple[int, int, int], patch: int, decoder: str, encoder: str | None
) -> Variant:
    width, depth, heads = sizes
    mean, std = (HALF, HALF) if kind.name in ("", "siglip2") else (IMAGENET_MEAN, IMAGENET_STD)
    name = _name(size, kind, decoder, patch)
    return Variant(name, width, depth, heads, patch, decoder, kind.distilled, mean, std, encoder, kind)


def _name(size: str, kind: EncoderKind, decoder: str, patch: int) -> str:
    return "-".join(["seg", size, *filter(None, [kind.name, "mask" if decoder == "mask" else ""]), str(patch)])


VARIANTS = MappingProxyType(_family())

# The paper's mIoU in percent, on the validation sets: single-scale on ADE20K (Tables 3, 4 and 6), multi-scale on the
# others (Tables 7 and 8). seg-b-deit-16 is 47.08 in Tables 3 and 6, but 47.10 in Table 4.
MIOU: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "ade20k": MappingProxyType({
        "seg-ti-16": 39.03, "seg-s-32": 40.64, "seg-s-16": 45.37,  # Table 3
        "seg-b-32": 43.07, "seg-b-16": 48.06, "seg-b-8": 49.54,  # Tables 3 and 4
        "seg-l-16": 50.71,  # Tables 3, 4 and 6
        "seg-b-deit-16": 47.08,  # Tables 3 and 6
        "seg-b-deit-mask-16": 48.70,  # Tables 4 and 6
        "seg-b-mask-32": 44.19, "seg-b-mask-16": 48.48, "seg-l-mask-16": 51.30,  # Table 4
    }),
    "pascal_context": MappingProxyType({"seg-b-deit-16": 53.9, "seg-b-deit-mask-16": 55.0, "seg-l-16": 56.5, "seg-l-mask-16": 59.0}),
    "cityscapes": MappingProxyType({"seg-b-deit-16": 80.5, "seg-b-deit-mask-16": 80.6, "seg-l-16": 80.7, "seg-l-mask-16": 81.3}),
})  # fmt: skip
# The same on ADE20K of a model trained at 640×640 (section 4.2, Table 6).
MIOU_AT_640 = MappingProxyType({"seg-l-mask-16": 51.82})


@dataclass(frozen=True)
class Probe:
    """What an encoder's owner published of it on ADE20K, frozen under one Linear: no accuracy of a trained Segmenter.

    Attributes:
        miou: on the validation set, in percent.
    """

    miou: float
    source: str


_DINOV2_PROBE = "frozen, one Linear, ADE20K, multi-scale (DINOv2, model card of facebookresearch/dinov2)"
_DINOV3_PROBE = "frozen, one Linear, ADE20K, single-scale (DINOv3, Siméoni et al. 2025)"
# By timm's name of the weights.
PROBES = MappingProxyType({
    "vit_small_patch14_dinov2.lvd142m": Probe(47.2, _DINOV2_PROBE),
    "vit_base_patch14_dinov2.lvd142m": Probe(51.3, _DINOV2_PROBE),
    "vit_large_patch14_dinov2.lvd142m": Probe(53.1, _DINOV2_PROBE),
    "vit_small_patch16_dinov3.lvd1689m": Probe(47.0, _DINOV3_PROBE),
    "vit_base_patch16_dinov3.lvd1689m": Probe(51.8, _DINOV3_PROBE),
    "vit_large_patch16_dinov3.lvd1689m": Probe(54.9, _DINOV3_PROBE),
})  # fmt: skip


def list_models(pattern: str = "*") -> list[str]:
    """Names of the family that match a shell pattern, such as `seg-b*` (paper, Table 1)."""
    return fnmatch.filter(VARIANTS, pattern)


def variant(name: str) -> Variant:
    """The member of that exact name.

    Raises:
        UnknownModel: there is none; the message lists the near ones.
    """
    if isinstance(name, str) and name in VARIANTS:
        return VARIANTS[name]
    if isinstance(name, str) and (why := refusals.of_name(name)) is not None:
        raise UnknownModel(f"no model is named {name!r}, which would have {why}; {near(name)}")
    raise UnknownModel(f"no model is named {name!r}; {near(name)}")


def at_patch(row: Variant, patch: int) -> Variant:
    """A member with a patch of another size, named after it.

    Its weights stay those of its row, whose patch embedding is resampled.

    Raises:
        BadOption: the patch is not among RESIZED.
    """
    if isinstance(patch, bool) or patch not in RESIZED:
        raise BadOption(f"patch must be one of {', '.join(map(str, RESIZED))} pixels; got {patch!r}")
    return replace(row, name=f"{row.name.rpartition('-')[0]}-{patch}", patch=patch)


def family_name(
    *,
    width: int,
    depth: int,
    heads: int,
    patch: int,
    decoder: str,
    kind: EncoderKind | Config | None = None,
    distilled: bool = False,
) -> str:
    """The family member of these sizes, or `seg-custom-…`.

    Args:
        kind: of the encoder, or a Config that says it; by default one of the paper's, `distilled` or not.
    """
    kind = (DEIT if distilled else PLAIN) if kind is None else kind
    sizes = (width, depth, heads, patch, decoder, structure(kind))
    for row in VARIANTS.values():
        if (row.width, row.depth, row.heads, row.patch, row.decoder, structure(row.kind)) == sizes:
            return row.name
    return _name("custom", kind_of(kind) or PLAIN, decoder, patch)


def kind_of(config: EncoderKind | Config) -> EncoderKind | None:
    """The first kind of the table with the structure of a Config's encoder, if there is one."""
    wanted = structure(config)
    return next((row.kind for row in VARIANTS.values() if structure(row.kind) == wanted), None)


def near(name: str, names: list[str] | None = None) -> str:
    """'did you mean …' for a name that is not among `names` (default: the family)."""
    names = names if names is not None else list(VARIANTS)
    found = difflib.get_close_matches(str(name), names, n=5, cutoff=0.5)
    return f"did you mean {', '.join(found)}?" if found else f"there are {', '.join(names)}"
