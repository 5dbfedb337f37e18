"""What an Engine opens: files, names and Segmenters, each with the runtime that runs it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from segfast.artifacts import tuned
from segfast.artifacts.onnx import Artifact, read_artifact
from segfast.artifacts.sidecar import read_plan
from segfast.config import Config
from segfast.dependencies import choice, imports, installation
from segfast.errors import BadModel, BadOption, MissingRuntime
from segfast.machine.devices import check_device
from segfast.protocol import Protocol
from segfast.runtimes import Runtime
from segfast.values import is_whole

if TYPE_CHECKING:
    from segfast.model import Segmenter


@dataclass(frozen=True)
class Options:
    """What an Engine was asked for; see there.

    Raises:
        BadOption: the runtime, device or thread count is none.
        MissingRuntime: the device is a GPU, and this process was forked from one that used CUDA.
    """

    runtime: str | None = None
    device: str | None = None
    threads: int | None = None
    precision: str | None = None
    attention: str | None = None
    trusted: bool = False

    def __post_init__(self) -> None:
        if self.device is not None:
            check_device(self.device)
        if self.threads is not None and not (is_whole(self.threads) and 1 <= self.threads <= 1024):
            raise BadOption(f"threads must be a whole number from 1 to 1024; got {self.threads!r}")
        if self.runtime not in (None, *choice.RUNTIMES):
            raise BadOption(f"runtime must be one of {', '.join(choice.RUNTIMES)}; got {self.runtime!r}")

    def place(self) -> str:
        """The device to run on: where none was asked for, the NVIDIA GPU if there is one that the runtime can use."""
        return check_device("cpu" if self.device is None and self.runtime == "openvino" else self.device)


class Opened(NamedTuple):
    """A network that is ready, and what the Engine must know of it.

    Attributes:
        protocol: the model's, as far as this network can follow it.
        output: `logits` or `labels`.
        notes: every fall-back that was taken, for people.
        threads: that were asked for, or chosen by a record beside the file; None for the default.
    """

    runtime: Runtime
    config: Config
    protocol: Protocol
    output: str
    notes: list[str]
    threads: int | None = None


def open_model(path: str | os.PathLike[str] | Segmenter, options: Options) -> Opened:
    """The network of whatever `Engine` takes; errors as there."""
    device = options.place()
    suffix = Path(path).suffix.lower() if isinstance(path, (str, os.PathLike)) else ""
    if isinstance(path, (str, os.PathLike)) and suffix in (".onnx", ".engine"):
        _refuse_choices(options)
        opened = (_open_onnx if suffix == ".onnx" else _open_engine)(Path(path), options, device)
    else:
        model = _checkpoint(path, options.runtime)
        from segfast.runtimes.pytorch import PyTorchRuntime

        network = PyTorchRuntime(model, device, options.threads, options.precision, options.attention)
        opened = Opened(network, model.config, model.config.protocol, "logits", [], options.threads)
    if opened.config.random_weights:
        opened.notes.append("random weights: for timing only")
    return opened


def _open_onnx(path: Path, options: Options, device: str) -> Opened:
    artifact = read_artifact(path)
    missing = {} if importlib.util.find_spec("openvino") is not None else {"openvino": "OpenVINO is not installed"}
    chosen, notes = _as_tuned(artifact, options, device)
    try:
        runtime, more = _onnx_runtime(artifact, chosen, device, missing)
    except MissingRuntime as error:
        if chosen is options:
            raise
        chosen, notes = options, [f"not as tuned here: {error}"]
        runtime, more = _onnx_runtime(artifact, options, device, missing)
    return _opened(artifact, runtime, [*more, *notes])._replace(threads=chosen.threads)


def _as_tuned(artifact: Artifact, options: Options, device: str) -> tuple[Options, list[str]]:
    """The options, with what a record beside the file chooses where nothing else was asked for; and notes."""
    if options.runtime is not None or options.threads is not None or device != "cpu":
        return options, []
    found = tuned.read(artifact)
    if found.tuned is None:
        return options, [found.note] if found.note else []
    if importlib.util.find_spec(found.tuned.runtime) is None:
        return options, [f"{tuned.record_path(artifact.path).name} is ignored: {found.tuned.runtime} is not installed"]
    chosen = replace(options, runtime=found.tuned.runtime, threads=found.tuned.threads)
    return chosen, [f"as tuned here: {found.tuned}"]


def _onnx_runtime(
    artifact: Artifact, options: Options, device: str, troubles: dict[str, str]
) -> tuple[Runtime, list[str]]:
    """The runtime of an `.onnx` file, and notes. Where its library turns out to be broken, it is chosen again."""
    runtime, trouble = chosen = choice.for_onnx(options.runtime, device, troubles)
    try:
        return _start(runtime, artifact, device, options.threads), chosen.notes
    except MissingRuntime as error:
        if trouble:
            raise MissingRuntime(f"{trouble} (pip install openvino), and {error}") from None
        troubles = troubles | {runtime: str(error).partition("; pip install")[0]}
        if choice.for_onnx(options.runtime, device, troubles).runtime == runtime:
            raise
    return _onnx_runtime(artifact, options, device, troubles)


def _start(runtime: str, artifact: Artifact, device: str, threads: int | None) -> Runtime:
    if runtime == "openvino":
        from segfast.runtimes.openvino import OpenVINORuntime

        return OpenVINORuntime(artifact, threads)
    from segfast.runtimes.onnxruntime import ONNXRuntime

    return ONNXRuntime(artifact, device, threads)


def _open_engine(path: Path, options: Options, device: str) -> Opened:
    """An `.engine` file, after its sidecar was found to fit."""
    if options.runtime is not None:
        raise BadOption(f"{path} runs in the TensorRT that built it; leave runtime={options.runtime!r} out")
    read_plan(path, options.trusted)  # said before PyTorch is missed
    _need_torch(f"{path} is an engine file, whose tensors are PyTorch's: {installation.install('gpu')}")
    from segfast.runtimes.tensorrt import open_engine

    network = open_engine(path, device, options.trusted)
    return _opened(network.artifact, network, [])


def _opened(artifact: Artifact, network: Runtime, notes: list[str]) -> Opened:
    """An exported file, whose network has one input size."""
    protocol = artifact.config.protocol
    if protocol.small_windows:
        H, W = artifact.size
        notes.append(f"images smaller than {H}×{W} are enlarged to it (a checkpoint takes them as they are)")
        protocol = replace(protocol, small_windows=False)
    return Opened(network, artifact.config, protocol, artifact.output, notes)


def _checkpoint(path: str | os.PathLike[str] | Segmenter, runtime: str | None) -> Segmenter:
    """The Segmenter of a checkpoint, or the one given."""
    if not isinstance(path, (str, os.PathLike)):
        if hasattr(path, "patch_logits"):
            return path
        raise BadModel(f"an Engine takes a path, a published name or a Segmenter, not {type(path).__name__}")
    name = os.fspath(path)
    if runtime not in (None, "pytorch"):
        raise BadOption(f"{name} is a checkpoint, which runs in PyTorch; for {runtime} export it with segfast.export")
    _need_torch(
        f"{name} is a checkpoint, which needs PyTorch: {installation.install('export')}; "
        "an .onnx file exported from it does not"
    )
    from segfast.checkpoints.load import load_model

    return load_model(name)


def _need_torch(missing: str) -> None:
    """Load PyTorch, or say that it is missing, or broken."""
    if importlib.util.find_spec("torch") is None:
        raise MissingRuntime(missing)
    imports.load("torch", "PyTorch", "torch")


def _refuse_choices(options: Options) -> None:
    """Refuse what an artifact has decided already."""
    if options.precision is not None:
        raise BadOption(
            "precision is the .onnx file's own: export it with --fp16, --fp32 or --int8, or give the checkpoint"
        )
    if options.attention is not None:
        raise BadOption("attention is inside the .onnx file: give the checkpoint it was exported from, or leave it out")
