"""Segmenter → ONNX graph, by PyTorch's exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from segfast import __version__
from segfast import config as configs
from segfast.export.graph import Deployed
from segfast.protocol import Size

if TYPE_CHECKING:
    import onnx_ir


def trace(network: Deployed, size: Size, opset: int) -> torch.onnx.ONNXProgram:
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


def clean(model: onnx_ir.Model, metadata: str) -> None:
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
