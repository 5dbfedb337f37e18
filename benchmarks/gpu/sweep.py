"""Tiles that may be faster than those of `kernels/attention_configs.py`, each beside them, cuDNN and flash.

A row for each, so that one that fails costs nothing but itself. Nothing is chosen here: the table is changed by
hand, with the row that shows why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.attention import HEAD, Attend, compare, peers
from benchmarks.gpu.budget import Missing, Row
from benchmarks.gpu.clock import Clock
from segfast.kernels import attention_backend, attention_configs

# 512² in patches of 8 and of 16, at the batches of an Engine.
SHAPES = ((4097, 8, 12), (1025, 16, 12))
TINY = ((129, 1, 1),)
# The architecture whose tiles a rehearsal goes through, and the launch config with which it does.
REHEARSED = 90
PLAIN = attention_configs.LaunchConfig(attention_configs.Tile(64, 128, 4, 2), 1, False)


def plan(clock: Clock) -> Iterator[Row]:
    """Every candidate at every shape."""
    if clock.rehearsal:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: kernels in NumPy
    arch = _architecture(clock)
    tiles = attention_configs.CANDIDATES.get(arch, ())
    if clock.rehearsal:  # to which sizes are all one: one of each kind
        tiles = tuple({tile._replace(rows=0, columns=0, warps=0, stages=0): tile for tile in tiles}.values())
    for N, B, H in TINY if clock.rehearsal else SHAPES:
        for tile in tiles:
            about = {"section": "sweep", "candidate": str(tile), "N": N, "B": B, "H": H}
            yield about, partial(_measure, clock, tile, N, B, H)
    if not tiles:
        yield {"section": "sweep", "candidate": "none"}, partial(_none, arch)


def _measure(clock: Clock, tile: attention_configs.Tile, N: int, B: int, H: int) -> dict[str, Any]:
    attends = {"candidate": launched(tile), "ours": launched(None) if clock.rehearsal else attention_backend("triton")}
    row, functions = compare(
        clock, attends | {name: one for name, one in peers(N).items() if name != "math"}, N, B, H, False
    )
    if "candidate" not in functions:
        row["error"] = f"the candidate was not timed: {row['not_timed']['candidate']}"
    elif "ours" in functions:
        row["ratio"] = round(row["microseconds"]["ours"] / row["microseconds"]["candidate"], 3)
    return row


def launched(tile: attention_configs.Tile | None) -> Attend:
    """Our forward in this tile, unsplit; in the interpreter's plain one without."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from segfast.kernels.attention_cuda import launch_forward

        config = attention_configs.forward_config(q, k, v) if q.is_cuda else PLAIN
        return launch_forward(q, k, v, HEAD**-0.5, config if tile is None else config._replace(tile=tile, splits=1))[0]

    return attend


def _architecture(clock: Clock) -> int:
    return REHEARSED if clock.rehearsal else attention_configs.architecture(torch.cuda.get_device_capability())


def _none(arch: int) -> dict[str, Any]:
    raise Missing(f"there are no candidates for compute capability {arch / 10}")
