"""Which runtime a model gets here, decided from what is known of the libraries: nothing is imported, nothing asked.

An Engine opens what is decided, and decides again where a library turns out to be broken (`runtimes.select`). The
doctor, who tried the libraries before, decides with what it found, and so knows what an Engine will do.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import NamedTuple

from segfast.errors import BadOption

RUNTIMES = ("openvino", "onnxruntime", "pytorch")


class Choice(NamedTuple):
    """What runs a model.

    Attributes:
        runtime: one of RUNTIMES.
        trouble: what is wrong with the one that would be better; empty where this is the best.
    """

    runtime: str
    trouble: str = ""

    @property
    def notes(self) -> list[str]:
        """The fall-back, for people."""
        return [f"{self.trouble}: ONNX Runtime instead, slower on CPUs"] if self.trouble else []


def for_onnx(runtime: str | None, device: str, troubles: Mapping[str, str]) -> Choice:
    """What runs `.onnx` files: on a CPU OpenVINO, and ONNX Runtime where OpenVINO does not work.

    Args:
        runtime: one of RUNTIMES that was asked for.
        device: `cpu`, `cuda` or `cuda:N`.
        troubles: what is wrong with libraries, in words, by module.

    Raises:
        BadOption: the runtime asked for runs no such files, or not there.
    """
    if runtime == "pytorch":
        raise BadOption("an .onnx file does not run in PyTorch; give the checkpoint it was exported from")
    if runtime == "openvino" and device != "cpu":
        raise BadOption(f"OpenVINO does not run on {device}; use device='cpu', or runtime='onnxruntime'")
    if runtime is not None:
        return Choice(runtime)
    if device == "cpu" and "openvino" not in troubles:
        return Choice("openvino")
    return Choice("onnxruntime", troubles["openvino"] if device == "cpu" else "")


def checkpoint_precision(device: str) -> str:
    """The precision of checkpoints by default, which runs well everywhere: not every CPU has half precision."""
    return "fp32" if device == "cpu" else "fp16"


def openvino_precision(precision: str, capable: Container[str]) -> str:
    """The arithmetic of an `.onnx` file in OpenVINO: fp16 files run in the half precision that the CPU has.

    What is not int8 in an int8 file was never tried in fp16, which may overflow; bf16 does not.

    Args:
        precision: of the file, `fp32`, `fp16`, or `int8`: of what is not int8 in it.
        capable: what OpenVINO says the CPU can do.
    """
    halves = {"fp16": ("BF16", "FP16"), "int8": ("BF16",)}.get(precision, ())
    return next((half.lower() for half in halves if half in capable), "fp32")
