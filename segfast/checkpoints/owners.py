"""Encoders in the tensor names of their owners and of Transformers, read under timm's.

The owners are DINOv2 (facebookresearch/dinov2), DINOv3 (facebookresearch/dinov3) and, in Transformers, Dinov2, its version
with registers, DINOv3ViT and Siglip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from segfast.checkpoints.load import is_plain
from segfast.checkpoints.states import State

if TYPE_CHECKING:
    from torch import Tensor

# The first tensors of an encoder, under any of the names that are known.
FIRST = (
    r"patch_embed\.proj\."
    r"|embeddings\.patch_embeddings\.(?:proj(?:ection)?\.)?(?:weight|bias)$"
    r"|embeddings\.patch_embedding\.(?:weight|bias)$"
)
# What an encoder is a part of: of a classifier, of a pair with a text encoder (Siglip, OpenCLIP).
PARTS = (
    "encoder",
    "backbone",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "vision_model",
    "visual",
    "trunk",
)
# Parts that only their owner's training or another task needs: SigLIP's attention pooling is among them.
_LEFT_OUT = re.compile(
    r"(embeddings\.)?(mask_token|position_ids)$|rope_embed|attn_pool\.|local_cls_norm\.|projectors\.|pooler\.|classifier\."
)
_NAMES = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"^blocks\.\d+\.(?=\d+\.)", "blocks."),  # DINOv2 keeps its blocks in chunks where it trains in parallel
        (r"^(?:encoder\.|model\.)?layers?\.", "blocks."),
        (r"^embeddings\.patch_embeddings?\.(?:proj(?:ection)?\.)?", "patch_embed.proj."),
        (r"^embeddings\.(?:position_embeddings|position_embedding\.weight)$", "pos_embed"),
        (r"^embeddings\.", ""),
        (r"^(?:register|storage)_tokens$", "reg_token"),
        (r"^(?:post_)?layernorm\.", "norm."),
        (r"\.layer_norm([12])\.", r".norm\1."),
        (r"\.(?:layer_scale([12])\.lambda1|ls([12])\.gamma|gamma_([12]))$", r".ls\1\2\3.gamma"),
        (r"\.attention\.output\.dense\.|\.(?:attention|self_attn)\.o(?:ut)?_proj\.", ".attn.proj."),
        (r"\.(?:attention\.attention|self_attn|attention)\.(?=[qkv])", ".attn."),
        (r"\.attn\.([qkv])(?:uery|ey|alue)\.", r".attn.\1_proj."),
        (r"\.mlp\.(?:w1|gate_proj)\.", ".mlp.fc1_g."),
        (r"\.mlp\.w2\.", ".mlp.fc1_x."),
        (r"\.mlp\.(?:w3|down_proj)\.", ".mlp.fc2."),
    )
)


def in_timms_names(theirs: Mapping[str, object]) -> State:
    """The tensors of an encoder under the names that ours have, q, k and v joined; other names stay as they are."""
    tensors = {name: value for name, value in theirs.items() if is_plain(value) and not _LEFT_OUT.match(name)}
    gated = any(".gate_proj." in name for name in tensors)
    masks = {name.removesuffix("_mask") for name in tensors if name.endswith(".qkv.bias_mask")}
    state: State = {}
    for name, tensor in tensors.items():
        if not name.endswith(".bias_mask"):
            state[renamed(name, gated)] = _without_key(tensor) if name in masks else tensor
    _join(state)
    if (positions := state.get("pos_embed")) is not None and positions.ndim == 2:  # Siglip's are an nn.Embedding
        state["pos_embed"] = positions.unsqueeze(0)
    if any(name.endswith("register_tokens") for name in tensors):
        _fold_class_position(state)
    return state


def renamed(name: str, gated: bool = False) -> str:
    """A tensor's name as ours has it, q, k and v apart where they are.

    Args:
        gated: the MLPs are SwiGLU, whose first Linears are two.
    """
    for pattern, ours in _NAMES:
        name = pattern.sub(ours, name)
    return name.replace(".mlp.up_proj.", ".mlp.fc1_x." if gated else ".mlp.fc1.")


def _without_key(bias: Tensor) -> Tensor:
    """A bias of q, k and v [3·D] with k's at 0, as DINOv3 masks it: the file may hold anything there."""
    if bias.ndim != 1 or len(bias) % 3:
        return bias
    bias = bias.clone()
    bias[len(bias) // 3 : 2 * len(bias) // 3] = 0
    return bias


def _join(state: State) -> None:
    """Put q, k and v of every block, where they are apart and fit each other, into one tensor; a bias they lack is 0."""
    import torch

    queries = (re.fullmatch(r"(blocks\.\d+\.attn\.)q(_proj\.weight|_proj\.bias|_bias)", name) for name in list(state))
    for match in filter(None, queries):
        names = [f"{match[1]}{part}{match[2]}" for part in "qkv"]
        q, k, v = (state.get(name) for name in names)
        if q is None or v is None or (k is None and q.ndim != 1):
            continue
        parts = [q, torch.zeros_like(q) if k is None else k, v]
        if all(part.shape == q.shape for part in parts):
            for name in names:
                state.pop(name, None)
            state[f"{match[1]}qkv.{'bias' if q.ndim == 1 else 'weight'}"] = torch.cat(parts)


def _fold_class_position(state: State) -> None:
    """Add the class token's position embedding to it: with registers, timm's positions are those of patches alone."""
    cls, positions = state.get("cls_token"), state.get("pos_embed")
    if cls is None or positions is None or positions.ndim != 3 or positions[:, :1].shape != cls.shape:
        return
    state["cls_token"], state["pos_embed"] = cls + positions[:, :1], positions[:, 1:]
