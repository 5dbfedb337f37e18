"""Weights from files and by name: our `.safetensors`, the original `checkpoint.pth`, MMSegmentation's `.pth`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from segfast import config as configs
from segfast import files
from segfast.checkpoints import download, mmsegmentation, original, states
from segfast.checkpoints.pickles import load_pickle
from segfast.checkpoints.positions import regrid, stated_grids
from segfast.config import Config
from segfast.dependencies.imports import need
from segfast.errors import BadModel, CannotWrite, UnknownModel
from segfast.protocol import Size
from segfast.variants import VARIANTS, near

if TYPE_CHECKING:
    from torch import Tensor, nn

    from segfast.model import Segmenter

State = dict[str, "Tensor"]


def load_model(path_or_name: str | os.PathLike[str]) -> Segmenter:
    """The Segmenter in a file or published under a name, in evaluation mode, on the CPU, in fp32.

    Args:
        path_or_name: one of
            a `.safetensors` written by `Segmenter.save`;
            a `checkpoint.pth` of the original code, beside its `variant.yml`;
            a `.pth` of MMSegmentation 0.x or 1.x, which brings its own protocol;
            a published name, `seg-b-mask-16@ade20k`, downloaded once to the cache directory.

    Raises:
        BadModel: missing, truncated, foreign or malicious files, or tensors that do not fit.
        UnknownModel: no such published weights; those that exist are listed.
        DownloadFailed: published weights could not be fetched.
    """
    if not isinstance(path_or_name, (str, os.PathLike)):
        raise BadModel(f"a checkpoint is a path or a published name, not {type(path_or_name).__name__}")
    need("export", "torch", "safetensors", "yaml", "filelock")
    from segfast.processes.torch_state import made

    return made(_load, os.fspath(path_or_name))


def _load(source: str) -> Segmenter:
    """See `load_model`."""
    import torch

    from segfast.model import Segmenter

    config, state = read_checkpoint(source)
    grids = [config.grid]  # what came with the tensors is of their own grid
    with torch.device("meta"):  # shapes only: a file that lies about its sizes costs nothing
        model = Segmenter(config)
    fit(model, state, config, source, grids)
    return model.eval()


def save_model(model: Segmenter, path: str | os.PathLike[str]) -> None:
    """Write weights and configuration to one `.safetensors` file, atomically.

    Raises:
        BadOption: the name does not end in `.safetensors`.
        CannotWrite: the destination is full, read-only or missing.
    """
    files.check_suffix(path, ".safetensors")
    need("export", "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {states.plain(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with files.publish(path) as temporary:
        try:
            save_file(state, temporary, metadata={configs.METADATA_KEY: model.config.to_json()})
        except SafetensorError as error:
            raise CannotWrite(f"cannot write {path}: {error}; free some space or choose another folder") from error


def read_checkpoint(source: str, encoder_only: bool = False) -> tuple[Config, State]:
    """The configuration of a checkpoint and its tensors under the names of the original code.

    Args:
        encoder_only: what it says of its head and windows is not needed, and no reason to refuse it.

    Raises:
        As `load_model`.
    """
    path = download.fetch(source) if download.is_name(source) else existing(source)
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    if path.suffix.lower() == ".onnx":
        raise BadModel(f"{path} is an exported file, no checkpoint; run it with segfast.Engine")
    content = load_pickle(path)
    found = states.find(content, states.SEGMENTER, str(path))
    if found is None:
        raise BadModel(
            f"{path} is a PyTorch file, but no Segmenter of the original code or of MMSegmentation "
            f"(its entries: {_first(content)}); pass the checkpoint of such a model"
        )
    if any(name.startswith("encoder.patch_embed.") for name in found.state):
        config, state = original.read(path, found.state)
    else:
        config, state = mmsegmentation.read(path, content.get("meta"), found.state, encoder_only)
    digest = files.sha256(path)
    if download.is_name(source):
        download.check_digest(path, digest, download.PUBLISHED[source].digest)
    name = source if download.is_name(source) else path.name
    words = {"tensors": f"{found.where}; not {', '.join(found.unused)}"} if found.unused else {}
    return replace(config, provenance={**config.provenance, **words, "weights": name, "sha256": digest}), state


def existing(source: str) -> Path:
    """The path of a checkpoint, if there is one.

    Raises:
        UnknownModel: it is the name of a family member, which has no weights of its own.
        BadModel: there is no such file.
    """
    path = Path(source)
    if path.is_file():
        return path
    if source in VARIANTS:
        raise UnknownModel(
            f"{source} names an architecture; its weights are a file or a published name such as "
            f"{', '.join(download.PUBLISHED)} (create_model({source!r}) gives random ones)"
        )
    if path.is_dir() and (path / "checkpoint.pth").is_file():
        return path / "checkpoint.pth"
    if path.is_dir():
        raise BadModel(f"{source} is a folder without a checkpoint.pth; name the checkpoint file")
    hint = near(source, list(download.PUBLISHED))
    raise BadModel(f"there is no file {source}; check the path (published weights: {hint})")


class EncoderFile(NamedTuple):
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


def read_encoder(path: Path) -> EncoderFile:
    """An encoder's tensors from a Segmenter checkpoint or a timm or DeiT `.pth`/`.safetensors`.

    Raises:
        As `load_model`.
    """
    path = existing(str(path))
    content: Mapping[str, Any]
    if path.suffix.lower() == ".safetensors":
        text, content = _load_safetensors(path)
        segmenter = text is not None
    else:
        content = load_pickle(path)
        segmenter = states.find(content, states.SEGMENTER, str(path)) is not None
    if segmenter:
        config, whole = read_checkpoint(str(path), encoder_only=True)
        encoder = {name.removeprefix("encoder."): t for name, t in whole.items() if name.startswith("encoder.")}
        return EncoderFile(config, encoder, [config.grid], config.heads)
    found = states.find(content, states.VIT, str(path), allowed=("encoder", "backbone"))
    if found is None or "cls_token" not in found.state:
        raise BadModel(
            f"{path} holds no ViT encoder (its entries: {_first(content)}); pass one of timm, DeiT or segfast"
        )
    patch: Any = found.state.get("patch_embed.proj.weight")  # [D, 3, P, P]
    grids = stated_grids(content, patch.shape[-1]) if _is_plain(patch) and patch.ndim == 4 else []
    return EncoderFile(None, found.state, grids)


def fit(module: nn.Module, state: State, config: Config, source: str, grids: Sequence[Size] = ()) -> None:
    """Give a module its tensors, as fp32; position embeddings of another grid are resampled.

    Args:
        grids: of patches that the position embeddings of the state may have, the weightiest first.

    Raises:
        BadModel: tensors are missing, unexpected or of another shape; the first are named.
    """
    import torch

    state = {name: t for name, t in state.items() if _is_plain(t) and not _unused(name)}
    wanted = module.state_dict()
    positions = "encoder.pos_embed" if "encoder.pos_embed" in wanted else "pos_embed"
    if positions in state:
        state[positions] = regrid(state[positions], config, grids, source)
    problems = [
        *(f"{name} is missing" for name in wanted if name not in state),
        *(f"{name} is unexpected" for name in state if name not in wanted),
        *(
            f"{name} is {list(state[name].shape)} instead of {list(wanted[name].shape)}"
            for name in wanted
            if name in state and state[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise BadModel(
            f"{source} does not fit {config.name} with {config.num_classes} classes: "
            f"{'; '.join(problems[:5])}{more}; choose the model and class count it was trained with"
        )
    module.load_state_dict({name: t.to(torch.float32).contiguous() for name, t in state.items()}, assign=True)


def _read_safetensors(path: Path) -> tuple[Config, State]:
    text, state = _load_safetensors(path)
    if text is None:
        raise BadModel(
            f"{path} has no segfast metadata; save the model with Segmenter.save, "
            "or pass the original checkpoint of which it is a copy"
        )
    found = states.find(state, states.SEGMENTER, str(path))
    return configs.from_json(text, str(path))[0], found.state if found else state


def _load_safetensors(path: Path) -> tuple[str | None, State]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(configs.METADATA_KEY)
            return text, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} is no whole .safetensors file ({error}); copy or download it again") from None


def _is_plain(value: Any) -> bool:
    """Whether a value is an ordinary tensor with its numbers in memory."""
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _unused(name: str) -> bool:
    """Classification heads that the encoder carries along and Segmenter never runs."""
    return name.removeprefix("encoder.").startswith(("head.", "head_dist.", "pre_logits.", "fc_norm."))


def _first(state: dict[str, Any]) -> str:
    return ", ".join(map(str, list(state)[:4])) or "none"
