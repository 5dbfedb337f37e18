"""Whether a file that merges tokens computes what the fp32 model does, its choice of cells and the rest apart.

In half precision the cells near the threshold may come in another order, and a cell that is merged here and not there
changes the answer far more than rounding does. So the answer is held against the model that merges the file's own
cells, and these against the cells that fp32 finds the most alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from segfast.artifacts.golden import photo
from segfast.errors import ExportFailed
from segfast.export.check import Agreement, Expected, compared, expect
from segfast.kernels import upsample_argmax
from segfast.model import Segmenter
from segfast.network.merging import spread
from segfast.protocol import Size

if TYPE_CHECKING:
    from torch import Tensor

# By how much the cells that a file merges may be less alike than those of fp32: a share of the mean of all cells.
# Measured: fp16 1e-5 (seg-b-mask-16, random weights, half of the cells).
EXCESS = 0.01


@dataclass(frozen=True)
class Choice:
    """How the cells that a file merges compare with those of the fp32 model.

    Attributes:
        order: of the cells, as the file has it, int64 [1, C].
        merged: M.
        equal: how many of them fp32 merges, too.
        excess: by how much the file's are less alike on the mean, as a share of the mean of all cells.
    """

    order: NDArray[np.int64]
    merged: int
    equal: int
    excess: float

    def __str__(self) -> str:
        return f"{self.equal} of {self.merged} merged cells are those of fp32"


def agreement(path: Path, model: Segmenter, output: str) -> Agreement:
    """Run a file in ONNX Runtime on a photo of its window's size, and compare with the fp32 model that merges the same cells.

    Args:
        model: as `export.graph.at_size` gives it; it merges the file's cells of this photo from now on.
        output: of the file.

    Raises:
        ExportFailed: the cells are not those that are the most alike.
    """
    answer, order = run(path, photo(model.config.protocol.window))
    chosen, expected = follow(model, order)
    if not chosen.excess <= EXCESS:
        raise ExportFailed(
            f"the exported network merges cells that are not the most alike ({chosen}, less alike by {chosen.excess:.1%} of "
            "the mean); nothing was written. Export with --fp32, or without --merge"
        )
    runtime = f"ONNX Runtime on cpu, against fp32 with the same cells merged ({chosen})"
    if output == "labels":
        return compared(runtime, None, answer[0], expected)
    H, W = model.config.protocol.window
    return compared(runtime, answer[0], upsample_argmax(answer, model.config.image_size)[0, :H, :W], expected)


def run(path: Path, pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A file's answer for pixels [H, W, 3] in ONNX Runtime, and the order of its cells [1, C], of one run."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    (order,) = (node.output[1] for node in model.graph.node if node.op_type == "TopK")
    model.graph.output.append(onnx.helper.make_tensor_value_info(order, onnx.TensorProto.INT64, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    answer, found = session.run([session.get_outputs()[0].name, order], {session.get_inputs()[0].name: pixels[None]})
    return answer, found


def follow(model: Segmenter, order: NDArray[np.int64]) -> tuple[Choice, Expected]:
    """How a choice of cells of the photo compares with the fp32 model's own, and its answer with these cells merged."""
    config, found = model.config, list[Choice]()
    assert config.merge is not None
    count = config.merge.count(config.grid, config.prefix_tokens)

    def rank(patches: Tensor, grid: Size) -> Tensor:
        apart = spread(patches, grid)
        found.append(_judged(apart[0].numpy(), order, count))
        return torch.from_numpy(order)

    model.encoder.rank_cells = rank
    expected = expect(model)
    return found[0], expected


def _judged(apart: NDArray[np.float32], order: NDArray[np.int64], count: int) -> Choice:
    """A choice of the first `count` cells of an order, by how far apart the tokens of every cell are [C]."""
    theirs, best = order[0, :count], np.argsort(apart, kind="stable")[:count]
    excess = float((apart[theirs].mean(dtype=np.float64) - apart[best].mean(dtype=np.float64)) / apart.mean())
    return Choice(order, count, len(np.intersect1d(theirs, best)), excess)
