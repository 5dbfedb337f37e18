"""Encoders by timm's names, and from the `.npz` files of the ViT authors, which timm reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from segfast import refusals
from segfast.checkpoints import matching
from segfast.checkpoints.load import first_entries
from segfast.checkpoints.matching import Encoder
from segfast.checkpoints.owners import in_timms_names, renamed
from segfast.config import Config
from segfast.dependencies.imports import brief
from segfast.errors import BadModel, DownloadFailed, MissingRuntime, SegfastError, UnknownModel
from segfast.variants import VARIANTS, near

# timm's modules of plain ViTs.
_PLAIN = ("vision_transformer", "deit", "eva")
_NOT_ALLOWED = (401, 403)  # HTTP: who asks is not known, or was not given access


def by_name(name: str, config: Config, resize: bool) -> tuple[Config, Encoder]:
    """The encoder of a pretrained timm model, and the Config with its mean, std and GELU.

    The LayerNorms keep the eps of the family, which for the paper's is the original code's 1e-5, though timm's have 1e-6.
    What does not fit is refused before anything is fetched.

    Raises:
        UnknownModel: timm has no such model.
        BadModel: it is no plain ViT, or not one for this Config.
        MissingRuntime: timm is older than the model.
        DownloadFailed: it could not be fetched, or only those may who asked for it.
    """
    import timm

    _check_name(name)
    try:
        _check_shapes(name, config, resize)
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except SegfastError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_loaded(name, error) from error
    trained: Any = vit.pretrained_cfg
    protocol = replace(config.protocol, mean=tuple(trained["mean"]), std=tuple(trained["std"]))
    return replace(config, protocol=protocol, mlp=_mlp(vit, config)), _inside(vit)


def _mlp(vit: Any, config: Config) -> str:
    """`Config.mlp` of a timm ViT: SigLIP's have the exact GELU or its approximation, whatever the table's row has."""
    from timm.layers import GELUTanh
    from torch import nn

    if config.mlp == "swiglu":
        return config.mlp
    act = vit.blocks[0].mlp.act
    approximate = isinstance(act, GELUTanh) or (isinstance(act, nn.GELU) and act.approximate == "tanh")
    return "gelu-tanh" if approximate else "gelu"


def _check_name(name: str) -> None:
    """See that timm has a plain ViT of that name."""
    import timm

    if (why := refusals.of_name(name)) is not None:
        raise BadModel(f"segfast has no {why}; choose an encoder that `python -m segfast.models` lists")
    ours = {row.encoder for row in VARIANTS.values()}
    architecture = name.split(".")[0]
    if name in ours and not timm.models.is_model_pretrained(name):
        raise MissingRuntime(
            f"timm {timm.__version__} is older than {name}, which needs 1.0.20 or newer: pip install --upgrade timm"
        )
    if not timm.is_model(architecture):
        known = timm.list_models("vit_*patch*") + timm.list_models("deit_*")
        raise UnknownModel(f"timm has no model named {name!r}, and no file has that path; {near(name, known)}")
    if not timm.models.is_model_in_modules(architecture, _PLAIN):
        raise BadModel(f"{name} is no plain ViT; choose an encoder that `python -m segfast.models` lists")


def _check_shapes(name: str, config: Config, resize: bool) -> None:
    """See that a model of timm fits, by its shapes alone."""
    import timm
    import torch

    with torch.device("meta"):
        vit = timm.create_model(name, pretrained=False, num_classes=0)
    state = {renamed(key): tensor for key, tensor in vit.state_dict().items()}
    matching.check(state, config, name, resize)


def _not_loaded(name: str, error: Exception) -> DownloadFailed:
    """The error for weights that timm could not load: access that must be asked for is no fault of the connection."""
    import timm

    if _status(error) in _NOT_ALLOWED:
        hub = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None) or name
        owner = f" or {_DINOV3_OWNER}" if "dinov3" in name else ""
        return DownloadFailed(
            f"the weights {name!r} are given out on request only: ask for access at https://huggingface.co/{hub}{owner} "
            "and log in with `hf auth login`, or pass a file that you have: pretrained=FILE (--encoder FILE), "
            "in timm's names, the owner's or Transformers'"
        )
    return DownloadFailed(
        f"timm could not load the weights {name!r} ({brief(error)}); check the connection, or name "
        "a file that was downloaded elsewhere: --encoder FILE of segfast.train, pretrained=FILE in Python"
    )


_DINOV3_OWNER = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or what caused it, speaks of."""
    while error is not None:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None) or getattr(error, "code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None


def from_npz(path: Path, config: Config) -> Encoder:
    """The encoder in a `.npz` of the ViT authors, read by timm into a ViT of the file's own grid."""
    import numpy as np
    import timm

    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "Transformer/posembed_input/pos_embedding" not in arrays:
                raise BadModel(
                    f"{path} is no `.npz` of the ViT authors (its entries: {first_entries(arrays)}); of SigLIP2 and "
                    "others pass the file of timm or Transformers"
                )
            patch = arrays["embedding/kernel"].shape[0]  # [P, P, 3, D]
            tokens = arrays["Transformer/posembed_input/pos_embedding"].shape[1] - 1
            side = round(tokens**0.5)
            if side < 1 or side * side != tokens:
                raise ValueError(f"{tokens} position embeddings are no square")
    except FileNotFoundError:
        raise BadModel(f"there is no file {path}; check the path") from None
    except BadModel:
        raise
    except Exception as error:  # damaged archives are met with nearly any exception
        raise BadModel(f"{path} is no `.npz` of ViT weights ({error}); download it again") from None
    # Of the file's own patch, to which timm would resample it unasked.
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=side * patch,
        patch_size=patch,
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
    return Encoder(None, in_timms_names(vit.state_dict()), [(rows, columns)], vit.blocks[0].attn.num_heads)
