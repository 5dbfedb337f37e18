"""Segmenter → an int8 `.onnx` file, published only where what it loses is allowed."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from segfast import files
from segfast.export import check
from segfast.export.calibration import Calibration
from segfast.export.graph import Deployed, at_size, digest, fold_layer_scale
from segfast.export.int8 import Quantiser, Traced, scratch, traced
from segfast.export.replacing import replaced
from segfast.export.report import ExportReport
from segfast.export.tracing import trace
from segfast.model import Segmenter
from segfast.processes.torch_state import true_products
from segfast.protocol import Size


def export_int8(
    model: Segmenter,
    path: str | os.PathLike[str],
    window: Size,
    output: str,
    opset: int,
    force: bool,
    calibration: Calibration,
) -> ExportReport:
    """See `export_onnx`; the options are checked."""
    old = replaced(Path(path), model.config, force)
    with files.publish(path) as temporary, scratch() as folder:
        with true_products():
            fixed = at_size(model, window)
            expected, identity = check.expect(fixed), digest(model)
            fold_layer_scale(fixed)

            def metadata(precision: str, output: str) -> str:
                return fixed.config.to_json(size=window, precision=precision, output=output, digest=identity)

            # Logits are what the loss is measured of, whatever is written.
            networks = {
                kind: _traced(fixed, kind, opset, metadata("fp32", kind), folder) for kind in {"logits", output}
            }
        quantiser = Quantiser(networks["logits"], metadata("int8", "logits"), calibration, Path(path).parent)
        found, told = quantiser.run()
        quantiser.check_onnx_runtime(found)
        networks[output].write(temporary, found, metadata("int8", output))
        strict = check.agreement(temporary, expected, "onnxruntime")
        checks = (strict, *check.default_agreement(temporary, expected))
    return ExportReport(Path(path), Path(path).stat().st_size, None, checks, None, old, told)


def _traced(fixed: Segmenter, output: str, opset: int, metadata: str, folder: Path) -> Traced:
    """The network of fp32 that gives `output`, in a file."""
    program = trace(Deployed(fixed, output, torch.float32), fixed.config.protocol.window, opset)
    return traced(program.model, fixed, metadata, folder / f"{output}.onnx")
