"""How large activations become, and what smooths them: by NNCF's static post-training quantisation, on OpenVINO.

NNCF decides the ranges and SmoothQuant's factors; the file is written here, for NNCF would write OpenVINO's own format, and
its ONNX backend collects its statistics in ONNX Runtime and takes several times as long.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfast.dependencies.imports import load, need
from segfast.export.int8_graph import TOP, Range
from segfast.processes import forks

# Read when NNCF is imported: with it, nothing is reported to its makers.
_TELEMETRY = "NNCF_CI"
# PyTorch, which NNCF imports, says there that CUDA is missing.
_TORCH = ("torch", "torch.utils.cpp_extension")
# Operations through which NNCF may move a quantiser up, for they change no value.
_PASSING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "StridedSlice", "VariadicSplit", "Split", "Gather"}
# NNCF's notes and bars are silenced for the whole process.
_one_at_a_time = forks.Lock()


def nncf() -> ModuleType:
    """NNCF, without its reports and its notes.

    Raises:
        MissingRuntime: it is not installed, or broken.
    """
    need("int8", "nncf", "openvino")
    told = os.environ.get(_TELEMETRY)
    os.environ[_TELEMETRY] = "1" if told is None else told
    try:
        with _silent(*_TORCH):
            library = load("nncf", "NNCF", "nncf")
    finally:
        if told is None:
            del os.environ[_TELEMETRY]
    return library


def ranges(
    network: Path,
    nodes: Mapping[str, str],
    windows: NDArray[np.uint8],
    alpha: float | None,
    step: Callable[[], object] = lambda: None,
) -> dict[str, Range]:
    """How the inputs of Linears become int8.

    Args:
        network: an `.onnx` file in fp32.
        nodes: names of the MatMul nodes, by names of the Linears.
        windows: [n, H, W, 3] to calibrate with.
        alpha: the strength of SmoothQuant, 0 … 1: how much of the range moves from the activations into the weights; None
            for no smoothing.
        step: is called for every window that has run, `passes(alpha)` times for each.

    Returns:
        ranges by names of Linears; a Linear is missing where NNCF would not quantise its input.
    """
    library = nncf()
    import openvino

    from segfast.runtimes.openvino import load_plugin

    core = openvino.Core()
    load_plugin(core)
    model = core.read_model(network)
    model.reshape({0: [1, *windows.shape[1:]]})
    others = [op.get_friendly_name() for op in model.get_ordered_ops() if _is_other(op, set(nodes.values()))]
    with _one_at_a_time, _silent("nncf", *_TORCH), _without_bars():
        quantised = library.quantize(
            model,
            library.Dataset(_Stepping(windows, step)),
            model_type=library.ModelType.TRANSFORMER,
            preset=library.QuantizationPreset.PERFORMANCE,
            subset_size=len(windows),
            ignored_scope=library.IgnoredScope(names=others),
            advanced_parameters=_parameters(library, alpha),
        )
    found = {op.get_friendly_name(): op for op in quantised.get_ordered_ops() if op.get_type_name() == "MatMul"}
    read = {name: _read(found[node]) for name, node in nodes.items()}
    return {name: range_ for name, range_ in read.items() if range_ is not None}


def passes(alpha: float | None) -> int:
    """How often every window runs."""
    return 1 if alpha is None else 2


def _parameters(library: ModuleType, alpha: float | None) -> Any:
    quantization = library.quantization.advanced_parameters
    return quantization.AdvancedQuantizationParameters(
        smooth_quant_alphas=quantization.AdvancedSmoothQuantParameters(matmul=-1 if alpha is None else alpha),
        disable_bias_correction=True,  # it runs the network once more for every layer, and gains nothing measurable here
    )


def _is_other(op: Any, wanted: Collection[str]) -> bool:
    """Whether it is an operation that NNCF would quantise, and shall not."""
    return op.get_type_name() in ("MatMul", "Convolution", "Interpolate") and op.get_friendly_name() not in wanted


def _read(product: Any) -> Range | None:
    """The range of a MatMul's first input; None where nothing quantises it."""
    source = nearest = product.input_value(0).get_node()
    while source.get_type_name() in _PASSING:
        source = source.input_value(0).get_node()
    if source.get_type_name() != "FakeQuantize":
        return None
    low, high = (float(np.abs(_data(source, place)).max()) for place in (1, 2))
    before = source.input_value(0).get_node()
    smooth = before.get_friendly_name().endswith("/nncf_smooth_quant")
    if smooth and source.get_friendly_name() != nearest.get_friendly_name():
        return None  # the factors are of other channels
    factors = _data(before, 1).reshape(-1).astype(np.float32) if smooth else None
    return Range(max(low * TOP / (TOP + 1), high), factors)


def _data(op: Any, place: int) -> NDArray[Any]:
    values: NDArray[Any] = np.array(op.input_value(place).get_node().data)
    return values


class _Stepping(Sequence[NDArray[np.uint8]]):
    """Windows as batches of one, each counted as it is asked for."""

    def __init__(self, windows: NDArray[np.uint8], step: Callable[[], object]):
        self._windows, self._step = windows, step

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:  # type: ignore[override]  # no slices
        self._step()
        return self._windows[index : index + 1]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Without NNCF's own bars, which go to the standard output; ours counts the windows."""
    track_progress: Any = importlib.import_module("nncf.common.logging.track_progress")
    shown = track_progress.Progress

    def hidden(*columns: Any, **options: Any) -> Any:
        return shown(*columns, **{**options, "disable": True})

    track_progress.Progress = hidden
    try:
        yield
    finally:
        track_progress.Progress = shown


@contextlib.contextmanager
def _silent(*names: str) -> Iterator[None]:
    """Without the notes of a library's logger."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
