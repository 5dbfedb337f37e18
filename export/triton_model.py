"""A segfast Engine in NVIDIA Triton's Python backend: the content of picture files → their labels at their own sizes.

The server's Python needs segfast, and the runtime of an `.onnx` file: OpenVINO, or ONNX Runtime for GPUs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as utils  # of the server

from segfast import Engine, SegfastError


class TritonPythonModel:
    """What the server calls, by names of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the Engine beside this file, on the device of this instance, and get it ready."""
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        self.engine = Engine(Path(__file__).with_name("model.onnx"), device=device)
        self.engine.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for every request; a bad picture fails its own request alone.

        Each has `picture` [1, 1]: the client's batch is one picture, the server's many requests.
        """
        pictures = [utils.get_input_tensor_by_name(request, "picture").as_numpy().ravel() for request in requests]
        answers = self.engine.segment_many(self._files(pictures), errors="yield")
        return [
            _failed(f"a request has one picture; this one has {len(found)}")
            if len(found) != 1
            else _response(next(answers))
            for found in pictures
        ]

    def _files(self, pictures: Sequence[Any]) -> Iterator[io.BytesIO]:
        """The pictures of requests that have one, as open files: bare bytes might be taken for a path."""
        yield from (io.BytesIO(found[0]) for found in pictures if len(found) == 1)


def _response(answer: Any) -> Any:
    if isinstance(answer, SegfastError):
        return _failed(str(answer))
    return utils.InferenceResponse([utils.Tensor("labels", np.ascontiguousarray(answer.labels[None]))])


def _failed(reason: str) -> Any:
    return utils.InferenceResponse([], error=utils.TritonError(reason))
