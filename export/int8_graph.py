"""The int8 form of an exported network: QuantizeLinear and DequantizeLinear around the Linears that take it.

Activations are symmetric with one scale, the weights with one of every output channel, so that all zero points are 0 (which
TensorRT demands). Everything else keeps its precision: the patch embedding, attention, LayerNorm, GELU, residuals, and
the decoder's end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

# What a signed byte holds on both sides of 0.
TOP = 127
# In the exporter's notes: the modules that a node comes from, the innermost last but one.
_SCOPES = "pkg.torch.onnx.name_scopes"
# The scores themselves: a product as small as this costs nothing, and its rounding is seen at once.
_LAST = "decoder.head"


@dataclass(frozen=True)
class Range:
    """How the input of one Linear becomes int8.

    Attributes:
        largest: the magnitude, after smoothing, that becomes 127.
        smoothing: factors [D] of the input, by which the weights are divided (SmoothQuant, Xiao et al. 2023, equation 3);
            None where there are none.
    """

    largest: float
    smoothing: NDArray[np.float32] | None


def linears(graph: ir.Graph, model: nn.Module) -> dict[str, str]:
    """The Linears of a traced network that may become int8: names in the model → names of their MatMul nodes.

    Args:
        graph: as the exporter gives it, with its notes.
        model: that was traced as `model` of a `Deployed`.
    """
    found = {}
    for node in graph:
        scopes = node.metadata_props.get(_SCOPES, "")
        parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
        if node.op_type != "MatMul" or len(parts) < 2 or not parts[-2].startswith("model."):
            continue
        name = parts[-2].removeprefix("model.")
        weights = node.inputs[1]
        held = weights is not None and weights.const_value is not None
        if held and name != _LAST and isinstance(model.get_submodule(name), nn.Linear):
            assert node.name is not None
            found[name] = node.name
    return found


def groups(names: Mapping[str, str]) -> dict[str, list[str]]:
    """The Linears that go back to higher precision together: of a block's attention, of its MLP, and single ones."""
    found: dict[str, list[str]] = {}
    for name in names:
        parent = name.rpartition(".")[0]
        found.setdefault(parent if "blocks" in name else name, []).append(name)
    return found


def quantise(model: ir.Model, nodes: Mapping[str, str], ranges: Mapping[str, Range]) -> None:
    """Make Linears int8, in place.

    Args:
        model: in fp32.
        nodes: names of the MatMul nodes, by names of the Linears.
        ranges: of those that become int8.
    """
    graph = model.graph
    wanted = {nodes[name]: found for name, found in ranges.items()}
    for node in [node for node in graph if node.name in wanted]:
        _quantise(graph, node, wanted[node.name or ""])
    _drop_unused(graph)


def _quantise(graph: ir.Graph, node: ir.Node, found: Range) -> None:
    """One MatMul of activations [B, N, D] and weights [D, M]."""
    inputs, weights = node.inputs
    assert inputs is not None
    assert weights is not None
    assert weights.const_value is not None
    matrix = weights.const_value.numpy().astype(np.float32)
    made: list[ir.Node] = []
    if found.smoothing is not None:
        matrix = matrix / found.smoothing[:, None]
        factors = _constant(graph, f"{node.name}.smoothing", found.smoothing.astype(np.float32))
        made.append(ir.node("Mul", [inputs, factors], name=f"{node.name}.smooth"))
        inputs = _named(made[-1])
    scale = _constant(graph, f"{node.name}.input_scale", np.float32(max(found.largest, _TINY) / TOP))
    zero = _constant(graph, f"{node.name}.input_zero", np.int8(0))
    made.append(ir.node("QuantizeLinear", [inputs, scale, zero], name=f"{node.name}.quantize"))
    made.append(ir.node("DequantizeLinear", [_named(made[-1]), scale, zero], name=f"{node.name}.dequantize"))
    activations = _named(made[-1])
    whole, scales = to_int8(matrix)
    stored = [
        _constant(graph, f"{node.name}.weight", whole),
        _constant(graph, f"{node.name}.weight_scale", scales),
        _constant(graph, f"{node.name}.weight_zero", np.zeros(len(scales), np.int8)),
    ]
    made.append(ir.node("DequantizeLinear", stored, {"axis": 1}, name=f"{node.name}.weights"))
    graph.insert_before(node, made)
    node.replace_input_with(0, activations)
    node.replace_input_with(1, _named(made[-1]))


# Below it a scale is no longer a number.
_TINY = 1e-8


def to_int8(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights [D, M] as whole numbers from -127 to 127, and the scale of every output channel [M]."""
    scales = (np.maximum(np.abs(weights).max(0), _TINY) / TOP).astype(np.float32)
    return np.clip(np.rint(weights / scales), -TOP, TOP).astype(np.int8), scales


def _constant(graph: ir.Graph, name: str, values: NDArray[np.generic] | np.generic) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(np.asarray(values), name=name))
    value.shape, value.dtype = ir.Shape(np.shape(values)), ir.DataType.from_numpy(np.asarray(values).dtype)
    graph.register_initializer(value)
    return value


def _named(node: ir.Node) -> ir.Value:
    """The one output of a new node, under the node's name."""
    value = node.outputs[0]
    value.name = f"{node.name}.out"
    return value


def _drop_unused(graph: ir.Graph) -> None:
    """Without the weights that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs:
            del graph.initializers[name]
