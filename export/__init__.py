"""From a Segmenter to files that run without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .onnx_file import ExportReport as ExportReport
    from .onnx_file import export_onnx as export_onnx

__all__ = ["ExportReport", "export_onnx"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from segfast.needs import need

    need("export", "torch", "onnx", "onnxscript", "onnxruntime")
    from . import onnx_file

    return getattr(onnx_file, name)
