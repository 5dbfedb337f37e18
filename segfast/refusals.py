"""Encoders that segfast does not have, and why: too large for an ONNX file, heads of another size, no plain ViT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_OVER = "whose fp32 export passes the 2 GB of an ONNX file"
_DINOV2_G = f"DINOv2-g, {_OVER}"
_DINOV3_H = f"DINOv3-H+, {_OVER}"
_DINOV3_7B = f"DINOv3-7B, {_OVER} and whose heads are 128 wide where segfast's kernels take 64"
_SO400M = "SigLIP So400m, whose heads are 72 wide where segfast's kernels take 64"

# By our names, timm's and the owners'.
_NAMES = (
    (r"seg-g(iant)?-dinov2|(vit[_-]?g(iant)?|dinov2-giant).*dinov2|dinov2[_-](vitg14|giant)", _DINOV2_G),
    (r"seg-h(uge|plus)*\+?-dinov3|vit_huge_plus.*dinov3|dinov3[_-]vith16", _DINOV3_H),
    (r"seg-7b-dinov3|vit_7b.*dinov3|dinov3[_-]vit7b", _DINOV3_7B),
    (r"so400m", _SO400M),
)
_WIDTHS = {1152: _SO400M, 1280: _DINOV3_H, 1536: _DINOV2_G, 4096: _DINOV3_7B}
# Modules of other architectures, whose tensors' names say so.
_OTHERS = (
    (r"(\w+\.)*(stages\.\d+\.(blocks\.)?\d+\.(conv_dw|dwconv|gamma)|downsample_layers\.\d)", "a ConvNeXt"),
    (r"(\w+\.)*(swin\.)?(layers|encoder\.layers)\.\d+\.(blocks\.\d+|downsample)\.", "a Swin Transformer"),
    (r"(\w+\.)*layer[1-4]\.\d+\.conv\d\.", "a ResNet"),
)


def of_name(name: str) -> str | None:
    """What a name stands for that segfast does not have, and why; None for every other name."""
    return next((why for pattern, why in _NAMES if re.search(pattern, str(name).lower())), None)


def of_tensors(state: Mapping[str, Tensor]) -> str | None:
    """The same of an encoder's tensors in timm's names: only encoders of today are refused by their width."""
    embedding = state.get("patch_embed.proj.weight")
    today = any(name in state for name in ("reg_token", "blocks.0.ls1.gamma")) or "cls_token" not in state
    return _WIDTHS.get(embedding.shape[0]) if embedding is not None and today else None


def architecture(names: Mapping[str, object]) -> str | None:
    """Which other architecture the names of tensors are of, if any that is known."""
    return next((what for pattern, what in _OTHERS if any(re.match(pattern, str(name)) for name in names)), None)
