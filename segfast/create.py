"""Members of the family by name, with the encoder weights the paper starts from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfast.config import family_config
from segfast.errors import BadModel, DownloadFailed, MissingRuntime, UnknownModel
from segfast.protocol import Size
from segfast.variants import VARIANTS, near, variant

if TYPE_CHECKING:
    from torch import Tensor

    from segfast.model import Segmenter

State = dict[str, "Tensor"]


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
            resampled bilinearly to the training grid; the decoder stays random.

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
    source = row.encoder if pretrained is True else os.fspath(pretrained) if pretrained else None
    weights = {"weights": f"encoder {source}, decoder random" if source else "random"}
    config = family_config(row, num_classes, image_size, **weights)

    from segfast.model import Segmenter

    model = Segmenter(config)
    if source is not None:
        load_encoder(model, source)
    return model.eval()


def load_encoder(model: Segmenter, source: str) -> None:
    """Fill a model's encoder from a timm name or a file; see `create_model`.

    Raises:
        BadModel: the file is unreadable, or its tensors do not fit.
        DownloadFailed: the timm weights cannot be fetched.
    """
    from segfast import weights

    path = Path(source)
    is_file = path.suffix in (".npz", ".pth", ".pt", ".bin", ".safetensors") or path.exists()
    if not is_file:
        state = _timm_state(source)
    elif path.suffix == ".npz":
        state = _npz_state(path, model)
    else:
        state = weights.encoder_state(path)
    weights.fit(model.encoder, state, model.config, source)


def _timm_state(name: str) -> State:
    """Encoder tensors of a pretrained timm model, under the names of the original code."""
    timm = _timm()
    if not timm.is_model(name.split(".")[0]):
        known = timm.list_models("vit_*patch*") + timm.list_models("deit_*")
        raise UnknownModel(f"timm has no model named {name!r}, and no file has that path; {near(name, known)}")
    try:
        return dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadFailed(
            f"timm could not load the weights {name!r} ({reason}); check the connection, or pass pretrained=FILE"
        ) from error


def _npz_state(path: Path, model: Segmenter) -> State:
    """Encoder tensors of a `.npz` of the ViT authors, read by timm into a ViT of the file's own grid."""
    import zipfile

    import numpy as np

    timm, config = _timm(), model.config
    try:
        with np.load(path, allow_pickle=False) as arrays:
            tokens = arrays["Transformer/posembed_input/pos_embedding"].shape[1] - 1
    except FileNotFoundError:
        raise BadModel(f"there is no file {path}; check the path") from None
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadModel(f"{path} is no `.npz` of ViT weights ({error}); download it again") from None
    side = round(tokens**0.5)
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
    except (KeyError, RuntimeError, ValueError, AssertionError) as error:
        raise BadModel(f"{path} does not fit {config.name} ({error}); choose the file of the same size") from error
    return dict(vit.state_dict())


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise MissingRuntime("encoder weights are read by timm; pip install 'segfast[export]'") from None
    return timm
