"""Which attention is the fastest on a GPU: the table that decides it, by architecture and length.

A row is a measurement, never a guess: TFLOP/s at one length, of every backend, on a named GPU with named versions,
of the forward and, where training is to choose by it, of the backward. There is none yet, as nothing of this was timed
on a GPU: until then the answer is "sdpa", PyTorch's own choice, and other backends run where they are asked for by name.
"""

from __future__ import annotations

from typing import NamedTuple

BACKENDS = "cudnn", "flash", "triton"


class Row(NamedTuple):
    """Speed in TFLOP/s, half precision, of one head size and length.

    Attributes:
        arch: compute capability, 90 for 9.0.
        head: d.
        tokens: N.
        cudnn, flash, triton: speed of each backend's forward.
        measured: GPU, B × heads, PyTorch and Triton versions.
        backward: speed of each backend's backward, in the same order; None where it was not measured.
    """

    arch: int
    head: int
    tokens: int
    cudnn: float
    flash: float
    triton: float
    measured: str
    backward: tuple[float, float, float] | None = None

    def seconds(self, training: bool) -> dict[str, float]:
        """What each backend takes, in arbitrary units: a forward has 4 products' worth of operations, a backward 10."""
        forward = {name: 4 / float(getattr(self, name)) for name in BACKENDS}
        if not training or self.backward is None:
            return forward
        return {name: forward[name] + 10 / speed for name, speed in zip(BACKENDS, self.backward, strict=True)}


ROWS: tuple[Row, ...] = ()


def fastest(arch: int, head: int, tokens: int, rows: tuple[Row, ...] = ROWS, training: bool = False) -> str:
    """The backend that was the fastest at the nearest measured length; "sdpa" where nothing was measured.

    Args:
        training: forward and backward together.
    """
    near = [row for row in rows if (row.arch, row.head) == (arch, head) and (row.backward is not None or not training)]
    if not near:
        return "sdpa"
    seconds = min(near, key=lambda row: max(row.tokens, tokens) / min(row.tokens, tokens)).seconds(training)
    return min(seconds, key=lambda name: seconds[name])
