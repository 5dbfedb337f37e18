"""An exported `.onnx` file → a model repository for NVIDIA's Triton Inference Server; docs/triton.md has it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from segfast import files
from segfast.artifacts.onnx import Artifact, read_artifact

# Windows of a batch at most, and microseconds that one waits for others.
BATCH, DELAY = 8, 2000


@dataclass(frozen=True)
class Repository:
    """What was written.

    Attributes:
        pictures: name of the model that takes pictures of any size.
        windows: name of the model that takes windows as the network does.
    """

    path: Path
    pictures: str
    windows: str

    def __str__(self) -> str:
        return f"wrote {self.path}: {self.pictures} for pictures of any size, {self.windows} for windows"


def export_triton(onnx: str | os.PathLike[str], repository: str | os.PathLike[str]) -> Repository:
    """Write two models into a repository; others that it holds stay as they are.

    One runs the Engine in Triton's Python backend, on pictures of any size; the other is the network itself, on windows
    of one size, in the backend of ONNX Runtime.

    Raises:
        BadModel: the file is no `.onnx` file of ours.
        CannotWrite: the destination is full or read-only.
    """
    artifact, root = read_artifact(Path(onnx)), Path(repository)
    name = Path(onnx).stem
    written = Repository(root, name, f"{name}-windows")
    for model, config in ((written.windows, windows_config(artifact)), (written.pictures, pictures_config(artifact))):
        folder = files.make_folder(root / model / "1").parent
        with files.publish(folder / "1" / "model.onnx") as temporary:
            shutil.copyfile(onnx, temporary)
        files.write_text("".join(f"{name}\n" for name in artifact.config.classes), folder / "labels.txt")
        files.write_text(f"name: {json.dumps(model)}\n{config}", folder / "config.pbtxt")
    backend = Path(__file__).with_name("triton_model.py").read_text(encoding="utf-8")
    files.write_text(backend, root / written.pictures / "1" / "model.py")
    return written


def windows_config(artifact: Artifact) -> str:
    """Of the network: windows [B, H, W, 3], uint8 → its own output."""
    (H, W), config = artifact.size, artifact.config
    if artifact.output == "logits":
        kind, dims = (
            "TYPE_FP16" if artifact.precision == "fp16" else "TYPE_FP32",
            [config.num_classes, -(-H // config.patch), -(-W // config.patch)],
        )
    else:
        kind, dims = "TYPE_UINT8" if config.num_classes <= 256 else "TYPE_INT32", [H, W]
    return f"""\
backend: "onnxruntime"
max_batch_size: {BATCH}
input [ {{ name: "images" data_type: TYPE_UINT8 dims: [ {H}, {W}, 3 ] }} ]
output [ {{ name: "{artifact.output}" data_type: {kind} dims: {dims} label_filename: "labels.txt" }} ]
dynamic_batching {{ preferred_batch_size: [ {BATCH} ] max_queue_delay_microseconds: {DELAY} }}
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
model_warmup [
  {{ name: "one" batch_size: 1 inputs {{ key: "images" value {{ data_type: TYPE_UINT8 dims: [ {H}, {W}, 3 ] zero_data: true }} }} }},
  {{ name: "full" batch_size: {BATCH} inputs {{ key: "images" value {{ data_type: TYPE_UINT8 dims: [ {H}, {W}, 3 ] zero_data: true }} }} }}
]
"""


def pictures_config(artifact: Artifact) -> str:
    """Of the Engine: the content of a picture's file → labels [H, W] at its own size."""
    kind = "TYPE_UINT8" if artifact.config.num_classes <= 256 else "TYPE_UINT16"
    return f"""\
backend: "python"
max_batch_size: {BATCH}
input [ {{ name: "picture" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "labels" data_type: {kind} dims: [ -1, -1 ] label_filename: "labels.txt" }} ]
dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
"""
