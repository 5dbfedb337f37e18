"""Checkpoints of MMSegmentation 0.x and 1.x: one `.pth` with `meta` and `state_dict`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from segfast import classes
from segfast.checkpoints import mmsegmentation_settings
from segfast.checkpoints.mmsegmentation_settings import Backbone, Settings
from segfast.checkpoints.states import State
from segfast.config import Config
from segfast.errors import BadModel
from segfast.protocol import Protocol, Size
from segfast.variants import HALF, family_name

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


def rename(state: State) -> State:
    """Tensors under the names, and in the layout, of the original code."""
    renamed = {}
    for name, tensor in state.items():
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
            tensor = tensor.T  # stored as a Linear's weight
        elif name == "decoder.head.weight" and tensor.ndim == 4:
            tensor = tensor.flatten(1)  # a 1×1 convolution
        renamed[name] = tensor
    return renamed


def read(path: Path, meta: object, state: State, encoder_only: bool = False) -> tuple[Config, State]:
    """Configuration, of the tensors and of what `meta` says of the model, and the renamed tensors.

    The protocol is MMSegmentation's: its stated window and stride, else stride crop − 32; windows smaller than the crop
    allowed; one resize from window logits to pixels. Its published evaluation first scales images to a short
    side of 512, which is the caller's choice here, as in its own single-image inference.

    A network for BGR becomes one for RGB, by the order of its first convolution's channels. A head of one channel, a
    sigmoid and a threshold, becomes one of two classes whose larger logit says the same of every pixel (the scores of
    class 1 are then above one half where the sigmoid is above the threshold; averages over the views of multi-scale are
    of those scores).

    Args:
        encoder_only: head and windows are not asked for, so that nothing that is said of them is refused.

    Raises:
        BadModel: tensors are missing, or no Segmenter's, or not what `meta` says, or `meta` says what cannot be done here.
    """
    settings = mmsegmentation_settings.read(meta, str(path), encoder_only)
    state = rename(state)
    try:
        _check_encoder(settings.backbone, state)
        if not encoder_only:
            _check_head(settings, state)
        config = _config(settings, meta, state)
        state = _as_rgb(state) if settings.colours.bgr else state
        if (threshold := settings.head.threshold) is not None:
            state = _as_two_classes(state, threshold)
    except (KeyError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise BadModel(f"{path} is no Segmenter of MMSegmentation ({error!r}); pass the whole checkpoint") from None
    except BadModel as error:
        raise BadModel(f"{path} {error}") from None
    return config.check(), state


def _config(settings: Settings, meta: object, state: State) -> Config:
    width, _, patch, _ = state["encoder.patch_embed.proj.weight"].shape
    mask, depth = "decoder.cls_emb" in state, _blocks(state, "encoder")
    crop = _trained_size(settings, state["encoder.pos_embed"].shape[1] - 1, patch)
    heads, kind = _heads(settings, width), "mask" if mask else "linear"
    backbone, head, colours, threshold = settings.backbone, settings.head, settings.colours, settings.head.threshold
    K = _rows(state) if threshold is None else 2
    names, palette = _classes(meta, K)
    binary = {} if threshold is None else {"binary": f"one logit, class 1 where its sigmoid is above {threshold:g}"}
    window, mean, std = settings.window or crop, colours.mean or HALF, colours.std or HALF
    stride = settings.stride or tuple(side - _OVERLAP if side > _OVERLAP else side for side in window)
    return Config(
        name=family_name(width=width, depth=depth, heads=heads, patch=patch, decoder=kind, distilled=False),
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        decoder=kind,
        num_classes=K,
        image_size=crop,
        protocol=Protocol(mean, std, window, (stride[0], stride[1]), small_windows=True, crop_padding=False),
        classes=names,
        palette=palette,
        decoder_depth=_blocks(state, "decoder") if mask else 1,
        encoder_eps=1e-6 if backbone.eps is None else backbone.eps,
        decoder_eps=1e-5 if head.eps is None else head.eps,
        position_mode=backbone.position_mode or "bicubic",
        decoder_dropout=0.0,
        provenance={"format": "MMSegmentation", **binary},
    )


def _check_encoder(backbone: Backbone, state: State) -> None:
    """See that the tensors are those that the settings speak of.

    Raises:
        BadModel: they are not.
    """
    width, _, patch, _ = state["encoder.patch_embed.proj.weight"].shape
    for name, there in (("patch_size", patch), ("embed_dims", width), ("num_layers", _blocks(state, "encoder"))):
        _agree(f"backbone.{name}", backbone.counts.get(name), there)


def _check_head(settings: Settings, state: State) -> None:
    """The same of the head, which is also to be one that gives answers.

    Raises:
        BadModel: they are not.
    """
    head, rows, mask = settings.head, _rows(state), "decoder.cls_emb" in state
    what = "num_classes" if head.num_classes == head.out_channels else "out_channels"
    _agree(f"decode_head.{what}", head.out_channels, rows)
    if mask:
        width = state["encoder.patch_embed.proj.weight"].shape[0]
        _agree("decode_head.num_layers", head.depth, _blocks(state, "decoder"))
        _agree("decode_head.num_heads", head.heads, _heads(settings, width))
    if rows == 1 and mask:
        raise BadModel("has a mask decoder for one class, whose last LayerNorm gives every pixel the same answer")
    if rows == 1 and head.threshold is None:
        raise BadModel(
            "has a head of one channel, a sigmoid and a threshold, but does not say which threshold; say it in "
            "checkpoint['meta']['cfg'], a text: decode_head = dict(out_channels=1, threshold=0.3) (MMSegmentation's default)"
        )


def _agree(name: str, said: int | None, there: int) -> None:
    if said is not None and said != there:
        raise BadModel(
            f"says {name} = {said}, but its tensors have {there}; mend what it says in checkpoint['meta']['cfg']"
        )


def _rows(state: State) -> int:
    """Logits per patch."""
    return state["decoder.cls_emb"].shape[1] if "decoder.cls_emb" in state else state["decoder.head.weight"].shape[0]


def _heads(settings: Settings, width: int) -> int:
    """Of every attention; MMSegmentation's default is not meant where it is impossible."""
    if settings.backbone.heads is not None:
        return settings.backbone.heads
    usual = settings.backbone.usual_heads
    return usual if usual is not None and width % usual == 0 else width // 64


def _trained_size(settings: Settings, tokens: int, patch: int) -> Size:
    """(height, width) in pixels of the pictures that the position embeddings are for.

    Raises:
        BadModel: their count is that of no size that is stated, and no square.
    """
    for place, (H, W) in enumerate(settings.sizes):
        if (H // patch) * (W // patch) == tokens:
            return H, W
        if settings.backbone.stated and place == 0:
            raise BadModel(
                f"says backbone.img_size = {(H, W)}, but has {tokens} position embeddings, not {H // patch}×{W // patch}; "
                "mend what it says in checkpoint['meta']['cfg']"
            )
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise BadModel(
            f"has {tokens} position embeddings, which are no square, and does not say their grid; say it in "
            "checkpoint['meta']['cfg'], a text: backbone = dict(img_size=(H, W)), in pixels"
        )
    return side * patch, side * patch


def _as_rgb(state: State) -> State:
    """The tensors of a network for BGR, for RGB."""
    name = "encoder.patch_embed.proj.weight"  # [D, 3, P, P]
    return {**state, name: state[name].flip(1)}


def _as_two_classes(state: State, threshold: float) -> State:
    """The tensors of a head with one logit x, as one with the logits 0 and x − c, where the sigmoid of c is the threshold.

    The second is the larger one exactly where the sigmoid of x is above the threshold; of equals the first counts.
    """
    import torch

    weight, bias = state["decoder.head.weight"].float(), state["decoder.head.bias"].float()  # [1, D], [1]
    middle = math.log(threshold / (1 - threshold))
    return {
        **state,
        "decoder.head.weight": torch.cat([torch.zeros_like(weight), weight]),
        "decoder.head.bias": torch.cat([torch.zeros_like(bias), bias - middle]),
    }


def _blocks(state: State, part: str) -> int:
    found = (re.match(rf"{part}\.blocks\.(\d+)\.", name) for name in state)
    return 1 + max(int(match[1]) for match in found if match)


def _classes(meta: object, count: int) -> tuple[classes.Names, classes.Palette]:
    """Names and palette from `meta` of 0.x (CLASSES, PALETTE) or 1.x (dataset_meta), else by the count."""
    meta = meta if isinstance(meta, Mapping) else {}
    if isinstance(inner := meta.get("dataset_meta"), Mapping):
        names, palette = inner.get("classes"), inner.get("palette")
    else:
        names, palette = meta.get("CLASSES"), meta.get("PALETTE")
    known_names, known_palette = classes.for_count(count)
    if count == 2 and isinstance(names, (list, tuple)) and len(names) == 1:
        names = ("background", *names)  # of a head with one channel
    if not isinstance(names, (list, tuple)) or len(names) != count:
        return known_names, known_palette
    try:
        colours = tuple((int(r), int(g), int(b)) for r, g, b in palette or ())
    except (TypeError, ValueError):
        colours = ()
    return tuple(map(str, names)), colours if len(colours) == count else known_palette
