"""ONNX Runtime: `.onnx` files on NVIDIA GPUs, and on CPUs by request or where OpenVINO is missing."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from segfast.artifacts.onnx import Artifact
from segfast.dependencies import imports, installation
from segfast.errors import BadModel, MissingRuntime
from segfast.kernels import quota
from segfast.machine import cpu
from segfast.processes import forks
from segfast.runtimes import HostRuntime, to_bytes


class ONNXRuntime(HostRuntime):
    """An artifact in an ONNX Runtime session, on the device asked for and no other."""

    name = "ONNX Runtime"
    bytes_only = True

    def __init__(self, artifact: Artifact, device: str, threads: int | None):
        onnxruntime = _library("onnxruntime-gpu" if device != "cpu" else "onnxruntime")
        self.device, self.precision = device, artifact.precision
        if artifact.precision == "int8":
            self.precision = "int8 over fp32"
        self.notes: list[str] = []
        self.batch = 1 if device == "cpu" else 8
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if artifact.precision == "int8" and device == "cpu" and not cpu.has_int8():
            options.add_session_config_entry("session.x64quantprecision", "1")  # or sums saturate at 16 bits
        if threads is None and quota.cpus() < (os.cpu_count() or 1):  # by default it would take the whole machine's
            threads = quota.cpus()
        if threads is not None:
            options.intra_op_num_threads = threads
        providers: list[str | tuple[str, dict[str, int]]] = ["CPUExecutionProvider"]
        if device != "cpu":
            providers = [("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)})]
            _require_cuda(onnxruntime)
        try:
            with forks.running():
                self._session = onnxruntime.InferenceSession(artifact.path, options, providers)
        except Exception as error:  # its exceptions share no public base
            reason = imports.brief(error)
            if device != "cpu":
                raise MissingRuntime(f"ONNX Runtime cannot use {device} ({reason}); {_cuda_remedy()}") from error
            raise BadModel(f"ONNX Runtime cannot run {artifact.path} ({reason}); export it again") from error
        if device != "cpu" and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise MissingRuntime(f"ONNX Runtime fell back from {device} to the CPU; {_cuda_remedy()}")
        self._session.disable_fallback()  # which would otherwise move a failing call to the CPU
        artifact.check_shapes(self._session.get_inputs()[0].shape, self._session.get_outputs()[0].shape)
        self._input = self._session.get_inputs()[0].name
        forks.leave_behind(self)

    def run(self, windows: NDArray[Any]) -> NDArray[Any]:
        """See `HostRuntime`."""
        result: NDArray[Any] = self._session.run(None, {self._input: to_bytes(windows)})[0]
        return result


# Read when it is first imported.
_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def _cuda_remedy() -> str:
    return f"to bring what it needs, {installation.install('gpu')}; device='cpu' runs on the CPU"


def _library(package: str) -> ModuleType:
    """ONNX Runtime, without its telemetry: the thread of it would hang forked children as they end.

    Raises:
        MissingRuntime: it is not installed, or broken.
    """
    told = os.environ.get(_TELEMETRY)
    os.environ[_TELEMETRY] = "1" if told is None else told
    try:
        return imports.load("onnxruntime", "ONNX Runtime", package)
    finally:
        if told is None:
            del os.environ[_TELEMETRY]


def _require_cuda(onnxruntime: ModuleType) -> None:
    """Load CUDA's libraries from where pip put them, and see that this build can use them.

    Raises:
        MissingRuntime: the installed ONNX Runtime has no CUDA provider.
    """
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise MissingRuntime(f"the installed ONNX Runtime has no CUDA provider; {_cuda_remedy()}")
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
