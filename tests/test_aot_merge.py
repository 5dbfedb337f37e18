"""Every configuration of the pipeline's end compiles for every architecture, and fits its registers."""

import itertools

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton exists for Linux only")

from segfast.kernels import merge_cuda
from segfast.kernels.aot import SHARED_BYTES, compile_kernel

PLAIN = {"SINGLE": True, "MIRRORED": False, "STRETCH_Y": True, "STRETCH_X": True, "RESIZE_Y": False, "RESIZE_X": False}
OVERLAP = PLAIN | {"SINGLE": False, "MIRRORED": True}
RESIZED = OVERLAP | {"RESIZE_Y": True, "RESIZE_X": True}
LABEL, SOFTMAX, FIRST = merge_cuda._label_kernel, merge_cuda._softmax_kernel, merge_cuda._first_best_kernel
HIGH, WIDE = merge_cuda.SOFT_TILE
TILE, LOOSE = merge_cuda.LOOSE_TILE, merge_cuda.LOOSE_WARPS

# (kernel, its constants, warps): in cells of 16 and 8 pixels, few and many classes, every kind of view.
CONFIGURATIONS = {
    "cells 16, K 150": (LABEL, {**PLAIN, "anchors": None, "K": 150, "CLASSES": 256, "TILE": 16, "IN_CELLS": True}, 1),
    "cells 8, K 19": (LABEL, {**PLAIN, "anchors": None, "K": 19, "CLASSES": 32, "TILE": 8, "IN_CELLS": True}, 1),
    "any size, K 300": (LABEL, {**PLAIN, "anchors": None, "K": 300, "CLASSES": 256, "TILE": TILE, "IN_CELLS": False}, LOOSE),
    "overlap, K 150": (LABEL, {**OVERLAP, "K": 150, "CLASSES": 256, "TILE": TILE, "IN_CELLS": False}, LOOSE),
    "overlap, resized, K 19": (LABEL, {**RESIZED, "K": 19, "CLASSES": 32, "TILE": TILE, "IN_CELLS": False}, LOOSE),
    "overlap, resized, K 150": (LABEL, {**RESIZED, "K": 150, "CLASSES": 256, "TILE": TILE, "IN_CELLS": False}, LOOSE),
    "softmax, one window": (SOFTMAX, {**PLAIN, "anchors": None, "K": 150, "HIGH": HIGH, "WIDE": WIDE}, merge_cuda.SOFT_WARPS),
    "softmax, resized": (SOFTMAX, {**RESIZED, "K": 150, "HIGH": HIGH, "WIDE": WIDE}, merge_cuda.SOFT_WARPS),
    "first best": (FIRST, {"K": 150, "BLOCK": 256}, 4),
}


def signature(kernel, constants, dtype):
    """Triton types of a kernel's arguments, as its launcher passes them."""
    pointers = {"logits": f"*{dtype}", "anchors": "*i32", "scores": "*fp32", "views": "fp32"}
    pointers["labels"] = "*u8" if constants["K"] <= 256 else "*u16"
    names = [name for name in kernel.arg_names if name not in constants]
    return {name: pointers.get(name, "fp32" if "scale" in name else "i32") for name in names}


@pytest.mark.parametrize(("name", "dtype"), [*itertools.product(CONFIGURATIONS, ["fp16"]), ("cells 16, K 150", "bf16"),
                                             ("cells 16, K 150", "fp32"), ("softmax, resized", "fp32")])
@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_compiles_without_spills(name, dtype, arch):
    kernel, constants, warps = CONFIGURATIONS[name]
    types = signature(kernel, constants, dtype)
    options = {"maxnreg": merge_cuda.REGISTERS} if kernel is LABEL else {}
    compiled = compile_kernel(kernel, types, constants, arch, warps, 3, enable_fp_fusion=False, **options)
    print(f"sm_{arch} {name} {dtype}: {compiled.registers} registers, {compiled.shared_bytes} bytes shared")
    assert compiled.spills == 0
    assert compiled.shared_bytes <= SHARED_BYTES[arch]
    if kernel is LABEL:                     # or the twin's last bit is lost
        assert "fma.rn" not in compiled.ptx
        assert "div.full" not in compiled.ptx
    if constants.get("IN_CELLS"):
        assert compiled.registers <= 128    # 16 warps of one SM partition's registers: enough to hide the loads
