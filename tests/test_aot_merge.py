"""Every configuration of the pipeline's end compiles for every architecture, and fits its registers."""

import itertools

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton exists for Linux only")

from segfast.kernels import merge_cuda
from segfast.kernels.aot import SHARED_BYTES, compile_kernel
from segfast.kernels.merge_triton import first_best_kernel, label_kernel, softmax_kernel

PLAIN = {"SINGLE": True, "MIRRORED": False, "STRETCH_Y": True, "STRETCH_X": True, "RESIZE_Y": False, "RESIZE_X": False}
OVERLAP = PLAIN | {"SINGLE": False, "MIRRORED": True}
RESIZED = OVERLAP | {"RESIZE_Y": True, "RESIZE_X": True}
ONE_WINDOW = {"anchors": None, "n": 1}                  # as Triton specialises them
ONE_PIXEL = ONE_WINDOW | dict.fromkeys(("H", "W", "view_h", "view_w", "window_h", "window_w", "h", "w"), 1)
CELLS = {"IN_CELLS": True}
LOOSE = {"IN_CELLS": False, "TILE": merge_cuda.LOOSE_TILE}
SOFT = dict(zip(("HIGH", "WIDE"), merge_cuda.SOFT_TILE, strict=True))
WARPS, SOFT_WARPS = merge_cuda.LOOSE_WARPS, merge_cuda.SOFT_WARPS

# (kernel, its constants, warps): in cells of 16 and 8 pixels, few and many classes, every kind of view.
CONFIGURATIONS = {
    "cells 16, K 150": (label_kernel, {**PLAIN, **ONE_WINDOW, **CELLS, "K": 150, "CLASSES": 256, "TILE": 16}, 1),
    "cells 8, K 19": (label_kernel, {**PLAIN, **ONE_WINDOW, **CELLS, "K": 19, "CLASSES": 32, "TILE": 8}, 1),
    "any size, K 300": (label_kernel, {**PLAIN, **ONE_WINDOW, **LOOSE, "K": 300, "CLASSES": 256}, WARPS),
    "one pixel": (label_kernel, {**PLAIN, **ONE_PIXEL, **LOOSE, "K": 2, "CLASSES": 32}, WARPS),
    "overlap, K 150": (label_kernel, {**OVERLAP, **LOOSE, "K": 150, "CLASSES": 256}, WARPS),
    "overlap, resized, K 150": (label_kernel, {**RESIZED, **LOOSE, "K": 150, "CLASSES": 256}, WARPS),
    "softmax, one window": (softmax_kernel, {**PLAIN, **ONE_WINDOW, **SOFT, "K": 150}, SOFT_WARPS),
    "softmax, resized": (softmax_kernel, {**RESIZED, **SOFT, "K": 150}, SOFT_WARPS),
    "first best": (first_best_kernel, {"K": 150, "BLOCK": merge_cuda.BLOCK}, merge_cuda.BLOCK_WARPS),
}
ARCHITECTURES = (80, 90, 100, 120)
# All in fp16 everywhere; the other dtypes differ in their loads only.
CASES = [
    *itertools.product(CONFIGURATIONS, ["fp16"], ARCHITECTURES),
    ("cells 16, K 150", "bf16", 80), ("cells 16, K 150", "fp32", 90), ("overlap, resized, K 150", "fp32", 90),
]  # fmt: skip


def signature(kernel, constants, dtype):
    """Triton types of a kernel's arguments, as its launcher passes them."""
    pointers = {"logits": f"*{dtype}", "anchors": "*i32", "scores": "*fp32", "views": "fp32"}
    pointers["labels"] = "*u8" if constants["K"] <= 256 else "*u16"
    names = [name for name in kernel.arg_names if name not in constants]
    return {name: pointers.get(name, "fp32" if "scale" in name else "i32") for name in names}


@pytest.mark.parametrize(("name", "dtype", "arch"), CASES)
def test_compiles_without_spills(name, dtype, arch):
    kernel, constants, warps = CONFIGURATIONS[name]
    types = signature(kernel, constants, dtype)
    options = {"maxnreg": merge_cuda.REGISTERS} if kernel is label_kernel else {}
    compiled = compile_kernel(kernel, types, constants, arch, warps, 3, enable_fp_fusion=False, **options)
    print(f"sm_{arch} {name} {dtype}: {compiled.registers} registers, {compiled.shared_bytes} bytes shared")
    assert compiled.spills == 0
    assert compiled.shared_bytes <= SHARED_BYTES[arch]
    if kernel is label_kernel:              # or the twin's last bit is lost
        assert "fma.rn" not in compiled.ptx
        assert "div.full" not in compiled.ptx
    if constants.get("IN_CELLS"):
        assert compiled.registers <= 128    # 16 warps of one SM partition's registers: enough to hide the loads
