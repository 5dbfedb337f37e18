"""The sizes of the attention kernels, per GPU architecture; nothing is tuned while serving.

A tile decides speed only, never the result's correctness. Every row is checked ahead of time: no spilled registers, and
its shared memory fits. None of them has been tuned: no row was ever timed on its GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """How much one program takes.

    Attributes:
        rows: queries of one program (keys in the dk, dv kernel): the rows of its result.
        columns: keys of one step (queries in the dk, dv kernel).
        warps: of 32 threads; a program's registers are shared out among them.
        stages: steps whose loads are in flight.
        tuned: it was the fastest of a search on that GPU.
        carried: forward: the scores of the next step are computed before the softmax of this one.
        extra_key: forward: where one key is left over from whole steps, the sums start from it, and no step is masked.
        extra_query: forward: where one query is left over from whole tiles, it has a launch of its own.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    tuned: bool = False
    carried: bool = False
    extra_key: bool = False
    extra_query: bool = False

    def __str__(self) -> str:
        """`128×64, 4 warps, 3 stages, carried`."""
        options = [name.replace("_", " ") for name in ("carried", "extra_key", "extra_query") if getattr(self, name)]
        return ", ".join([f"{self.rows}×{self.columns}", f"{self.warps} warps", f"{self.stages} stages", *options])


class Tiles(NamedTuple):
    """The tiles of one architecture for one padded head size.

    Attributes:
        forward: where there are enough queries to fill the GPU.
        small: forward where there are not, possibly split over the keys.
        keys: backward, dk and dv.
        queries: backward, dq.
    """

    forward: Tile
    small: Tile
    keys: Tile
    queries: Tile


# fmt: off
# (compute capability, head size up to): tiles of half precision. Untuned, all of them.
HALF = {
    # A100: 163 KiB of shared memory. Tiles are small, as q and the accumulators share the registers of a thread.
    (80, 64):   Tiles(Tile(128, 32, 4, 3),  Tile(64, 64, 4, 3),  Tile(64, 32, 4, 2),   Tile(64, 64, 4, 3)),
    (80, 128):  Tiles(Tile(128, 32, 8, 3),  Tile(32, 64, 4, 2),  Tile(32, 32, 8, 1),   Tile(32, 32, 4, 2)),
    # RTX 30 and 40, A10, L4, L40: 99 KiB.
    (86, 64):   Tiles(Tile(128, 32, 4, 2),  Tile(64, 64, 4, 2),  Tile(64, 32, 4, 2),   Tile(64, 64, 4, 2)),
    (86, 128):  Tiles(Tile(128, 32, 8, 2),  Tile(32, 64, 4, 2),  Tile(16, 32, 4, 1),   Tile(32, 32, 4, 2)),
    # H100, H200: 227 KiB; a warp group of 4 warps multiplies 64 rows at once.
    (90, 64):   Tiles(Tile(128, 128, 8, 3), Tile(64, 128, 4, 3), Tile(128, 64, 8, 2),  Tile(128, 64, 8, 2)),
    (90, 128):  Tiles(Tile(128, 128, 8, 2), Tile(64, 64, 4, 3),  Tile(64, 64, 8, 2),   Tile(128, 64, 8, 2)),
    # B200: as the H100; the accumulators lie in tensor memory.
    (100, 64):  Tiles(Tile(128, 128, 8, 3), Tile(64, 128, 4, 3), Tile(64, 64, 4, 2),   Tile(128, 64, 8, 2)),
    (100, 128): Tiles(Tile(128, 64, 8, 3),  Tile(64, 64, 4, 3),  Tile(64, 64, 8, 2),   Tile(128, 64, 8, 2)),
    # RTX 50: 99 KiB.
    (120, 64):  Tiles(Tile(128, 32, 4, 2),  Tile(64, 64, 4, 2),  Tile(64, 16, 4, 2),   Tile(64, 32, 4, 2)),
    (120, 128): Tiles(Tile(128, 32, 8, 2),  Tile(32, 64, 4, 2),  Tile(32, 32, 8, 1),   Tile(32, 32, 8, 2)),
}
# fp32 inputs of heads up to 64, everywhere: exact products on the ordinary units, for comparisons rather than for
# speed. Larger heads would spill whatever the tile. Untuned.
FULL = Tiles(Tile(16, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 8, 1))
# Forward tiles for heads of 64 that may be faster than HALF's, by architecture: `python -m benchmarks.gpu` times them, and
# none of them runs anywhere else before a measurement has put it into HALF.
_ALONE = {"extra_key": True, "extra_query": True}
CANDIDATES: dict[int, tuple[Tile, ...]] = {
    80: (Tile(128, 64, 8, 3), Tile(128, 32, 4, 3, carried=True), Tile(128, 32, 4, 3, **_ALONE)),
    86: (Tile(128, 64, 8, 2), Tile(128, 32, 4, 2, carried=True), Tile(128, 32, 4, 2, **_ALONE)),
    90: (
        Tile(128, 128, 8, 2),
        # Two programs an SM: the softmax of one may hide the products of the other.
        Tile(128, 64, 4, 2), Tile(128, 64, 4, 3), Tile(128, 64, 4, 4), Tile(128, 64, 8, 3),
        # Of four warps, (128, 64) spills where scores are carried.
        Tile(128, 128, 8, 2, carried=True), Tile(128, 64, 8, 3, carried=True),
        Tile(128, 128, 8, 3, extra_key=True), Tile(128, 128, 8, 3, **_ALONE), Tile(128, 64, 4, 3, **_ALONE),
        Tile(128, 128, 8, 2, carried=True, **_ALONE),
    ),
    100: (
        Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(128, 128, 8, 3, carried=True), Tile(128, 64, 8, 3, carried=True),
        Tile(128, 128, 8, 3, **_ALONE), Tile(128, 128, 8, 3, carried=True, **_ALONE),
    ),
    120: (Tile(128, 64, 8, 2), Tile(128, 32, 4, 2, carried=True), Tile(128, 32, 4, 2, **_ALONE)),
}
# fmt: on
SPLIT_KEYS = 256  # the fewest keys of a split: below, joining the splits costs more than it saves


class LaunchConfig(NamedTuple):
    """How one forward runs: tile, programs that share the keys, and whether tensor descriptors load it."""

    tile: Tile
    splits: int
    descriptors: bool


class BackwardConfig(NamedTuple):
    """How one backward runs: the tiles of its two kernels, and whether tensor descriptors load what they walk over."""

    keys: Tile
    queries: Tile
    descriptors: bool


def padded(d: int) -> int:
    """The head size in the kernels: a power of two, 16 at least, as the matrix units want it."""
    return max(16, 1 << (d - 1).bit_length())


def architecture(capability: tuple[int, int]) -> int:
    """The row of the table for a compute capability: its own or the nearest below it that has no more shared memory.

    Raises:
        ValueError: it is older than 8.0.
    """
    number = 10 * capability[0] + capability[1]
    if number < 80:
        raise ValueError(
            f"attention in Triton needs compute capability 8.0 or later, not {capability[0]}.{capability[1]}"
        )
    if number in (80, 90):
        return number
    return 100 if 100 <= number < 110 else 86 if number < 90 else 120


def tiles_for(arch: int, d: int, dtype: torch.dtype) -> Tiles:
    """The tiles of an architecture of the table for head size d."""
    return FULL if dtype == torch.float32 else HALF[arch, 64 if d <= 64 else 128]


def tiles_of(device: torch.device, d: int, dtype: torch.dtype) -> Tiles:
    """The tiles of a GPU for head size d."""
    return tiles_for(architecture(torch.cuda.get_device_capability(device)), d, dtype)


def forward_config(q: Tensor, k: Tensor, v: Tensor) -> LaunchConfig:
    """The forward's launch config for q, k, v [B, N, heads, d] on their GPU."""
    device = torch.cuda.get_device_properties(q.device)
    arch = architecture((device.major, device.minor))
    B, N, heads, d = q.shape
    tile, splits = fill(tiles_for(arch, d, q.dtype), B * heads, N, device.multi_processor_count)
    return LaunchConfig(tile, splits, arch >= 90 and all(fits_descriptor(x) for x in (q, k, v)))


def backward_config(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> BackwardConfig:
    """The backward's launch config for q, k, v and the answer's gradient [B, N, heads, d] on their GPU."""
    arch = architecture(torch.cuda.get_device_capability(q.device))
    tiles = tiles_for(arch, q.shape[3], q.dtype)
    return BackwardConfig(tiles.keys, tiles.queries, arch >= 90 and all(fits_descriptor(x) for x in (q, k, v, grad)))


def fill(tiles: Tiles, images_heads: int, N: int, processors: int) -> tuple[Tile, int]:
    """The forward tile, and over how many programs its keys are split so that every multiprocessor has work."""
    programs = -(-N // tiles.forward.rows) * images_heads
    if programs >= processors:
        return tiles.forward, 1
    programs = -(-N // tiles.small.rows) * images_heads
    if programs >= processors:
        return tiles.small, 1
    return tiles.small, max(1, min(2 * processors // programs, N // SPLIT_KEYS))


def fits_descriptor(x: Tensor) -> bool:
    """Whether the tensor memory accelerator can read x: half precision, 16-byte aligned, no stride 0."""
    size = x.element_size()
    aligned = x.data_ptr() % 16 == 0 and all(stride > 0 and stride * size % 16 == 0 for stride in x.stride()[:3])
    return size == 2 and x.stride(3) == 1 and aligned
