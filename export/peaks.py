"""How large activations become: whether half precision, which ends at 65504, can hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from segfast.inference.normalisation import channels, normalise
from segfast.model import Segmenter

FP16_MAX = 65504.0
# A file is published only with this much room left for the images it has not seen.
HEADROOM = 8


@dataclass(frozen=True)
class Peak:
    """The largest magnitude of any activation, the operation that gave it and the image that did."""

    value: float
    operation: str
    image: str

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.operation}, {self.image}); fp16 ends at {FP16_MAX:.0f}"


class _Recorder(TorchDispatchMode):
    """Notes the largest magnitude that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.operation = 0.0, ""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
            value = float(torch.nan_to_num(torch.stack(torch.aminmax(result)), nan=torch.inf).abs().max())
            if value > self.value:
                self.value, self.operation = value, str(func.overloadpacket.__name__)
        return result


@torch.inference_mode()
def peak_activation(model: Segmenter, images: Mapping[str, NDArray[np.uint8]]) -> Peak:
    """The largest activation of a model over images [H, W, 3], attention scores included.

    Args:
        model: in fp32, with the plain attention (`graph.at_size`).
    """
    peaks = []
    for name, image in images.items():
        normalised = normalise(torch.tensor(image)[None], *channels(model.config.protocol))
        with _Recorder() as recorder:
            model.patch_logits(normalised)
        peaks.append(Peak(recorder.value, recorder.operation, name))
    return max(peaks, key=lambda peak: peak.value)
