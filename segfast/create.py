"""Members of the family by name, with the encoder weights the paper starts from."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfast.checkpoints.load import EncoderFile, fit, read_encoder
from segfast.config import Config, family_config
from segfast.dependencies.imports import need
from segfast.errors import BadModel, BadOption, DownloadFailed, UnknownModel
from segfast.protocol import Size
from segfast.variants import VARIANTS, near, variant

if TYPE_CHECKING:
    from segfast.model import Segmenter


def create_model(
    name: str,
    *,
    num_classes: int = 150,
    image_size: int | Size = 512,
    pretrained: bool | str | os.PathLike[str] = False,
) -> Segmenter:
    """A family member in evaluation mode.

    Args:
        name: such as `seg-b-mask-16`; `segfast.list_models()` names all.
        num_classes: K.
        image_size: training size in pixels, one side or (height, width): the grid of the position
            embeddings and the sliding window.
        pretrained: False draws all weights at random. True loads the encoder the paper starts from
            (section 4.2), a timm name that one, and a path an encoder from a `.npz` of the ViT
            authors, a timm or DeiT checkpoint, or any Segmenter checkpoint. Position embeddings are
            resampled bilinearly to the training grid, from the grid that the file says they have, else from
            a square; mean and std are those of the weights where they say so; the decoder stays random.

    Raises:
        UnknownModel: no such name; the near ones are listed.
        BadModel: the weights do not fit, or no public encoder exists for this member.
        BadOption: the class count or size is out of range.
        DownloadFailed: the encoder cannot be fetched.
    """
    row = variant(name)
    if pretrained is True and row.encoder is None:
        public = ", ".join(other.name for other in VARIANTS.values() if other.encoder and other.width == row.width)
        raise BadModel(
            f"{name} has no public encoder weights; use pretrained=False, a timm name or a file, "
            f"or a member that has them: {public}"
        )
    if not isinstance(pretrained, (bool, str, os.PathLike)):
        raise BadOption(f"pretrained must be True, False, a timm name or a path; got {pretrained!r}")
    source = row.encoder if pretrained is True else os.fspath(pretrained) if pretrained else None
    weights = {"weights": f"encoder {source}, decoder random" if source else "random"}
    config = family_config(row, num_classes, image_size, **weights)
    need("export", "torch", *(["timm", "safetensors", "yaml"] if source else []))

    from segfast.processes.torch_state import made

    return made(_create, config, source)


def _create(config: Config, source: str | None) -> Segmenter:
    """The model of a configuration, its encoder from `source`, if any."""
    from segfast.model import Segmenter

    if source is None:
        return Segmenter(config).eval()
    config, encoder = _read_encoder(config, source)
    if encoder.heads not in (None, config.heads):  # no tensor's shape would say so
        raise BadModel(
            f"{source} has {encoder.heads} heads, {config.name} {config.heads}; choose the encoder of that model"
        )
    model = Segmenter(config)
    fit(model.encoder, encoder.state, config, source, encoder.grids)
    return model.eval()


def _read_encoder(config: Config, source: str) -> tuple[Config, EncoderFile]:
    """An encoder from a timm name or a file, and the Config with the preprocessing it was trained for."""
    path = Path(source)
    if path.suffix.lower() == ".npz":
        return config, _npz_encoder(path, config)
    if path.suffix.lower() not in (".pth", ".pt", ".bin", ".safetensors") and not path.exists():
        return _timm_encoder(config, source)
    encoder = read_encoder(path)
    if (theirs := encoder.config) is not None:
        protocol = replace(config.protocol, mean=theirs.protocol.mean, std=theirs.protocol.std)
        config = replace(config, protocol=protocol, encoder_eps=theirs.encoder_eps, position_mode=theirs.position_mode)
    return config, encoder


def _timm_encoder(config: Config, name: str) -> tuple[Config, EncoderFile]:
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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadFailed(
            f"timm could not load the weights {name!r} ({reason}); check the connection, or pass pretrained=FILE"
        ) from error
    trained: Any = vit.pretrained_cfg
    protocol = replace(config.protocol, mean=tuple(trained["mean"]), std=tuple(trained["std"]))
    return replace(config, protocol=protocol), _encoder_of(vit)


def _npz_encoder(path: Path, config: Config) -> EncoderFile:
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
    return _encoder_of(vit)


def _encoder_of(vit: Any) -> EncoderFile:
    """What a timm ViT holds, and the grid it was made for."""
    rows, columns = vit.patch_embed.grid_size
    return EncoderFile(None, dict(vit.state_dict()), [(rows, columns)], vit.blocks[0].attn.num_heads)
