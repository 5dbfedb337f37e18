"""GPUs that TensorRT-RTX builds for without having one, by compute capability: `sm89,sm120`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from segfast.errors import BadOption

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
