"""Members of the family by name, their encoder's weights random or those that one starts from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from segfast.checkpoints.encoders import find_encoder
from segfast.checkpoints.load import fit
from segfast.config import Config, family_config
from segfast.dependencies.imports import need
from segfast.errors import BadModel, BadOption
from segfast.protocol import Size
from segfast.variants import VARIANTS, Variant, variant

if TYPE_CHECKING:
    from segfast.model import Segmenter


def create_model(
    name: str,
    *,
    num_classes: int = 150,
    image_size: int | Size | None = None,
    pretrained: bool | str | os.PathLike[str] = False,
) -> Segmenter:
    """A family member in evaluation mode.

    Args:
        name: such as `seg-b-mask-16`; `segfast.list_models()` names all.
        num_classes: K.
        image_size: training size in pixels, one side or (height, width): the grid of the position
            embeddings and the sliding window. By default 512, or 518 where the patch is 14.
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
    source = _source(row, pretrained)
    weights = {"weights": f"encoder {source}, decoder random" if source else "random"}
    config = family_config(row, num_classes, image_size, **weights)
    need("export", "torch", *(["timm", "safetensors", "yaml"] if source else []))

    from segfast.processes.torch_state import made

    return made(_create, config, source)


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


def _create(config: Config, source: str | None) -> Segmenter:
    """The model of a configuration, its encoder from `source`, if any."""
    from segfast.model import Segmenter

    if source is None:
        return Segmenter(config).eval()
    config, encoder = find_encoder(source, config)
    if encoder.heads not in (None, config.heads):  # no tensor's shape would say so
        raise BadModel(
            f"{source} has {encoder.heads} heads, {config.name} {config.heads}; choose the encoder of that model"
        )
    model = Segmenter(config)
    fit(model.encoder, encoder.state, config, source, encoder.grids)
    return model.eval()
