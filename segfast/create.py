"""Members of the family by name, their encoder's weights random or those that one starts from."""

from __future__ import annotations

import os
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING

from segfast.checkpoints.encoders import start_from
from segfast.config import Config, family_config
from segfast.dependencies.imports import need
from segfast.errors import BadModel, BadOption
from segfast.protocol import Size
from segfast.variants import VARIANTS, Variant, at_patch, family_name, kind_of, variant

if TYPE_CHECKING:
    from segfast.model import Segmenter


def create_model(
    name: str,
    *,
    num_classes: int = 150,
    image_size: int | Size | None = None,
    pretrained: bool | str | os.PathLike[str] = False,
    patch: int | None = None,
    depth: int | None = None,
) -> Segmenter:
    """A family member in evaluation mode.

    Args:
        name: such as `seg-b-mask-16`; `segfast.list_models()` names all.
        num_classes: K.
        image_size: training size in pixels, one side or (height, width): the grid of the position
            embeddings and the sliding window. By default 512, or 518 where the patch is 14.
        pretrained: False draws all weights at random. True loads the encoder of the member's row (the paper's of
            section 4.2, or today's), a timm name that one, and a path an encoder from a `.npz` of the ViT
            authors, a timm or DeiT checkpoint, the file of DINOv2's, DINOv3's or SigLIP2's owner or of Transformers, or
            any Segmenter checkpoint. Position embeddings are resampled to the training grid as the family does, from the
            grid that the file says they have, else from a square; mean and std are those of the weights where they
            say so; the decoder stays random.
        patch: 8, 14, 16 or 32 instead of the name's, in pixels: the patch embedding is resampled by pseudo-inverse
            (Beyer et al. 2023, FlexiViT). The model is then named after it, as `seg-l-dinov3-mask-32` is.
        depth: blocks of the encoder instead of the name's. Of pretrained ones it is the first that stay: a smaller, faster
            model, to be fine-tuned.

    Raises:
        UnknownModel: no such name; the near ones are listed, or why there is none.
        BadModel: the weights do not fit, or no public encoder exists for this member.
        BadOption: the class count, size, patch or depth is out of range.
        DownloadFailed: the encoder cannot be fetched, or its owner gives it on request only.
        MissingRuntime: timm is missing or too old.
    """
    row = variant(name) if patch is None else at_patch(variant(name), patch)
    source = _source(row, pretrained)
    weights = {"weights": f"encoder {source}, decoder random" if source else "random"}
    config = _at_depth(family_config(row, num_classes, image_size, **weights), depth, pretrained=source is not None)
    need("export", "torch", *(["timm", "safetensors", "yaml"] if source else []))

    from segfast.processes.torch_state import made

    return made(_create, config, source, patch is not None, config.depth < row.depth)


def _at_depth(config: Config, depth: int | None, *, pretrained: bool) -> Config:
    """The Config of an encoder of another depth, named after its sizes."""
    if depth in (None, config.depth):
        return config
    most = config.depth if pretrained else 1024
    if isinstance(depth, bool) or not isinstance(depth, Integral) or not 1 <= depth <= most:
        raise BadOption(f"depth must be a whole number of blocks from 1 to {most}; got {depth!r}")
    sizes = {"width": config.width, "depth": int(depth), "heads": config.heads, "patch": config.patch}
    return replace(
        config, name=family_name(**sizes, decoder=config.decoder, kind=kind_of(config)), depth=sizes["depth"]
    )


def _source(row: Variant, pretrained: object) -> str | None:
    """The timm name or path of the encoder that is asked for, if one is."""
    if pretrained is True and row.encoder is None:
        public = ", ".join(other.name for other in VARIANTS.values() if other.encoder and other.width == row.width)
        raise BadModel(
            f"{row.name} has no public encoder weights; use pretrained=False, a timm name or a file, "
            f"or a member that has them: {public}"
        )
    if not isinstance(pretrained, (bool, str, os.PathLike)):
        raise BadOption(f"pretrained must be True, False, a timm name or a path; got {pretrained!r}")
    return row.encoder if pretrained is True else os.fspath(pretrained) if pretrained else None


def _create(config: Config, source: str | None, resize: bool, cut: bool) -> Segmenter:
    """The model of a configuration, its encoder from `source`, if any."""
    from segfast.model import Segmenter

    return (Segmenter(config) if source is None else start_from(source, config, resize, cut)).eval()
