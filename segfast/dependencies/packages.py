"""Packages that segfast can use, their versions, and the command that gets each."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

_X86_WHEELS = platform.machine() in ("x86_64", "AMD64") and sys.platform != "darwin"
TRITON = "triton-windows" if sys.platform == "win32" else "triton"
ONNX_RUNTIME = "onnxruntime-gpu" if _X86_WHEELS else "onnxruntime"


@dataclass(frozen=True)
class Package:
    """A package that segfast can use.

    Attributes:
        distributions: names under which pip may know it; the first found says the version.
        pip: what to give `pip install`.
    """

    module: str
    distributions: tuple[str, ...]
    purpose: str
    pip: str

    @property
    def version(self) -> str | None:
        """The installed version, without importing it."""
        return next((found for found in map(version, self.distributions) if found), None)


def versions() -> dict[str, str | None]:
    """The installed version of each package, by module."""
    return {package.module: package.version for package in PACKAGES}


def version(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    from importlib import metadata  # only now: an Engine does not wait for it

    try:
        return metadata.version(distribution)
    except Exception:  # absent, or its metadata is damaged
        return None


PACKAGES = (
    Package("numpy", ("numpy",), "pictures and answers are its arrays", "numpy"),
    Package("PIL", ("pillow",), "reads and writes pictures", "pillow"),
    Package("openvino", ("openvino",), "runs .onnx files on CPUs", "openvino"),
    Package("onnxruntime", ("onnxruntime-gpu", "onnxruntime"), "runs .onnx files on NVIDIA GPUs, and anywhere", ONNX_RUNTIME),
    Package("numba", ("numba",), "merges windows faster", "numba"),
    Package("torch", ("torch",), "runs checkpoints, exports .onnx files", "torch"),
    Package("triton", ("triton", "triton-windows"), "compiles PyTorch's kernels for NVIDIA GPUs", TRITON),
    Package("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "compiles .onnx files for one GPU", "tensorrt"),
    Package("tensorrt_rtx", ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"), "compiles .onnx files for RTX GPUs", "tensorrt-rtx-cu13"),
    Package("onnx", ("onnx",), "exports .onnx files", "onnx"),
    Package("onnxscript", ("onnxscript",), "exports .onnx files", "onnxscript"),
    Package("timm", ("timm",), "brings ImageNet encoders to train from", "timm"),
    Package("safetensors", ("safetensors",), "reads and writes .safetensors checkpoints", "safetensors"),
)  # fmt: skip
