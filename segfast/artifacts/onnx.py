"""Our `.onnx` files, read without the onnx package: metadata, and whether all weights are inside.

An ONNX file is a protobuf message. Two of its fields matter here, and skipping the rest (up to a
gigabyte of weights) is a matter of lengths, so a few lines of wire format do what would otherwise
need a dependency on the machine that only runs the model.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segfast import config as configs
from segfast.config import Config
from segfast.errors import BadModel
from segfast.protocol import Size

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


@dataclass(frozen=True)
class Artifact:
    """What the metadata of one of our `.onnx` files says.

    Attributes:
        size: (H, W) of its input, one window.
        precision: `fp16` or `fp32`.
        output: `logits` [B, K, h, w], or `labels` [B, H, W].
        identity: what tells it from others: its metadata, which have the digest of the weights, and its size.
    """

    path: Path
    config: Config
    size: Size
    precision: str
    output: str
    identity: tuple[str, int] = ("", 0)

    def check_shapes(self, given: Sequence[object], returned: Sequence[object]) -> None:
        """See that the network is the one the metadata speaks of.

        Args:
            given, returned: shapes of its input and output; what is no number, is not fixed.

        Raises:
            BadModel: it is another.
        """
        (H, W), P, K = self.size, self.config.patch, self.config.num_classes
        output = [K, -(-H // P), -(-W // P)] if self.output == "logits" else [H, W]
        for shape, wanted in ((given, [H, W, 3]), (returned, output)):
            fixed = shape[1:]
            if len(fixed) != len(wanted) or any(
                isinstance(side, int) and side != want for side, want in zip(fixed, wanted, strict=True)
            ):
                raise BadModel(
                    f"{self.path} has a tensor of shape {list(shape)} where its metadata says {['B', *wanted]}; "
                    "export it again"
                )


def read_artifact(path: Path) -> Artifact:
    """The metadata of one of our `.onnx` files.

    Raises:
        BadModel: the file is missing, damaged, not ours, of a newer format, or keeps weights outside.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            size_in_bytes = len(content)
            whole = range(size_in_bytes)
            text, external = _metadata(content, whole), _keeps_outside(content, whole, "model")
    except FileNotFoundError:
        raise BadModel(f"there is no file {path}; check the path, or export it: python -m segfast.export") from None
    except (OSError, ValueError, IndexError) as error:
        raise BadModel(f"{path} is no whole ONNX file ({error}); export or copy it again") from None
    if external:
        raise BadModel(f"{path} keeps weights in other files, which are never opened; export it with segfast.export")
    if text is None:
        raise BadModel(
            f"{path} was not exported by segfast: it lacks the metadata (classes, preprocessing, window) that the "
            "Engine needs; export the checkpoint with python -m segfast.export --weights FILE"
        )
    config, more = configs.from_json(text, str(path))
    size, precision, output = more.get("size"), more.get("precision"), more.get("output")
    if size != list(config.protocol.window) or precision not in ("fp16", "fp32") or output not in ("logits", "labels"):
        raise BadModel(f"the segfast metadata in {path} is damaged; export it again")
    return Artifact(path, config, config.protocol.window, precision, output, (text, size_in_bytes))


def _metadata(content: mmap.mmap, model: range) -> str | None:
    for number, value in _fields(content, model):
        if number == _MODEL_METADATA and isinstance(value, range):
            entry = {n: content[v.start : v.stop] for n, v in _fields(content, value) if isinstance(v, range)}
            if entry.get(_ENTRY_KEY) == configs.METADATA_KEY.encode():
                return entry.get(_ENTRY_VALUE, b"").decode()
    return None


def _keeps_outside(content: mmap.mmap, message: range, kind: str, depth: int = 0) -> bool:
    """Whether a tensor anywhere in a message refers to another file."""
    if depth > _DEEPEST:
        raise ValueError("graphs nested too deeply")
    if kind == "tensor":
        return any(
            number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0)
            for number, value in _fields(content, message)
        )
    return any(
        _keeps_outside(content, value, _LEADS[kind][number], depth + 1)
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
