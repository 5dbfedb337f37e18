"""Whether an exported file computes what the fp32 model in PyTorch does, on a real photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segfast.artifacts.golden import PHOTOS, photo
from segfast.engine import Engine
from segfast.errors import MissingRuntime
from segfast.evaluation.agreement import equal_labels, label_agreement
from segfast.inference.normalisation import channels, normalise
from segfast.model import Segmenter
from segfast.protocol import Size


@dataclass(frozen=True)
class Expected:
    """What the fp32 model says of one photo of a window's size.

    Attributes:
        photo: [H, W, 3].
        logits: at patch resolution, [K, h, w].
        pixels: logits at full resolution, [K, H, W].
    """

    photo: NDArray[np.uint8]
    logits: NDArray[np.float32]
    pixels: NDArray[np.float32]


@dataclass(frozen=True)
class Agreement:
    """How a runtime's answer compares with the fp32 model's.

    Attributes:
        relative_error: of the logits, as a ratio of norms; the regret of the labels where only they are to be had.
        labels: share of pixels with the same label, 0 … 1.
    """

    runtime: str
    relative_error: float
    labels: float

    def __str__(self) -> str:
        return f"{self.runtime}: relative error {self.relative_error:.1e}, {self.labels:.2%} of the labels equal"


def images(size: Size) -> dict[str, NDArray[np.uint8]]:
    """The photos, black, white and noise, [H, W, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    plain = {"black": np.zeros_like(noise), "white": np.full_like(noise, 255), "noise": noise}
    return {name: photo(size, name) for name in PHOTOS} | plain


@torch.inference_mode()
def expect(model: Segmenter) -> Expected:
    """The answer of the fp32 model for a photo of its window's size."""
    pixels = photo(model.config.protocol.window)
    normalised = normalise(torch.tensor(pixels)[None], *channels(model.config.protocol))
    return Expected(pixels, model.patch_logits(normalised)[0].numpy(), model(normalised)[0].numpy())


def agreement(path: Path, expected: Expected, runtime: str | None) -> Agreement:
    """Run a file on the photo, on the CPU, and compare.

    Args:
        runtime: of the Engine; None is its default.

    Raises:
        MissingRuntime: it is not installed.
    """
    engine = Engine(path, runtime=runtime, device="cpu")
    labels = engine.segment(expected.photo).labels
    logits = None if engine.output == "labels" else engine.run(expected.photo[None])[0]
    return compared(engine.runtime, logits, labels, expected)


def compared(
    runtime: str, logits: NDArray[np.floating] | None, labels: NDArray[np.integer], expected: Expected
) -> Agreement:
    """How an answer compares: logits [K, h, w] where the file gives them, and labels [H, W]."""
    if logits is None:
        equal, regret = label_agreement(labels, expected.pixels)
        return Agreement(runtime, regret, equal)
    error = _norm(logits - expected.logits) / _norm(expected.logits)
    return Agreement(runtime, error, equal_labels(labels, expected.pixels))


def default_agreement(path: Path, expected: Expected) -> tuple[Agreement, ...]:
    """Agreement in the Engine's default runtime, where that is another one and is installed."""
    try:
        found = agreement(path, expected, None)
    except MissingRuntime:
        return ()
    return (found,) if not found.runtime.startswith("ONNX Runtime") else ()


def _norm(values: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))
