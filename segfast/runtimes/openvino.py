"""OpenVINO on CPUs: the default for `.onnx` files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segfast import files, published
from segfast.artifact import Artifact
from segfast.errors import BadModel, CannotWrite, MissingRuntime
from segfast.runtimes import HostRuntime, to_bytes


class OpenVINORuntime(HostRuntime):
    """An artifact compiled for windows one at a time.

    fp16 artifacts run in the CPU's own half precision (bf16 on x86, f16 on Arm), fp32 ones strictly
    in f32.
    """

    name = "OpenVINO"
    device = "cpu"
    batch = 1

    def __init__(self, artifact: Artifact, threads: int | None):
        try:
            import openvino
        except ImportError as error:
            raise MissingRuntime(f"OpenVINO cannot be imported ({error}); pip install openvino") from None

        core = openvino.Core()
        if (cache := _cache_directory()) is not None:
            core.set_property({"CACHE_DIR": str(cache)})
        self.notes: list[str] = []
        self.precision = "f32"
        if artifact.precision == "fp16":
            capable = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            self.precision = next((half.lower() for half in ("BF16", "FP16") if half in capable), "f32")
            if self.precision == "f32":
                self.notes.append("this CPU has no half-precision arithmetic: the fp16 artifact runs in f32")
        hint = {"bf16": "bf16", "fp16": "f16", "f32": "f32"}[self.precision]
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(artifact.path)
            given, returned = model.input(0).partial_shape, model.output(0).partial_shape
            artifact.check_shapes(_plain(given), _plain(returned))
            model.reshape({0: [1, *artifact.size, 3]})
            self._compiled = core.compile_model(model, "CPU", options)
        except (RuntimeError, IndexError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise BadModel(f"OpenVINO cannot run {artifact.path} ({reason}); export it again") from error
        self._local = threading.local()

    def run(self, windows: NDArray[Any]) -> NDArray[Any]:
        """See `HostRuntime`; one window."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        result: NDArray[Any] = request.infer({0: to_bytes(windows)})[0]
        return result


def _plain(shape: Any) -> list[int | str]:
    """A partial shape as numbers, and `?` where it is not fixed."""
    return [side.get_length() if side.is_static else "?" for side in shape]


def _cache_directory() -> Path | None:
    """Where compiled models are kept, so that the next start takes half as long; None if it cannot be written."""
    try:
        return files.make_folder(published.cache_directory() / "openvino")
    except CannotWrite:
        return None
