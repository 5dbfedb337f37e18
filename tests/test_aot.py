"""Every configuration of the attention kernels compiles ahead of time: no spills, and its shared memory fits the chip."""

import re
from functools import cache

import pytest

pytest.importorskip("triton", reason="Triton exists for Linux only")

from segfast.kernels.aot import REGISTERS, SHARED_BYTES, compile_kernel
from segfast.kernels.attention_backward_triton import (
    attention_backward_keys,
    attention_backward_queries,
    attention_delta,
)
from segfast.kernels.attention_configs import CANDIDATES, FULL, HALF, Tile
from segfast.kernels.attention_cuda import EXTRA_ROWS
from segfast.kernels.attention_loads import UNIT
from segfast.kernels.attention_triton import attention_forward, join_splits

ARCHITECTURES = sorted({arch for arch, _ in HALF})
STRIDES = [f"{x}_{axis}" for x in "qkvg" for axis in ("batch", "row", "head")]
INTEGERS = [*STRIDES, "N", "heads", "d", "span", "origin", "tiles", "splits"]
FLOATS = ["scale", "k_scale", "q_scale"]
KERNELS = {  # field of Tiles: kernel, and the operands that descriptors load
    "forward": (attention_forward, "qkv"),
    "small": (attention_forward, "qkv"),
    "keys": (attention_backward_keys, ("q", "grad")),
    "queries": (attention_backward_queries, "kv"),
}


def signature(kernel, dtype, tile, D, streamed, split):
    """The types of a kernel's arguments as the launchers give them."""
    types = dict.fromkeys(["q", "k", "v", "grad", "extra_keys", "extra_values", "out", "packed"], f"*{dtype}")
    types |= dict.fromkeys(["stats", "logsumexp", "delta", "partial"], "*fp32")
    types |= dict.fromkeys(INTEGERS, "i32") | dict.fromkeys(FLOATS, "fp32")
    for name in streamed:
        rows = tile.rows if (kernel, name) == (attention_forward, "q") else tile.columns
        types[name] = f"tensordesc<{dtype}[1, {rows}, 1, {D}]>"
    if split:
        types["out"] = "*fp32"
    return types


@cache
def compiled(field, arch, D, dtype, tile, descriptors, padded=False, split=False, extra=False):
    kernel, streamed = KERNELS[field]
    types = signature(kernel, dtype, tile, D, streamed if descriptors else (), split)
    constants = {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "D": D,
        "PADDED": padded,
        "SPLIT": split,
        "DESCRIPTOR": descriptors,
        "UNIT": UNIT,
        "PRECISION": "ieee",
        "CARRIED": tile.carried,
        "EXTRA": extra,
    }
    if not extra:
        constants |= {"extra_keys": None, "extra_values": None}
    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    types = {name: types[name] for name in names if name not in constants}
    return compile_kernel(kernel, types, constants, arch, tile.warps, tile.stages)


def check(binary, arch):
    assert binary.spills == 0
    assert binary.shared_bytes <= SHARED_BYTES[arch]
    assert 0 < binary.registers <= REGISTERS


@pytest.mark.parametrize("D", [64, 128])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_half_precision_fits(arch, D, capsys):
    lines = []
    for field, tile in HALF[arch, D]._asdict().items():
        for descriptors in {False, arch >= 90}:
            binary = compiled(field, arch, D, "fp16", tile, descriptors, split=field == "small")
            lines.append(line(arch, D, field, tile, descriptors, binary))
            with capsys.disabled():
                print(lines[-1])
            check(binary, arch)


@pytest.mark.parametrize("arch", CANDIDATES)
def test_candidates_fit(arch):
    """As they run where N is one more than a multiple of the tile, so that every option of a candidate takes effect.

    More stages take more shared memory and nothing else; that of the extra query's own launch is not this kernel's.
    All of 9.0, the GPU that is measured; of any other the one that holds the most at once, the last whose scores are
    carried: the rest run in the benchmark alone.
    """
    tiles = CANDIDATES[arch] if arch == 90 else [tile for tile in CANDIDATES[arch] if tile.carried][-1:]
    most = {}
    for tile in sorted(tiles, key=lambda tile: tile.stages):
        most[tile._replace(stages=0, extra_query=False)] = tile
    assert most
    for tile in most.values():
        check(compiled("forward", arch, 64, "fp16", tile, arch >= 90, extra=tile.extra_key), arch)
    for columns in {tile.columns for tile in tiles if tile.extra_query}:
        alone = Tile(EXTRA_ROWS, columns, 4, 3, carried=True)
        check(compiled("forward", arch, 64, "fp16", alone, arch >= 90, extra=True), arch)


@pytest.mark.parametrize("arch", [80, 90])
def test_rows_are_read_in_vectors_where_units_divide_them(arch):
    binary = compiled("forward", arch, 64, "fp16", HALF[arch, 64].forward, False, split=False)
    assert re.search(r"cp\.async\.cg\.shared\.global.*, 0x10", binary.ptx)
    assert "ld.global.v4.b32" in binary.ptx
    assert "ld.global.b16" not in binary.ptx


@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_fp32_fits(arch, capsys):
    for field, tile in FULL._asdict().items():
        binary = compiled(field, arch, 64, "fp32", tile, False, split=field == "small")
        with capsys.disabled():
            print(line(arch, 64, field, tile, False, binary))
        check(binary, arch)


@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_the_small_kernels_fit(arch):
    types = dict.fromkeys(["out", "grad"], "*bf16") | dict.fromkeys(["partial", "stats", "logsumexp", "delta"], "*fp32")
    types |= dict.fromkeys(INTEGERS, "i32")
    for kernel in (attention_delta, join_splits):
        signature = {name: types[name] for name in kernel.arg_names if name not in ("ROWS", "D", "UNIT")}
        check(compile_kernel(kernel, signature, {"ROWS": 16, "D": 128, "UNIT": UNIT}, arch, 4, 1), arch)


@pytest.mark.parametrize("field", list(KERNELS))
@pytest.mark.parametrize("arch", [80, 90])
def test_bf16_and_padded_heads_fit(arch, field):
    tile = getattr(HALF[arch, 128], field)
    check(compiled(field, arch, 128, "bf16", tile, arch >= 90, padded=True, split=field == "small"), arch)


def line(arch, D, field, tile, descriptors, binary):
    size = f"{tile.rows}×{tile.columns} {tile.warps}w {tile.stages}s"
    loads = "descriptors" if descriptors else "pointers"
    return (
        f"sm_{arch:<4} d {D:<4} {field:<8} {size:<15} {loads:<12} {binary.registers:>4} registers "
        f"{binary.spills:>5} B spilled {binary.shared_bytes / 1024:>6.1f} KiB"
    )
