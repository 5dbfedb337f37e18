"""What an engine is built for, and whether it can be here.

TensorRT builds for the GPU that is there, TensorRT-RTX without having one for compute capabilities: `sm89,sm120`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from segfast.dependencies import installation
from segfast.dependencies import tensorrt as trt
from segfast.errors import BadOption, MissingRuntime
from segfast.machine import devices, nvidia

if TYPE_CHECKING:
    import tensorrt_rtx

# Cards of each, for messages; SM90, of data centres, is TensorRT's alone.
CARDS = {
    "sm75": "RTX 20",
    "sm80": "A100",
    "sm86": "RTX 30",
    "sm89": "RTX 40",
    "sm120": "RTX 50",
    "sm121": "DGX Spark",
}


def check_engine(
    compiler: str, targets: str | Sequence[str] | None, precision: str, device: str = "cuda"
) -> tuple[str, ...]:
    """See, before any work, that an engine can be built here.

    Returns:
        the compute capabilities that it is built for.

    Raises:
        BadOption, MissingRuntime: as `build_engine`.
    """
    trt.check_compiler(compiler)
    devices.check_device(device)
    if compiler == "tensorrt":
        if targets is not None:
            raise BadOption("TensorRT builds for the GPU that is there, not for targets; --engine rtx takes them")
        if not devices.nvidia_gpus():
            raise MissingRuntime(
                "TensorRT needs the NVIDIA GPU it builds for; --engine rtx --target sm89 builds without one"
            )
        chosen: tuple[str, ...] = ()
    else:
        if precision == "fp32":
            raise BadOption(f"TensorRT-RTX has no {precision} attention; export with --fp16")
        chosen = _rtx_targets(targets, device)
    trt.load(compiler)
    chosen = chosen or (nvidia.capability(device),)
    if compiler == "tensorrt" and not has_cuda():
        raise MissingRuntime(
            f"TensorRT's plans are tried in a PyTorch with CUDA before they are written; {installation.install('gpu')}"
        )
    return chosen


def has_cuda() -> bool:
    """Whether a PyTorch is here that can run a plan, whose tensors are PyTorch's."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _rtx_targets(targets: str | Sequence[str] | None, device: str) -> tuple[str, ...]:
    if targets is not None:
        return check_targets(targets)
    if not devices.nvidia_gpus():
        raise BadOption("name the GPUs to build for: --target sm89,sm120 (RTX 40 and RTX 50)")
    return check_targets([nvidia.capability(device)])


def check_targets(targets: str | Sequence[str]) -> tuple[str, ...]:
    """Compute capabilities, each once, in rising order.

    Args:
        targets: such as `"sm89,sm120"`, or a sequence of them.

    Raises:
        BadOption: none is named, or an unknown one.
    """
    known = ", ".join(f"{name} ({card})" for name, card in CARDS.items())
    names = targets.split(",") if isinstance(targets, str) else list(targets)
    names = [name.strip().lower() if isinstance(name, str) else name for name in names]
    for name in names:
        if name not in CARDS:
            raise BadOption(f"TensorRT-RTX has no target {name!r}; there are {known}")
    if not names:
        raise BadOption(f"TensorRT-RTX builds for GPUs that it is told; name targets among {known}")
    return tuple(sorted(set(names), key=list(CARDS).index))


def configure(config: object, targets: Sequence[str]) -> None:
    """What a builder's configuration has in TensorRT-RTX alone.

    Raises:
        BadOption: this version does not know a target.
    """
    import tensorrt_rtx

    known = cast("tensorrt_rtx.IBuilderConfig", config)
    # The runtime gives the memory, without which no CUDA graph can be captured.
    known.set_flag(tensorrt_rtx.BuilderFlag.REQUIRE_USER_ALLOCATION)
    known.num_compute_capabilities = len(targets)
    for index, name in enumerate(targets):
        value = tensorrt_rtx.ComputeCapability.__members__.get(name.upper())
        if value is None or not known.set_compute_capability(value, index):
            raise BadOption(
                f"TensorRT-RTX {tensorrt_rtx.__version__} does not build for {name}; leave it out, or upgrade"
            )
