"""Packages that segfast can use, and the command that gets each."""

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
