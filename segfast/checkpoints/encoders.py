"""Encoders to start a model from: by timm's names, from the ViT authors' `.npz`, from timm, DeiT and Segmenter checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from segfast.checkpoints import native, states
from segfast.checkpoints.load import existing, first_entries, is_plain, segmenter
from segfast.checkpoints.pickles import load_pickle
from segfast.checkpoints.positions import stated_grids
from segfast.checkpoints.states import State
from segfast.config import Config
from segfast.dependencies.imports import brief
from segfast.errors import BadModel, DownloadFailed, UnknownModel
from segfast.protocol import Size
from segfast.variants import near


class Encoder(NamedTuple):
    """An encoder alone, as a file has it.

    Attributes:
        config: of the Segmenter that it is part of, if it is.
        grids: of patches that its position embeddings may have, the weightiest first.
        heads: of its attentions, where the file says so.
    """

    config: Config | None
    state: State
    grids: list[Size]
    heads: int | None = None


def find_encoder(source: str, config: Config) -> tuple[Config, Encoder]:
    """An encoder by timm name or path, and the Config of the model it is for, with the preprocessing it was trained with.

    Raises:
        UnknownModel, DownloadFailed: timm does not have it, or cannot fetch it.
        BadModel: the file is missing, damaged, of no encoder, or of one of another size.
    """
    path = Path(source)
    if path.suffix.lower() == ".npz":
        return config, _from_npz(path, config)
    if path.suffix.lower() not in (".pth", ".pt", ".bin", ".safetensors") and not path.exists():
        return _from_timm(source, config)
    encoder = read_encoder(path)
    if (theirs := encoder.config) is not None:
        protocol = replace(config.protocol, mean=theirs.protocol.mean, std=theirs.protocol.std)
        config = replace(config, protocol=protocol, encoder_eps=theirs.encoder_eps, position_mode=theirs.position_mode)
    return config, encoder


def read_encoder(path: Path) -> Encoder:
    """The encoder in a Segmenter checkpoint or a timm or DeiT `.pth`/`.safetensors`.

    Raises:
        As `load_model`.
    """
    path = existing(str(path))
    content: Mapping[str, object]
    if path.suffix.lower() == ".safetensors":
        config, content = native.read(path)
        if config is not None:
            return _part_of(config, content)
    else:
        content = load_pickle(path)
        if (whole := states.find(content, states.SEGMENTER, str(path))) is not None:
            return _part_of(*segmenter(path, content, whole.state, encoder_only=True))
    found = states.find(content, states.VIT, str(path), allowed=("encoder", "backbone"))
    if found is None or "cls_token" not in found.state:
        raise BadModel(
            f"{path} holds no ViT encoder (its entries: {first_entries(content)}); pass one of timm, DeiT or segfast"
        )
    patch = found.state.get("patch_embed.proj.weight")  # [D, 3, P, P]
    grids = stated_grids(content, patch.shape[-1]) if is_plain(patch) and patch.ndim == 4 else []
    return Encoder(None, found.state, grids)


def _part_of(config: Config, state: State) -> Encoder:
    """The encoder of a Segmenter."""
    encoder = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
    return Encoder(config, encoder, [config.grid], config.heads)


def _from_timm(name: str, config: Config) -> tuple[Config, Encoder]:
    """The encoder of a pretrained timm model, and the Config with its mean and std.

    The LayerNorms keep the eps of the original code, 1e-5, though timm's have 1e-6.
    """
    import timm

    if not timm.is_model(name.split(".")[0]):
        known = timm.list_models("vit_*patch*") + timm.list_models("deit_*")
        raise UnknownModel(f"timm has no model named {name!r}, and no file has that path; {near(name, known)}")
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise DownloadFailed(
            f"timm could not load the weights {name!r} ({brief(error)}); check the connection, or name "
            "a file that was downloaded elsewhere: --encoder FILE of segfast.train, pretrained=FILE in Python"
        ) from error
    trained: Any = vit.pretrained_cfg
    protocol = replace(config.protocol, mean=tuple(trained["mean"]), std=tuple(trained["std"]))
    return replace(config, protocol=protocol), _inside(vit)


def _from_npz(path: Path, config: Config) -> Encoder:
    """The encoder in a `.npz` of the ViT authors, read by timm into a ViT of the file's own grid."""
    import numpy as np
    import timm

    try:
        with np.load(path, allow_pickle=False) as arrays:
            tokens = arrays["Transformer/posembed_input/pos_embedding"].shape[1] - 1
            side = round(tokens**0.5)
            if side < 1 or side * side != tokens:
                raise ValueError(f"{tokens} position embeddings are no square")
    except FileNotFoundError:
        raise BadModel(f"there is no file {path}; check the path") from None
    except Exception as error:  # damaged archives are met with nearly any exception
        raise BadModel(f"{path} is no `.npz` of ViT weights ({error}); download it again") from None
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=side * config.patch,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        num_classes=0,
    )
    try:
        vit.load_pretrained(str(path))
    except Exception as error:  # timm checks little: shapes that differ come out as anything
        raise BadModel(f"{path} does not fit {config.name} ({error}); choose the file of the same size") from error
    return _inside(vit)


def _inside(vit: Any) -> Encoder:
    """What a timm ViT holds, and the grid it was made for."""
    rows, columns = vit.patch_embed.grid_size
    return Encoder(None, dict(vit.state_dict()), [(rows, columns)], vit.blocks[0].attn.num_heads)
