"""What an Engine opens: files, names and Segmenters, each with the runtime that runs it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from segfast.artifacts.onnx import Artifact, read_artifact
from segfast.artifacts.sidecar import read_plan
from segfast.config import Config
from segfast.dependencies import imports, installation
from segfast.errors import BadModel, BadOption, MissingRuntime
from segfast.machine.devices import check_device
from segfast.protocol import Protocol
from segfast.runtimes import Runtime

if TYPE_CHECKING:
    from segfast.model import Segmenter
    from segfast.runtimes.tensorrt import TensorRTRuntime

RUNTIMES = ("openvino", "onnxruntime", "pytorch")


class Opened(NamedTuple):
    """A network that is ready, and what the Engine must know of it.

    Attributes:
        protocol: the model's, as far as this network can follow it.
        output: `logits` or `labels`.
        notes: every fall-back that was taken, for people.
    """

    runtime: Runtime
    config: Config
    protocol: Protocol
    output: str
    notes: list[str]


def open_model(
    path: Any,
    runtime: str | None,
    device: str | None,
    threads: int | None,
    precision: str | None,
    attention: str | None,
    trusted: bool,
) -> Opened:
    """The network of whatever `Engine` takes; arguments and errors as there."""
    device = check_device("cpu" if device is None and runtime == "openvino" else device)
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= 1024):
        raise BadOption(f"threads must be a whole number from 1 to 1024; got {threads!r}")
    if runtime not in (None, *RUNTIMES):
        raise BadOption(f"runtime must be one of {', '.join(RUNTIMES)}; got {runtime!r}")
    suffix = Path(path).suffix.lower() if isinstance(path, (str, os.PathLike)) else None
    if suffix in (".onnx", ".engine"):
        _refuse_choices(precision, attention)
        opened = _open_file(Path(path), suffix, runtime, device, threads, trusted)
    else:
        model = _checkpoint(path, runtime)
        from segfast.runtimes.pytorch import PyTorchRuntime

        network = PyTorchRuntime(model, device, threads, precision, attention)
        opened = Opened(network, model.config, model.config.protocol, "logits", [])
    if opened.config.random_weights:
        opened.notes.append("random weights: for timing only")
    return opened


def _open_file(path: Path, suffix: str, runtime: str | None, device: str, threads: int | None, trusted: bool) -> Opened:
    """An exported file, whose network has one input size."""
    notes: list[str] = []
    network: Runtime
    if suffix == ".onnx":
        artifact = read_artifact(path)
        network = _onnx_runtime(artifact, runtime, device, threads, notes)
    else:
        network = plan = _engine_runtime(path, runtime, device, trusted)
        artifact = plan.artifact
    protocol = artifact.config.protocol
    if protocol.small_windows:
        H, W = artifact.size
        notes.append(f"images smaller than {H}×{W} are enlarged to it (a checkpoint takes them as they are)")
        protocol = replace(protocol, small_windows=False)
    return Opened(network, artifact.config, protocol, artifact.output, notes)


def _onnx_runtime(
    artifact: Artifact, runtime: str | None, device: str, threads: int | None, notes: list[str]
) -> Runtime:
    """The runtime of an `.onnx` file; a fall-back is noted."""
    if runtime == "pytorch":
        raise BadOption("an .onnx file does not run in PyTorch; give the checkpoint it was exported from")
    if runtime == "openvino" and device != "cpu":
        raise BadOption(f"OpenVINO does not run on {device}; use device='cpu', or runtime='onnxruntime'")
    if runtime is None and device == "cpu":
        return _default_of_cpus(artifact, threads, notes)
    if runtime == "openvino":
        from segfast.runtimes.openvino import OpenVINORuntime

        return OpenVINORuntime(artifact, threads)
    from segfast.runtimes.onnxruntime import ONNXRuntime

    return ONNXRuntime(artifact, device, threads)


def _default_of_cpus(artifact: Artifact, threads: int | None, notes: list[str]) -> Runtime:
    """OpenVINO; ONNX Runtime, noted, where OpenVINO is missing or broken."""
    from segfast.runtimes.onnxruntime import ONNXRuntime

    trouble = "OpenVINO is not installed"
    if importlib.util.find_spec("openvino") is not None:
        try:
            from segfast.runtimes.openvino import OpenVINORuntime

            return OpenVINORuntime(artifact, threads)
        except MissingRuntime as error:
            trouble = str(error).partition("; pip install")[0]
    notes.append(f"{trouble}: ONNX Runtime instead, slower on CPUs")
    try:
        return ONNXRuntime(artifact, "cpu", threads)
    except MissingRuntime as error:
        raise MissingRuntime(f"{trouble} (pip install openvino), and {error}") from None


def _engine_runtime(path: Path, runtime: str | None, device: str, trusted: bool) -> TensorRTRuntime:
    """The runtime of an `.engine` file, after its sidecar was found to fit."""
    if runtime is not None:
        raise BadOption(f"{path} runs in the TensorRT that built it; leave runtime={runtime!r} out")
    read_plan(path, trusted)  # said before PyTorch is missed
    if importlib.util.find_spec("torch") is None:
        raise MissingRuntime(f"{path} is an engine file, whose tensors are PyTorch's: {installation.install('gpu')}")
    imports.load("torch", "PyTorch", "torch")
    from segfast.runtimes.tensorrt import open_engine

    return open_engine(path, device, trusted)


def _checkpoint(path: Any, runtime: str | None) -> Segmenter:
    """The Segmenter of a checkpoint, or the one given."""
    if not isinstance(path, (str, os.PathLike)):
        if hasattr(path, "patch_logits"):
            return path  # type: ignore[no-any-return]
        raise BadModel(f"an Engine takes a path, a published name or a Segmenter, not {type(path).__name__}")
    name = os.fspath(path)
    if runtime not in (None, "pytorch"):
        raise BadOption(f"{name} is a checkpoint, which runs in PyTorch; for {runtime} export it with segfast.export")
    if importlib.util.find_spec("torch") is None:
        raise MissingRuntime(
            f"{name} is a checkpoint, which needs PyTorch: {installation.install('export')}; "
            "an .onnx file exported from it does not"
        )
    imports.load("torch", "PyTorch", "torch")
    from segfast.checkpoints.load import load_model

    return load_model(name)


def _refuse_choices(precision: str | None, attention: str | None) -> None:
    """Refuse what an artifact has decided already."""
    if precision is not None:
        raise BadOption("precision is the .onnx file's own: export it with --fp16 or --fp32, or give the checkpoint")
    if attention is not None:
        raise BadOption("attention is inside the .onnx file: give the checkpoint it was exported from, or leave it out")
