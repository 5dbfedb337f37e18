"""Segmenter → one self-contained `.onnx` file, published only after it was run and compared."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from segfast import files
from segfast.config import check_size, whole_patches
from segfast.errors import BadOption, ExportFailed
from segfast.export import check, merge_check
from segfast.export.bars import Phases
from segfast.export.calibration import Calibration, check_calibration
from segfast.export.graph import Deployed, at_size, digest, fold_layer_scale
from segfast.export.peaks import FP16_MAX, HEADROOM, Peak, peak_activation
from segfast.export.replacing import replaced
from segfast.export.report import ExportReport
from segfast.export.tracing import clean, trace
from segfast.model import Segmenter
from segfast.processes.torch_state import made, true_products
from segfast.protocol import Size
from segfast.token_merge import Merge

# Of what is not int8, in int8 files.
PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32, "int8": torch.float32}
OUTPUTS = ("logits", "labels")
# Below 18 the exporter does not go; from 23 on it writes its own Attention operator.
OPSETS = range(18, 23)
# Largest relative error of the logits against fp32 PyTorch, the ratio of the norms. Measured on
# random weights: fp16 2.8e-3 (seg-b-mask-16), 3.0e-3 (seg-l-mask-16).
GATES = {"fp16": 5e-3, "fp32": 1e-4}
# Of weights, in bytes: a Protocol Buffers message, which an .onnx file is, ends at 2 GiB.
LARGEST = 2_100_000_000


def export_onnx(
    model: Segmenter,
    path: str | os.PathLike[str],
    *,
    size: int | Size | None = None,
    precision: str = "fp16",
    output: str = "logits",
    opset: int = 18,
    force: bool = False,
    calibration: Calibration | None = None,
) -> ExportReport:
    """Write a model as one `.onnx` file; docs/onnx.md is its contract.

    The file is run in ONNX Runtime on a photo first, against the fp32 model in PyTorch; one that
    errs more than its gate, or whose activations come near the end of fp16, is not published. An int8 file is judged
    by what it loses (docs/int8.md).

    Args:
        size: of the input in pixels, one side or (height, width): one window. By default the model's.
        precision: `fp16` (weights and activations), `fp32`, or `int8` (Linears; the rest fp32).
        output: `logits` at patch resolution, or `labels` of every pixel.
        opset: 18 to 22.
        force: let a model of random weights replace a file of trained ones.
        calibration: pictures for `int8`, and what it may lose.

    Raises:
        BadOption: an option is out of range, calibration is missing or its folder holds nothing that serves, the weights
            would pass the 2 GB that an .onnx file holds, or a trained file would be replaced by one of random weights.
        ExportFailed: the file does not pass; nothing was written.
        MissingRuntime: int8 without NNCF.
        BadData, BadModel: the masks of the calibration's data cannot be used, or are of other classes.
        CannotWrite: the destination is full, read-only or missing; nothing was written.
    """
    files.check_suffix(path, ".onnx")
    config = model.config
    window = check_size(config.protocol.window if size is None else size, config.patch)
    _check_option("precision", precision, PRECISIONS)
    _check_option("output", output, OUTPUTS)
    _check_option("opset", opset, OPSETS)
    _check_bytes(model, precision)
    if config.merge is not None:
        config.merge.check(replace(config, image_size=whole_patches(window, config.patch)))
    if precision == "int8" or calibration is not None:
        checked = check_calibration(precision, calibration)
        from segfast.export.int8_file import export_int8

        return made(export_int8, model, path, window, output, opset, force, checked)
    return made(_export, model, path, window, precision, output, opset, force)


def _export(
    model: Segmenter, path: str | os.PathLike[str], window: Size, precision: str, output: str, opset: int, force: bool
) -> ExportReport:
    """See `export_onnx`; the options are checked."""
    config = model.config
    old = replaced(Path(path), config, force)
    phases = Phases(f"export {config.name}")
    with files.publish(path) as temporary, phases, true_products():
        with phases("reference"):
            fixed = at_size(model, window)
            expected = check.expect(fixed)
            more = {"size": window, "precision": precision, "output": output, "digest": digest(model)}
            metadata = fixed.config.to_json(**more)
            fold_layer_scale(fixed)
        with phases("activations"):
            peak = None
            if precision == "fp16":
                peak = _check_peak(peak_activation(fixed, check.images(window)))
        with phases("tracing"):
            program = trace(Deployed(fixed, output, PRECISIONS[precision]), window, opset)
            clean(program.model, metadata)
        with phases("writing"):
            program.save(temporary, external_data=False)
            del program, fixed
        with phases("ONNX Runtime"):
            strict = _strict_agreement(temporary, model, window, output, expected)
            _check_gate(strict, GATES[precision])
        with phases("default runtime"):
            checks = (strict, *check.default_agreement(temporary, expected))
    return ExportReport(Path(path), Path(path).stat().st_size, peak, checks, GATES[precision], old)


def file_name(model_name: str, size: Size, precision: str, output: str = "logits", merge: Merge | None = None) -> str:
    """`{model}-{size}-{precision}.onnx`; the size as one number where it is square.

    `…-merge25at1.onnx` where it merges tokens, `…-labels.onnx` where it gives labels.
    """
    H, W = size
    kind = ("" if merge is None else f"-{merge.tag}") + ("" if output == "logits" else f"-{output}")
    return f"{model_name}-{H if H == W else f'{H}x{W}'}-{precision}{kind}.onnx"


def _strict_agreement(
    path: Path, model: Segmenter, window: Size, output: str, expected: check.Expected
) -> check.Agreement:
    """What the gate is held against: the answer in ONNX Runtime; of a file that merges tokens, for the cells it chose."""
    if model.config.merge is None:
        return check.agreement(path, expected, "onnxruntime")
    return merge_check.agreement(path, at_size(model, window), output)


def _check_gate(agreement: check.Agreement, gate: float) -> None:
    if not agreement.relative_error <= gate:
        raise ExportFailed(
            f"the exported network errs by {agreement.relative_error:.1e} in {agreement.runtime}, over its gate of "
            f"{gate:g}; nothing was written. Export with --fp32, or check the weights (were they trained?)"
        )


def _check_peak(peak: Peak) -> Peak:
    if not peak.value < FP16_MAX / HEADROOM:
        raise ExportFailed(
            f"activations reach {peak}, less than {HEADROOM} times below it: fp16 may overflow on other images; "
            "nothing was written. Export with --fp32"
        )
    return peak


def _check_option(name: str, value: object, allowed: range | Collection[str]) -> None:
    if isinstance(value, bool) or value not in allowed:
        choices = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(allowed)
        raise BadOption(f"{name} must be one of {choices}; got {value!r}")


def _check_bytes(model: Segmenter, precision: str) -> None:
    weights = sum(parameter.numel() for parameter in model.parameters()) * PRECISIONS[precision].itemsize
    if weights > LARGEST:
        remedy = "export with --fp16" if precision == "fp32" and weights // 2 <= LARGEST else "choose a smaller encoder"
        raise BadOption(
            f"{model.config.name} has {weights / 1e9:.1f} GB of weights in {precision}, and an .onnx file holds 2 GB; {remedy}"
        )
