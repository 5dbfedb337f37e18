"""Our `.onnx` files: the model that their metadata describe, and that all weights are inside."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segfast import config as configs
from segfast.artifacts import protobuf
from segfast.config import Config
from segfast.errors import BadModel
from segfast.protocol import Size

# Of weights and activations; `int8` is that of most Linears, and fp32 of the rest.
PRECISIONS = ("fp16", "fp32", "int8")


@dataclass(frozen=True)
class Artifact:
    """What the metadata of one of our `.onnx` files says.

    Attributes:
        size: (H, W) of its input, one window.
        precision: `fp16`, `fp32`, or `int8` over fp32.
        output: `logits` [B, K, h, w], or `labels` [B, H, W].
        identity: what tells it from others: its metadata, which have the digest of the weights, and its size.
    """

    path: Path
    config: Config
    size: Size
    precision: str
    output: str
    identity: tuple[str, int] = ("", 0)

    def check_shapes(self, inputs: Sequence[object], outputs: Sequence[object]) -> None:
        """See that the network is the one the metadata speaks of.

        Args:
            inputs, outputs: shapes of the one input and the one output; what is no number, is not fixed.

        Raises:
            BadModel: it is another.
        """
        (H, W), P, K = self.size, self.config.patch, self.config.num_classes
        output = [K, -(-H // P), -(-W // P)] if self.output == "logits" else [H, W]
        for shape, wanted in ((inputs, [H, W, 3]), (outputs, output)):
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
            model = range(len(content))
            text = protobuf.metadata(content, model, configs.METADATA_KEY)
            external = protobuf.keeps_outside(content, model)
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
    if size != list(config.protocol.window) or precision not in PRECISIONS or output not in ("logits", "labels"):
        raise BadModel(f"the segfast metadata in {path} is damaged; export it again")
    return Artifact(path, config, config.protocol.window, precision, output, (text, len(model)))
