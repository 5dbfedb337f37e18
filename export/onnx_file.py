"""Segmenter → one self-contained `.onnx` file, published only after it was run and compared."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from segfast import __version__, files
from segfast import config as configs
from segfast.config import check_size, whole_patches
from segfast.errors import BadOption, ExportFailed, MissingRuntime
from segfast.export import check, merge_check
from segfast.export.bars import Phases
from segfast.export.graph import Deployed, at_size, fold_layer_scale
from segfast.export.peaks import FP16_MAX, HEADROOM, Peak, peak_activation
from segfast.export.replacing import replaced
from segfast.model import Segmenter
from segfast.processes.torch_state import made, true_products
from segfast.protocol import Size
from segfast.token_merge import Merge

if TYPE_CHECKING:
    import onnx_ir

PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}
OUTPUTS = ("logits", "labels")
# Below 18 the exporter does not go; from 23 on it writes its own Attention operator.
OPSETS = range(18, 23)
# Largest relative error of the logits against fp32 PyTorch, the ratio of the norms. Measured on
# random weights: fp16 2.8e-3 (seg-b-mask-16), 3.0e-3 (seg-l-mask-16).
GATES = {"fp16": 5e-3, "fp32": 1e-4}
# Of weights, in bytes: a Protocol Buffers message, which an .onnx file is, ends at 2 GiB.
LARGEST = 2_100_000_000


@dataclass(frozen=True)
class ExportReport:
    """What was written and how well it agrees with the fp32 model in PyTorch, on a photo.

    Attributes:
        path, bytes: of the file.
        peak: the largest activation over photos, black, white and noise (fp16 only).
        checks: agreement in ONNX Runtime, which is the gate, and in the Engine's default runtime.
        gate: largest relative error that is published.
        replaced: what was at `path` before, in words.
    """

    path: Path
    bytes: int
    peak: Peak | None
    checks: tuple[check.Agreement, ...]
    gate: float
    replaced: str | None = None

    def __str__(self) -> str:
        lines = [f"wrote {self.path} ({self.bytes / 1e6:.1f} MB)"]
        if self.replaced is not None:
            lines.append(f"it replaced a file of that name: {self.replaced}")
        if self.peak is not None:
            lines.append(f"largest activation {self.peak}")
        lines += [f"{agreement} (gate {self.gate:g})" for agreement in self.checks[:1]]
        return "\n".join(lines + [str(agreement) for agreement in self.checks[1:]])


def export_onnx(
    model: Segmenter,
    path: str | os.PathLike[str],
    *,
    size: int | Size | None = None,
    precision: str = "fp16",
    output: str = "logits",
    opset: int = 18,
    force: bool = False,
) -> ExportReport:
    """Write a model as one `.onnx` file; docs/onnx.md is its contract.

    The file is run in ONNX Runtime on a photo first, against the fp32 model in PyTorch; one that
    errs more than its gate, or whose activations come near the end of fp16, is not published.

    Args:
        size: of the input in pixels, one side or (height, width): one window. By default the model's.
        precision: `fp16` (weights and activations) or `fp32`.
        output: `logits` at patch resolution, or `labels` of every pixel.
        opset: 18 to 22.
        force: let a model of random weights replace a file of trained ones.

    Raises:
        BadOption: an option is out of range, the weights would pass the 2 GB that an .onnx file holds, or a trained file would
            be replaced by one of random weights.
        ExportFailed: the file does not pass; nothing was written.
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
            program = _trace(Deployed(fixed, output, PRECISIONS[precision]), window, opset)
            _clean(program.model, metadata)
        with phases("writing"):
            program.save(temporary, external_data=False)
            del program, fixed
        with phases("ONNX Runtime"):
            strict = _strict_agreement(temporary, model, window, output, expected)
            _check_gate(strict, GATES[precision])
        with phases("default runtime"):
            checks = (strict, *_default_agreement(temporary, expected))
    return ExportReport(Path(path), Path(path).stat().st_size, peak, checks, GATES[precision], old)


def file_name(model_name: str, size: Size, precision: str, output: str = "logits", merge: Merge | None = None) -> str:
    """`{model}-{size}-{precision}.onnx`; the size as one number where it is square.

    `…-merge25at1.onnx` where it merges tokens, `…-labels.onnx` where it gives labels.
    """
    H, W = size
    kind = ("" if merge is None else f"-{merge.tag}") + ("" if output == "logits" else f"-{output}")
    return f"{model_name}-{H if H == W else f'{H}x{W}'}-{precision}{kind}.onnx"


def digest(model: Segmenter) -> str:
    """Hexadecimal SHA-256 of the weights, tensors in the order of their names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return sha.hexdigest()


def _trace(network: Deployed, size: Size, opset: int) -> torch.onnx.ONNXProgram:
    """The ONNX program of a network; B is dynamic, H and W are fixed."""
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=[network.output],
            dynamic_shapes={"images": {0: torch.export.Dim("B")}},
            verbose=False,
        )
    assert program is not None
    return program


def _clean(model: onnx_ir.Model, metadata: str) -> None:
    """Replace the exporter's notes, which quote source lines and paths, by our metadata."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props[configs.METADATA_KEY] = metadata
    model.producer_name, model.producer_version = "segfast", __version__
    model.doc_string = model.graph.doc_string = None


def _strict_agreement(
    path: Path, model: Segmenter, window: Size, output: str, expected: check.Expected
) -> check.Agreement:
    """What the gate is held against: the answer in ONNX Runtime; of a file that merges tokens, for the cells it chose."""
    if model.config.merge is None:
        return check.agreement(path, expected, "onnxruntime")
    return merge_check.agreement(path, at_size(model, window), output)


def _default_agreement(path: Path, expected: check.Expected) -> tuple[check.Agreement, ...]:
    """Agreement in the Engine's default runtime, where that is another one and is installed."""
    try:
        agreement = check.agreement(path, expected, None)
    except MissingRuntime:
        return ()
    return (agreement,) if not agreement.runtime.startswith("ONNX Runtime") else ()


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own progress notes and deprecation warnings, which are not the user's."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
