"""Encoders to start a model from: by timm's names, from the ViT authors' `.npz`, from timm's, the owners' and Segmenter files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segfast import refusals
from segfast.checkpoints import native, owners, states, timm_encoders
from segfast.checkpoints.load import existing, first_entries, fit, segmenter
from segfast.checkpoints.matching import Encoder, adapted, check, first_blocks
from segfast.checkpoints.pickles import load_pickle
from segfast.checkpoints.positions import stated_grids
from segfast.checkpoints.states import State
from segfast.config import Config
from segfast.errors import BadModel

if TYPE_CHECKING:
    from segfast.model import Segmenter


def start_from(source: str, config: Config, resize: bool = False, cut: bool = False) -> Segmenter:
    """The model of a Config, its encoder's weights from a timm name or a file, its decoder's random.

    Args:
        resize: a patch embedding of another patch is resampled (FlexiViT), else refused.
        cut: of an encoder with more blocks than the model's the first are taken, else it is refused.

    Raises:
        As `find_encoder`, or
        BadModel: the encoder is of another family, size, patch or number of heads.
    """
    from segfast.model import Segmenter

    config, encoder = find_encoder(source, config, resize)
    check(encoder.state, config, source, resize)
    if encoder.heads not in (None, config.heads):  # no tensor's shape would say so
        raise BadModel(
            f"{source} has {encoder.heads} heads, {config.name} {config.heads}; choose the encoder of that model"
        )
    config, state = adapted(config, encoder.state, resize)
    state = first_blocks(state, config.depth) if cut else state
    model = Segmenter(config)
    fit(model.encoder, state, config, source, encoder.grids)
    return model


def find_encoder(source: str, config: Config, resize: bool = False) -> tuple[Config, Encoder]:
    """An encoder by timm name or path, and the Config of the model it is for, with the preprocessing it was trained with.

    Raises:
        UnknownModel, MissingRuntime, DownloadFailed: timm does not have it, is too old, or cannot fetch it.
        BadModel: the file is missing, damaged, of no encoder, or of one that segfast does not have.
    """
    path = Path(source)
    if path.suffix.lower() == ".npz":
        return config, timm_encoders.from_npz(path, config)
    if path.suffix.lower() not in (".pth", ".pt", ".bin", ".safetensors") and not path.exists():
        return timm_encoders.by_name(source, config, resize)
    encoder = read_encoder(path)
    if (theirs := encoder.config) is not None:
        protocol = replace(config.protocol, mean=theirs.protocol.mean, std=theirs.protocol.std)
        config = replace(
            config,
            protocol=protocol,
            encoder_eps=theirs.encoder_eps,
            position_mode=theirs.position_mode,
            position_antialias=theirs.position_antialias,
        )
    return config, encoder


def read_encoder(path: Path) -> Encoder:
    """The encoder in a Segmenter checkpoint, or in a `.pth` or `.safetensors` with timm's names or its owner's.

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
    found = states.find(content, owners.FIRST, str(path), allowed=owners.PARTS)
    other = refusals.architecture(found.state if found else content)
    if other is not None:
        raise BadModel(f"{path} holds {other}, which is no plain ViT; {_REMEDY}")
    if found is None:
        raise BadModel(f"{path} holds no ViT encoder (its entries: {first_entries(content)}); {_REMEDY}")
    state = owners.in_timms_names(found.state)
    patch = state.get("patch_embed.proj.weight")  # [D, 3, P, P]
    grids = stated_grids(content, patch.shape[-1]) if patch is not None and patch.ndim == 4 else []
    return Encoder(None, state, grids)


_REMEDY = "pass one of timm, of its owner or Transformers (DINOv2, DINOv3, SigLIP2), DeiT or segfast"


def _part_of(config: Config, state: State) -> Encoder:
    """The encoder of a Segmenter."""
    encoder = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
    return Encoder(config, encoder, [config.grid], config.heads)
