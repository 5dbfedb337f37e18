"""An ONNX file as the protobuf message that it is, read without the onnx package.

Two of its fields matter here, and skipping the rest (up to a gigabyte of weights) is a matter of
lengths, so a few lines of wire format do what would otherwise need a dependency on the machine that
only runs the model.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

# Numbers of the fields in onnx.proto.
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 14, 20, 25
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE = 7
_TRAINING_INITIALIZATION, _TRAINING_ALGORITHM = 1, 2
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14

# Which fields of a message lead to tensors, and to what kind of message.
_LEADS = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_TRAINING: "training", _MODEL_FUNCTIONS: "function"},
    "training": {_TRAINING_INITIALIZATION: "graph", _TRAINING_ALGORITHM: "graph"},
    "graph": {_GRAPH_NODE: "node", _GRAPH_INITIALIZER: "tensor", _GRAPH_SPARSE: "sparse"},
    "function": {_FUNCTION_NODE: "node"},
    "node": {_NODE_ATTRIBUTE: "attribute"},
    "attribute": {
        _ATTRIBUTE_TENSOR: "tensor",
        _ATTRIBUTE_TENSORS: "tensor",
        _ATTRIBUTE_GRAPH: "graph",
        _ATTRIBUTE_GRAPHS: "graph",
        _ATTRIBUTE_SPARSE: "sparse",
        _ATTRIBUTE_SPARSES: "sparse",
    },
    "sparse": {_SPARSE_VALUES: "tensor", _SPARSE_INDICES: "tensor"},
}
_DEEPEST = 32  # nested graphs; ours have none


def metadata(content: mmap.mmap, model: range, key: str) -> str | None:
    """A text in a model's metadata, if it is there.

    Raises:
        ValueError, IndexError: this is no whole message.
    """
    for number, value in _fields(content, model):
        if number == _MODEL_METADATA and isinstance(value, range):
            entry = {n: content[v.start : v.stop] for n, v in _fields(content, value) if isinstance(v, range)}
            if entry.get(_ENTRY_KEY) == key.encode():
                return entry.get(_ENTRY_VALUE, b"").decode()
    return None


def keeps_outside(content: mmap.mmap, message: range, kind: str = "model", depth: int = 0) -> bool:
    """Whether a tensor anywhere in a message refers to another file.

    Raises:
        ValueError, IndexError: this is no whole message, or graphs are nested too deeply.
    """
    if depth > _DEEPEST:
        raise ValueError("graphs nested too deeply")
    if kind == "tensor":
        return any(
            number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0)
            for number, value in _fields(content, message)
        )
    return any(
        keeps_outside(content, value, _LEADS[kind][number], depth + 1)
        for number, value in _fields(content, message)
        if number in _LEADS[kind] and isinstance(value, range)
    )


def _fields(content: mmap.mmap, message: range) -> Iterator[tuple[int, int | range]]:
    """(number, value) of every field of a protobuf message: a number, or where its bytes lie."""
    at, end = message.start, message.stop
    while at < end:
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            # Other readers cut a longer number short, and would see a field that we skip.
            raise ValueError(f"field number {number}")
        if wire == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(content, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > end:
            raise ValueError("truncated")
        yield number, range(at, at + length)
        at += length


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("overlong number")
