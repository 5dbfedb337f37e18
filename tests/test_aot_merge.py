"""Every configuration of the pipeline's end compiles for every architecture, and fits its registers."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton exists for Linux only")

from segfast.kernels import merge_cuda
from segfast.kernels.aot import SHARED_BYTES, compile_kernel
from segfast.kernels.merge_triton import first_best_kernel, label_kernel, softmax_kernel

ONE, SEVERAL = {"SINGLE": True, "origins": None}, {"SINGLE": False}  # an argument that is None is a constant
CELLS = {"IN_CELLS": True, "RESIZE": False, **ONE}
LOOSE = {"IN_CELLS": False, "TILE": merge_cuda.LOOSE_TILE}
SOFT = dict(zip(("HIGH", "WIDE"), merge_cuda.SOFT_TILE, strict=True))
# Kinds of tiles and views, each a compilation of its own: kernel, its constants, warps.
KINDS = {
    "cells 16": (label_kernel, {**CELLS, "TILE": 16}, 1),
    "cells 8": (label_kernel, {**CELLS, "TILE": 8}, 1),
    "any size": (label_kernel, {**LOOSE, **ONE, "RESIZE": False}, merge_cuda.LOOSE_WARPS),
    "resized": (label_kernel, {**LOOSE, **ONE, "RESIZE": True}, merge_cuda.LOOSE_WARPS),
    "overlap": (label_kernel, {**LOOSE, **SEVERAL, "RESIZE": False}, merge_cuda.LOOSE_WARPS),
    "overlap, resized": (label_kernel, {**LOOSE, **SEVERAL, "RESIZE": True}, merge_cuda.LOOSE_WARPS),
    "softmax": (softmax_kernel, {**SOFT, **ONE, "RESIZE": False}, merge_cuda.SOFT_WARPS),
    "softmax, resized": (softmax_kernel, {**SOFT, **ONE, "RESIZE": True}, merge_cuda.SOFT_WARPS),
    "softmax, overlap": (softmax_kernel, {**SOFT, **SEVERAL, "RESIZE": False}, merge_cuda.SOFT_WARPS),
    "softmax, overlap, resized": (softmax_kernel, {**SOFT, **SEVERAL, "RESIZE": True}, merge_cuda.SOFT_WARPS),
    "first best": (first_best_kernel, {"BLOCK": merge_cuda.BLOCK}, merge_cuda.BLOCK_WARPS),
}
LABELS = [kind for kind, row in KINDS.items() if row[0] is label_kernel]
ARCHITECTURES = (80, 90, 100, 120)
LAYOUTS = {"classes last": (True, 8), "unaligned": (True, 1), "classes first": (False, 1)}


def compiled(kind, arch, K=150, dtype="fp16", lies="classes last"):
    """A kernel as its launcher would have it compiled; every number of classes beyond 256 asks for the same."""
    kernel, constants, warps = KINDS[kind]
    last, vector = LAYOUTS[lies]
    constants = (
        constants | merge_cuda.rounds(K) | {"LAST": last, "VECTOR": min(vector, 4) if dtype == "fp32" else vector}
    )
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    pointers = {"logits": f"*{dtype}", "origins": "*i32", "scores": "*fp32", "views": "fp32"}
    pointers["labels"] = "*u8" if K <= 256 else "*u16"
    names = [name for name in kernel.arg_names if name not in constants]
    types = {name: pointers.get(name, "fp32" if "scale" in name else "i32") for name in names}
    options = {"maxnreg": merge_cuda.REGISTERS} if kernel is label_kernel else {}
    key = (kind, arch, *types.items(), *constants.items())
    if key not in KNOWN:
        KNOWN[key] = compile_kernel(kernel, types, constants, arch, warps, 3, enable_fp_fusion=False, **options)
    return KNOWN[key]


KNOWN = {}


def check(binary, kind, arch):
    print(f"sm_{arch} {kind}: {binary.registers} registers, {binary.shared_bytes} bytes shared")
    assert binary.spills == 0
    assert binary.shared_bytes <= SHARED_BYTES[arch]
    if kind in LABELS:  # or the twin's last bit is lost
        assert "fma.rn" not in binary.ptx
        assert "div.full" not in binary.ptx
    if kind.startswith("cells"):
        assert binary.registers <= 128  # 16 warps of one SM partition's registers: enough to hide the loads


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_without_spills(kind, arch):
    check(compiled(kind, arch), kind, arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kind", LABELS)
def test_more_classes_than_are_taken_at_a_time(kind, arch):
    for K in (257, 300, 847, 1000):
        check(compiled(kind, arch, K), kind, arch)


# Everything in fp16 with the classes last; what else there is differs in its loads only.
@pytest.mark.parametrize(("kind", "arch", "K", "dtype", "lies"), [
    ("cells 16", 80, 150, "bf16", "classes last"), ("cells 16", 90, 150, "fp32", "classes last"),
    ("cells 8", 90, 19, "fp16", "classes last"), ("overlap, resized", 90, 150, "fp32", "classes last"),
    ("cells 16", 80, 300, "fp16", "classes first"), ("overlap, resized", 120, 150, "fp16", "classes first"),
    ("softmax, overlap, resized", 90, 150, "fp16", "classes first"), ("cells 8", 100, 150, "fp16", "unaligned"),
])  # fmt: skip
def test_other_dtypes_and_layouts(kind, arch, K, dtype, lies):
    check(compiled(kind, arch, K, dtype, lies), kind, arch)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kind", LABELS)
def test_neighbouring_classes_are_loaded_as_vectors(kind, arch):
    """256 classes of a patch: 16 bytes a thread of one warp, 8 of two."""
    width = "v4" if kind.startswith("cells") else "v2"
    for K in (150, 300):
        assert f"ld.global.{width}.b32" in compiled(kind, arch, K).ptx


def test_scattered_classes_are_not():
    assert "ld.global.v" not in compiled("cells 16", 80, 300, "fp16", "classes first").ptx
    assert "ld.global.v" not in compiled("cells 8", 100, 150, "fp16", "unaligned").ptx
