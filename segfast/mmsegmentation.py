"""Checkpoints of MMSegmentation 0.x and 1.x: one `.pth` with `meta` and `state_dict`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segfast import classes
from segfast.config import Config
from segfast.errors import BadModel
from segfast.original import family_name
from segfast.protocol import Protocol
from segfast.variants import HALF

# MMSegmentation's name → the original's, tried in order from the start of the name.
_RENAMES = (
    (r"backbone\.patch_embed\.projection\.", "encoder.patch_embed.proj."),
    (r"backbone\.ln1\.", "encoder.norm."),
    (r"backbone\.layers\.", "encoder.blocks."),
    (r"backbone\.", "encoder."),
    (r"decode_head\.conv_seg\.", "decoder.head."),
    (r"decode_head\.layers\.", "decoder.blocks."),
    (r"decode_head\.dec_proj\.", "decoder.proj_dec."),
    (r"decode_head\.patch_proj\.weight$", "decoder.proj_patch"),
    (r"decode_head\.classes_proj\.weight$", "decoder.proj_classes"),
    (r"decode_head\.", "decoder."),
)
_BLOCK_RENAMES = (
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
# Its window overlap: stride = crop − 32.
_OVERLAP = 32


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether tensors carry MMSegmentation's names for a ViT."""
    return any(str(name).removeprefix("module.").startswith("backbone.patch_embed.projection") for name in state)


def rename(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors under the names, and in the layout, of the original code."""
    renamed = {}
    for name, tensor in state.items():
        name = str(name).removeprefix("module.")
        if name.startswith("auxiliary_head."):
            continue
        for pattern, replacement in _RENAMES:
            name, changed = re.subn(rf"^{pattern}", replacement, name)
            if changed:
                break
        if ".blocks." in name:
            for pattern, replacement in _BLOCK_RENAMES:
                name = re.sub(pattern, replacement, name)
        if name in ("decoder.proj_patch", "decoder.proj_classes"):
            tensor = tensor.T                                           # stored as a Linear's weight
        elif name == "decoder.head.weight" and tensor.ndim == 4:
            tensor = tensor.flatten(1)                                  # a 1×1 convolution
        renamed[name] = tensor
    return renamed


def read(path: Path, meta: Any, state: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """Configuration, read off the tensors and `meta`, and the renamed tensors.

    The protocol is MMSegmentation's: stride crop − 32, windows smaller than the crop allowed, one
    resize from window logits to pixels. Its published evaluation first scales images to a short
    side of 512, which is the caller's choice here, as in its own single-image inference.

    Raises:
        BadModel: tensors are missing, or no Segmenter's.
    """
    state = rename(state)
    try:
        config = _config(meta, state)
    except (KeyError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise BadModel(f"{path} is no Segmenter of MMSegmentation ({error!r}); pass the whole checkpoint") from None
    return config.check(), state


def _config(meta: Any, state: dict[str, Any]) -> Config:
    width, _, patch, _ = state["encoder.patch_embed.proj.weight"].shape
    mask = "decoder.cls_emb" in state
    K = state["decoder.cls_emb"].shape[1] if mask else state["decoder.head.weight"].shape[0]
    tokens = state["encoder.pos_embed"].shape[1] - 1
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"{tokens} position embeddings are no square")
    crop = side * patch
    depth, heads, kind = _blocks(state, "encoder"), width // 64, "mask" if mask else "linear"
    names, palette = _classes(meta, K)
    stride = crop - _OVERLAP if crop > _OVERLAP else crop
    return Config(
        name=family_name(width=width, depth=depth, heads=heads, patch=patch, decoder=kind, distilled=False),
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        decoder=kind,
        num_classes=K,
        image_size=(crop, crop),
        protocol=Protocol(HALF, HALF, (crop, crop), (stride, stride), small_windows=True, crop_padding=False),
        classes=names,
        palette=palette,
        decoder_depth=_blocks(state, "decoder") if mask else 1,
        encoder_eps=1e-6,
        position_mode="bicubic",
        decoder_dropout=0.0,
        provenance={"format": "MMSegmentation"},
    )


def _blocks(state: dict[str, Any], part: str) -> int:
    found = (re.match(rf"{part}\.blocks\.(\d+)\.", name) for name in state)
    return 1 + max(int(match[1]) for match in found if match)


def _classes(meta: Any, count: int) -> tuple[classes.Names, classes.Palette]:
    """Names and palette from `meta` of 0.x (CLASSES, PALETTE) or 1.x (dataset_meta), else by the count."""
    meta = meta if isinstance(meta, Mapping) else {}
    inner = meta.get("dataset_meta")
    names, palette = (
        (inner.get("classes"), inner.get("palette"))
        if isinstance(inner, Mapping)
        else (meta.get("CLASSES"), meta.get("PALETTE"))
    )
    known_names, known_palette = classes.for_count(count)
    if not isinstance(names, (list, tuple)) or len(names) != count:
        return known_names, known_palette
    try:
        colours = tuple((int(r), int(g), int(b)) for r, g, b in palette or ())
    except (TypeError, ValueError):
        colours = ()
    return tuple(map(str, names)), colours if len(colours) == count else known_palette
