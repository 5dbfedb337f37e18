"""The family: Ti, S, B, L and their DeiT twins × patch 8, 16, 32 × linear or mask decoder (paper, Table 1); its mIoU."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from segfast.errors import UnknownModel

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variant:
    """One member of the family.

    Attributes:
        width, depth, heads: of the encoder; the mask decoder has its width and heads.
        encoder: the timm name of the ImageNet weights the paper starts from, if any are public.
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


def _family() -> dict[str, Variant]:
    family = {}
    for deit, rows in ((False, _VIT), (True, _DEIT)):
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if deit else (HALF, HALF)
        for size, (width, depth, heads, encoders) in rows.items():
            for decoder in ("linear", "mask"):
                for patch in PATCHES:
                    name = f"seg-{size}{'-deit' if deit else ''}{'-mask' if decoder == 'mask' else ''}-{patch}"
                    family[name] = Variant(
                        name, width, depth, heads, patch, decoder, deit, mean, std, encoders.get(patch)
                    )
    return family


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


def list_models(pattern: str = "*") -> list[str]:
    """Names of the family that match a shell pattern, such as `seg-b*` (paper, Table 1)."""
    return fnmatch.filter(VARIANTS, pattern)


def variant(name: str) -> Variant:
    """The member of that exact name.

    Raises:
        UnknownModel: there is none; the message lists the near ones.
    """
    if not isinstance(name, str) or name not in VARIANTS:
        raise UnknownModel(f"no model is named {name!r}; {near(name)}")
    return VARIANTS[name]


def family_name(*, width: int, depth: int, heads: int, patch: int, decoder: str, distilled: bool) -> str:
    """The family member of these sizes, or `seg-custom-…`."""
    sizes = (width, depth, heads, patch, decoder, distilled)
    for row in VARIANTS.values():
        if (row.width, row.depth, row.heads, row.patch, row.decoder, row.distilled) == sizes:
            return row.name
    return f"seg-custom{'-deit' if distilled else ''}{'-mask' if decoder == 'mask' else ''}-{patch}"


def near(name: str, names: list[str] | None = None) -> str:
    """'did you mean …' for a name that is not among `names` (default: the family)."""
    names = names if names is not None else list(VARIANTS)
    found = difflib.get_close_matches(str(name), names, n=5, cutoff=0.5)
    return f"did you mean {', '.join(found)}?" if found else f"there are {', '.join(names)}"
