"""A file's answer for a real photo, kept small, so that whoever runs the file later can compare."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segfast.errors import BadModel
from segfast.protocol import Size

PHOTOS = ("coffee.jpg", "cat.jpg", "rocket.jpg")
# Places that are kept: enough for a ratio of norms, few enough for a sidecar (K · 128 bytes before compression).
_PLACES = {"logits": 64, "labels": 4096}
# Largest relative error of the logits against the same file in ONNX Runtime, the ratio of the norms.
GATE = 5e-3
# Labels must be equal where the winner leads by this many times the error that the gate allows, and
# in a labels file, which shows no lead, at this share of the pixels.
CLEAR = 8
EQUAL = 0.95


@dataclass(frozen=True)
class Comparison:
    """How an answer compares with the expected one, at the places that were kept.

    Attributes:
        relative_error: of the logits, as a ratio of norms; None of labels.
        labels: share of equal labels, 0 … 1.
        wrong: labels that differ though the expected one leads clearly.
    """

    relative_error: float | None
    labels: float
    wrong: int

    @property
    def passed(self) -> bool:
        """Whether the answer is within the gate."""
        if self.relative_error is None:
            return self.alike
        return self.relative_error <= GATE and self.wrong == 0

    @property
    def alike(self) -> bool:
        """Whether enough labels are equal: all that is asked of a file that merges tokens.

        Near the threshold rounding decides which cells it merges, and that is more than the gate allows.
        """
        return self.labels >= EQUAL

    def __str__(self) -> str:
        labels = f"{self.labels:.2%} of the labels equal"
        return labels if self.relative_error is None else f"relative error {self.relative_error:.1e}, {labels}"


@dataclass(frozen=True)
class Golden:
    """The expected answer for the first photo, at evenly spaced places.

    Attributes:
        values: logits float16 [K, n], or labels uint8 or int32 [n].
    """

    output: str
    values: NDArray[Any]

    @staticmethod
    def of(output: str, answer: NDArray[Any]) -> Golden:
        """The golden answer, of the whole one.

        Args:
            output: `logits` [1, K, h, w] or `labels` [1, H, W].
        """
        flat = _flat(output, answer)
        values = flat[..., _places(flat.shape[-1], _PLACES[output])]
        return Golden(output, values.astype(np.float16) if output == "logits" else values)

    def compare(self, answer: NDArray[Any]) -> Comparison:
        """Compare an answer for the same photo.

        Raises:
            BadModel: it is of another shape.
        """
        flat = _flat(self.output, answer)
        found = flat[..., _places(flat.shape[-1], self.values.shape[-1])]
        if found.shape != self.values.shape:
            raise BadModel(
                f"an engine answers {list(found.shape)} where {list(self.values.shape)} is expected; build it again"
            )
        if self.output == "labels":
            return Comparison(None, float((found == self.values).mean()), 0)
        expected, found = self.values.astype(np.float64), found.astype(np.float64)  # [K, n]
        error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        equal = found.argmax(0) == expected.argmax(0)
        ranked = np.sort(expected, 0)
        lead = ranked[-1] - ranked[-2] if len(ranked) > 1 else np.zeros(expected.shape[1])
        clear = lead > CLEAR * GATE * np.sqrt((expected**2).mean())
        return Comparison(error, float(equal.mean()), int((~equal & clear).sum()))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(self.values).tobytes(), 9)).decode()
        return {"photo": PHOTOS[0], "dtype": str(self.values.dtype), "shape": list(self.values.shape), "values": packed}

    @staticmethod
    def from_json(output: str, values: dict[str, Any]) -> Golden:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError, zlib.error: it is malformed.
        """
        wanted = ("float16",) if output == "logits" else ("uint8", "int32")
        shape, dtype = tuple(map(int, values["shape"])), values["dtype"]
        if values["photo"] != PHOTOS[0] or dtype not in wanted or len(shape) != (2 if output == "logits" else 1):
            raise ValueError("the golden answer is of another output")
        count = int(np.prod(shape))
        if not 0 < count <= 65536 * max(_PLACES.values()):
            raise ValueError("the golden answer has an impossible size")
        size = count * np.dtype(dtype).itemsize
        unpack = zlib.decompressobj()
        content = unpack.decompress(base64.b64decode(values["values"], validate=True), size + 1)
        return Golden(output, np.frombuffer(content, dtype).reshape(shape))


def photo(size: Size, name: str = PHOTOS[0]) -> NDArray[np.uint8]:
    """An example photo stretched to `size`, [H, W, 3]."""
    with resources.files("segfast.examples").joinpath(name).open("rb") as file, Image.open(file) as image:
        return np.array(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _flat(output: str, answer: NDArray[Any]) -> NDArray[Any]:
    """Logits [K, h·w] or labels [H·W] of the first window."""
    return answer[0].reshape(len(answer[0]), -1) if output == "logits" else answer[0].reshape(-1)


def _places(length: int, count: int) -> NDArray[np.intp]:
    """At most `count` indices, evenly spaced."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(np.intp)
