"""Which attention is the fastest on a GPU: the table that decides it, by architecture and length.

A row is a measurement, never a guess: TFLOP/s of the forward at one length, of every backend, on a named
GPU with named versions. There is none yet, as nothing of this was timed on a GPU: until then the answer
is "sdpa", PyTorch's own choice, and other backends run where they are asked for by name.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Forward speed in TFLOP/s, half precision, of one head size and length.

    Attributes:
        arch: compute capability, 90 for 9.0.
        head: d.
        tokens: N.
        cudnn, flash, triton: speed of each backend.
        measured: GPU, B × heads, PyTorch and Triton versions.
    """

    arch: int
    head: int
    tokens: int
    cudnn: float
    flash: float
    triton: float
    measured: str


ROWS: tuple[Row, ...] = ()


def fastest(arch: int, head: int, tokens: int, rows: tuple[Row, ...] = ROWS) -> str:
    """The backend that was the fastest at the nearest measured length; "sdpa" where nothing was measured."""
    near = [row for row in rows if (row.arch, row.head) == (arch, head)]
    if not near:
        return "sdpa"
    row = min(near, key=lambda row: max(row.tokens, tokens) / min(row.tokens, tokens))
    return max(("cudnn", "flash", "triton"), key=lambda name: float(getattr(row, name)))
