"""Matrix products of an OpenVINO network in two parts: whole blocks of rows, and the rows that are left.

OpenVINO's bf16 products take blocks of rows, and one row more than whole blocks costs up to 1.8 times as much: a
ViT's tokens are a power of two and the class token. In two parts, each with all weights, all labels stay the same.
Measured with AMX, 1 and 2 threads (`benchmarks/test_paper.py`): seg-b-32 takes 0.79 of the time, seg-b-mask-16 0.89,
seg-l-16 0.92, seg-b-8 0.95; models less wide than 768, and fp32, gain nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openvino

ROWS = 256
# Products of less gain nothing.
WIDTH = 768
# More threads have not been measured: all of them would wait for the small part.
THREADS = 4

# OpenVINO's binding hangs where two threads read their process's first constant at once.
_reading = threading.Lock()

# How operations that keep tokens apart are made again, by type: (opset, node, its inputs) → node.
_TOKENWISE: dict[str, Callable[[ModuleType, openvino.Node, list[openvino.Output]], openvino.Node]] = {
    "Add": lambda ops, node, inputs: ops.add(*inputs),
    "Subtract": lambda ops, node, inputs: ops.subtract(*inputs),
    "Multiply": lambda ops, node, inputs: ops.multiply(*inputs),
    "Divide": lambda ops, node, inputs: ops.divide(*inputs),
    "Erf": lambda ops, node, inputs: ops.erf(*inputs),
    "Convert": lambda ops, node, inputs: ops.convert(*inputs, node.get_attributes()["destination_type"]),
    "ConvertLike": lambda ops, node, inputs: ops.convert_like(*inputs),
    "MatMul": lambda ops, node, inputs: ops.matmul(*inputs, False, True),
}


def split_rows(model: openvino.Model, rows: int = ROWS, width: int = WIDTH) -> int:
    """Split the wide matrix products of a model of fixed shapes, and what lies between them; how many were split.

    Tokens [B, N, D] from a product on are kept as two parts, of a multiple of `rows` tokens and of the rest, until
    an operation mixes tokens: that takes them joined. OpenVINO neither splits nor joins by copying where B is 1.

    Args:
        model: changed in place.
        rows: of a block.
        width: the least D and the least width of a result that are split.
    """
    return _Split(model, rows, width).run()


class _Split:
    def __init__(self, model: openvino.Model, rows: int, width: int):
        import openvino.opset13 as ops
        from openvino import passes

        self._ops, self._model, self._rows, self._width = ops, model, rows, width
        self._parts: dict[tuple[str, int], list[openvino.Output]] = {}  # by value; names of nodes are unique
        self._joined: dict[tuple[str, int], openvino.Output] = {}
        self._turned: dict[str, openvino.Output] = {}  # weights [M, D], by the name of those [D, M]
        folding = passes.Manager()
        folding.register_pass(passes.ConstantFolding())
        folding.run_passes(model)

    def run(self) -> int:
        nodes = self._model.get_ordered_ops()
        wide = {node.get_name() for node in nodes if self._wide(node, _sources(node))}
        self._transpose([node for node in nodes if node.get_name() in wide])
        for node in nodes:
            inputs = _sources(node)
            if node.get_name() in wide:
                if not node.get_attributes()["transpose_b"]:
                    inputs[1] = self._turned[inputs[1].get_node().get_name()]
                self._remake(node, inputs)
            elif self._apart(node, inputs):
                self._remake(node, inputs)
            else:
                for place in node.inputs():
                    if _key(place.get_source_output()) in self._parts:
                        place.replace_source_output(self._join(place.get_source_output()))
        self._model.validate_nodes_and_infer_types()
        return len(wide)

    def _transpose(self, products: list[openvino.Node]) -> None:
        """The weights of products as OpenVINO would have them in the end: of [D, M] each part would keep a copy."""
        found = {
            node.input_value(1).get_node().get_name(): node
            for node in products
            if not node.get_attributes()["transpose_b"]
        }
        with _reading:
            weights = [node.input_value(1).get_node().data for node in found.values()]
        with ThreadPoolExecutor(THREADS) as pool:  # new memory is what takes the time
            turned = pool.map(_transposed, weights)
        for name, array in zip(found, turned, strict=True):
            self._turned[name] = self._ops.constant(array, shared_memory=True).output(0)

    def _wide(self, node: openvino.Node, inputs: list[openvino.Output]) -> bool:
        """Whether it is a product of tokens that leave a rest, with weights [D, M] or [M, D] wide enough."""
        if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
            return False
        tokens, weights = _shape(inputs[0]), _shape(inputs[1])
        constant = inputs[1].get_node().get_type_name() == "Constant"
        return (
            constant
            and len(weights) == 2
            and min(weights) >= self._width
            and len(tokens) == 3
            and tokens[1] > self._rows
            and tokens[1] % self._rows != 0
        )

    def _apart(self, node: openvino.Node, inputs: list[openvino.Output]) -> bool:
        """Whether it treats every token for itself, and some of what it takes is split already."""
        split = [value for value in inputs if _key(value) in self._parts]
        if not split or node.get_output_size() != 1:
            return False
        whole = _shape(split[0])
        alike = all(_shape(value) in ([], whole) or _shape(value) in ([whole[2]], [1]) for value in inputs)
        if node.get_type_name() == "MVN":  # over the axes of its second input
            axes = inputs[1].get_node()
            return axes.get_type_name() == "Constant" and list(axes.get_data()) in ([-1], [2])
        return node.get_type_name() in _TOKENWISE.keys() - {"MatMul"} and alike and _shape(node.output(0)) == whole

    def _remake(self, node: openvino.Node, inputs: list[openvino.Output]) -> None:
        """The node twice, for each part of what it takes."""
        whole = _shape(node.output(0))
        made = []
        for part in range(2):
            own = [
                self._split(value)[part] if len(_shape(value)) == 3 and _shape(value)[:2] == whole[:2] else value
                for value in inputs
            ]
            again = (
                self._mvn(node, own)
                if node.get_type_name() == "MVN"
                else _TOKENWISE[node.get_type_name()](self._ops, node, own)
            )
            again.set_friendly_name(f"{node.get_friendly_name()}/{'blocks' if part == 0 else 'rest'}")
            made.append(again.output(0))
        self._parts[_key(node.output(0))] = made

    def _mvn(self, node: openvino.Node, inputs: list[openvino.Output]) -> openvino.Node:
        about = node.get_attributes()
        return self._ops.mvn(*inputs, about["normalize_variance"], about["eps"], about["eps_mode"].lower())

    def _split(self, value: openvino.Output) -> list[openvino.Output]:
        """The two parts of tokens [B, N, D]."""
        if _key(value) not in self._parts:
            N = _shape(value)[1]
            lengths = np.array([N - N % self._rows, N % self._rows])
            self._parts[_key(value)] = self._ops.variadic_split(value, np.int64(1), lengths).outputs()
            self._joined[_key(value)] = value
        return self._parts[_key(value)]

    def _join(self, value: openvino.Output) -> openvino.Output:
        """Both parts as one, for an operation that wants all tokens."""
        if _key(value) not in self._joined:
            self._joined[_key(value)] = self._ops.concat(self._parts[_key(value)], 1).output(0)
        return self._joined[_key(value)]


def _transposed(weights: NDArray[Any]) -> NDArray[Any]:
    """The transpose, by strips, which the CPU's caches hold."""
    result = np.empty(weights.shape[::-1], weights.dtype)
    for start in range(0, len(weights), 128):
        result[:, start : start + 128] = weights[start : start + 128].T
    return result


def _sources(node: openvino.Node) -> list[openvino.Output]:
    """The values that a node takes."""
    return [place.get_source_output() for place in node.inputs()]


def _key(value: openvino.Output) -> tuple[str, int]:
    return value.get_node().get_name(), value.get_index()


def _shape(value: openvino.Output) -> list[int]:
    """Of a value; [−1] where a side is not fixed."""
    return list(value.get_shape()) if value.get_partial_shape().is_static else [-1]
