"""From a Segmenter to files that run without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calibration import Calibration as Calibration
    from .engine_file import EngineReport as EngineReport
    from .engine_file import build_engine as build_engine
    from .onnx_file import export_onnx as export_onnx
    from .report import ExportReport as ExportReport
    from .triton import export_triton as export_triton

# Where each public name lives.
_HOMES = {
    "Calibration": "calibration",
    "EngineReport": "engine_file",
    "ExportReport": "report",
    "build_engine": "engine_file",
    "export_onnx": "onnx_file",
    "export_triton": "triton",
}
__all__ = ["Calibration", "EngineReport", "ExportReport", "build_engine", "export_onnx", "export_triton"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from segfast.dependencies.imports import need

    if _HOMES[name] in ("onnx_file", "report"):
        need("export", "torch", "onnx", "onnxscript", "onnxruntime")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
