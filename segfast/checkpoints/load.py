"""Checkpoints by path or name: ours, the original code's, MMSegmentation's, and the Segmenter in them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from segfast import files
from segfast.checkpoints import download, mmsegmentation, native, original, states
from segfast.checkpoints.pickles import load_pickle
from segfast.checkpoints.positions import regrid
from segfast.checkpoints.states import State
from segfast.config import Config
from segfast.dependencies.imports import need
from segfast.errors import BadModel, UnknownModel
from segfast.protocol import Size
from segfast.variants import VARIANTS, near

if TYPE_CHECKING:
    from torch import Tensor, nn

    from segfast.model import Segmenter


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

    config, state = _read(source)
    grids = [config.grid]  # what came with the tensors is of their own grid
    with torch.device("meta"):  # shapes only: a file that lies about its sizes costs nothing
        model = Segmenter(config)
    fit(model, state, config, source, grids)
    return model.eval()


def _read(source: str) -> tuple[Config, State]:
    """The configuration of a checkpoint and its tensors under the names of the original code."""
    published = download.is_name(source)
    path = download.fetch(source) if published else existing(source)
    if path.suffix.lower() == ".safetensors":
        config, state = native.read(path)
        if config is None:
            raise BadModel(
                f"{path} has no segfast metadata; save the model with Segmenter.save, "
                "or pass the original checkpoint of which it is a copy"
            )
        return config, state
    if path.suffix.lower() == ".onnx":
        raise BadModel(f"{path} is an exported file, no checkpoint; run it with segfast.Engine")
    digest = _digest(path)
    if published:  # before anything in it is unpickled
        download.check_digest(path, digest, download.PUBLISHED[source].digest)
    content = load_pickle(path)
    found = states.find(content, states.SEGMENTER, str(path))
    if found is None:
        raise BadModel(
            f"{path} is a PyTorch file, but no Segmenter of the original code or of MMSegmentation "
            f"(its entries: {first_entries(content)}); pass the checkpoint of such a model"
        )
    config, state = segmenter(path, content, found.state)
    words = {"tensors": f"{found.where}; not {', '.join(found.unused)}"} if found.unused else {}
    words |= {"weights": source if published else path.name, "sha256": digest}
    return replace(config, provenance={**config.provenance, **words}), state


def _digest(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError as error:
        raise BadModel(f"{path} is no whole PyTorch checkpoint ({error}); copy or download it again") from None


def segmenter(
    path: Path, content: Mapping[str, object], state: State, encoder_only: bool = False
) -> tuple[Config, State]:
    """Configuration and tensors of the Segmenter in a pickle's content, whose names of tensors say whose it is.

    Args:
        encoder_only: what it says of its head and windows is not needed, and no reason to refuse it.

    Raises:
        BadModel: its settings are missing, garbled, or cannot be honoured.
    """
    if any(name.startswith("encoder.patch_embed.") for name in state):
        return original.read(path, state)
    return mmsegmentation.read(path, content.get("meta"), state, encoder_only)


def fit(module: nn.Module, state: State, config: Config, source: str, grids: Sequence[Size] = ()) -> None:
    """Give a module its tensors, as fp32; position embeddings of another grid are resampled.

    Args:
        grids: of patches that the position embeddings of the state may have, the weightiest first.

    Raises:
        BadModel: tensors are missing, unexpected or of another shape; the first are named.
    """
    import torch

    state = {name: t for name, t in state.items() if is_plain(t) and not _unused(name)}
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


def first_entries(content: Mapping[str, object]) -> str:
    """The first names in a file, for messages."""
    return ", ".join(map(str, list(content)[:4])) or "none"


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether a value is an ordinary tensor with its numbers in memory."""
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _unused(name: str) -> bool:
    """Classification heads that the encoder carries along and Segmenter never runs."""
    return name.removeprefix("encoder.").startswith(("head.", "head_dist.", "pre_logits.", "fc_norm."))
