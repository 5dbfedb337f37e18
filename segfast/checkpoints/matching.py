"""Whether an encoder's tensors are those that a Config wants: its family and sizes, told from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from segfast import refusals
from segfast.checkpoints.states import State
from segfast.config import Config
from segfast.errors import BadModel
from segfast.protocol import Size
from segfast.variants import VARIANTS, EncoderKind, kind_of, structure

if TYPE_CHECKING:
    from torch import Tensor

_TITLES = {
    "": "a plain ViT",
    "deit": "a distilled DeiT",
    "dinov2": "a DINOv2 without registers",
    "dinov2reg": "a DINOv2 with registers",
    "dinov3": "a DINOv3",
    "siglip2": "a SigLIP",
}


class Encoder(NamedTuple):
    """An encoder alone, as a file has it.

    Attributes:
        config: of the Segmenter that it is part of, if it is.
        state: under timm's names.
        grids: of patches that its position embeddings may have, the weightiest first.
        heads: of its attentions, where the file says so.
    """

    config: Config | None
    state: State
    grids: list[Size]
    heads: int | None = None


class Anatomy(NamedTuple):
    """What the tensors of an encoder say.

    Attributes:
        family: of the table of variants whose structure it has; None for another.
    """

    family: str | None
    kind: EncoderKind
    width: int
    patch: int

    def members(self, decoder: str) -> list[str]:
        """Names of the table for it."""
        return [
            row.name
            for row in VARIANTS.values()
            if structure(row.kind) == structure(self.kind)
            and (row.width, row.patch, row.decoder) == (self.width, self.patch, decoder)
        ]


def anatomy(state: Mapping[str, Tensor]) -> Anatomy | None:
    """What an encoder in timm's names is; None where it has no patch embedding of images."""
    embedding, registers = state.get("patch_embed.proj.weight"), state.get("reg_token")  # [D, 3, P, P], [1, R, D]
    if embedding is None or embedding.ndim != 4:
        return None
    class_token, rope = "cls_token" in state, "pos_embed" not in state
    count = registers.shape[1] if registers is not None and registers.ndim == 3 else 0
    kind = EncoderKind(
        distilled="dist_token" in state,
        layer_scale=any(name.endswith(".ls1.gamma") for name in state),
        registers=count,
        class_token=class_token,
        patch_positions=not rope and (count > 0 or not class_token),
        rope=rope,
        mlp="swiglu" if any(".mlp.fc1_g." in name for name in state) else "gelu",
    )
    known = kind_of(kind)
    return Anatomy(known.name if known else None, kind, embedding.shape[0], embedding.shape[-1])


def check(state: Mapping[str, Tensor], config: Config, source: str, resize: bool = False) -> None:
    """See that an encoder is of a model's family, width and patch; what else is wrong, missing tensors say.

    Args:
        resize: a patch of another size is resampled, and no fault.

    Raises:
        BadModel: it is not, or too large for segfast; the message names what it is and who takes it.
    """
    found = anatomy(state)
    if found is None or (why := refusals.of_tensors(state)) is not None:
        what = why if found else "an encoder without a patch embedding [D, 3, P, P]"
        raise BadModel(f"{source} holds {what}; choose an encoder that `python -m segfast.models` lists")
    same_family = found.family is None or structure(found.kind) == structure(config)
    if same_family and found.width == config.width and (resize or found.patch == config.patch):
        return
    members = found.members(config.decoder)
    remedy = f"choose {' or '.join(members)}" if members else "choose the encoder of that model"
    if same_family and found.width == config.width:
        remedy += f", or pass patch={config.patch} (--patch {config.patch}), by which its patch embedding is resampled"
    raise BadModel(
        f"{source} does not fit {config.name}: it holds {_title(found.kind)} of width {found.width} and patch {found.patch} instead of "
        f"{_title(config)} of width {config.width} and patch {config.patch}; {remedy}"
    )


def adapted(config: Config, state: State, resize: bool) -> tuple[Config, State]:
    """The Config and tensors of an encoder that fits: biases of q, k and v where they are not 0, the patch resampled.

    The published files of DINOv3 have such biases, most of them 0, which timm's leave out.
    """
    from segfast.checkpoints.patches import resample_patches

    biases = [name for name in state if name.endswith(".attn.qkv.bias")]
    if not config.qkv_bias and biases:
        if any(bool(state[name].any()) for name in biases):
            config = replace(config, qkv_bias=True)
        else:
            state = {name: tensor for name, tensor in state.items() if name not in biases}
    name = "patch_embed.proj.weight"
    if resize and state[name].shape[-1] != config.patch:
        state = {**state, name: resample_patches(state[name], config.patch)}
    return config, state


def first_blocks(state: State, depth: int) -> State:
    """An encoder's tensors without the blocks after the first `depth`; the norm after the last stays."""
    numbers = {name: re.match(r"blocks\.(\d+)\.", name) for name in state}
    return {name: state[name] for name, found in numbers.items() if found is None or int(found[1]) < depth}


def _title(kind: EncoderKind | Config) -> str:
    """What an encoder of this kind is called, for messages."""
    known = kind_of(kind)
    return ("an encoder" if known is None else _TITLES[known.name]) + (" with SwiGLU" if kind.mlp == "swiglu" else "")
