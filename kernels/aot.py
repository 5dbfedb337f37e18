"""Compiles a Triton kernel for a GPU that need not be there: what it will take of the chip is known before it runs.

A kernel that spills registers, or whose tiles do not fit the shared memory, still runs or fails only
on the GPU it was written for. Compiled on any Linux host, both are numbers that a test can gate.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from triton.runtime.jit import JITFunction

# The most shared memory one program may use, in bytes, by compute capability (CUDA C++ guide, technical specifications).
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
REGISTERS = 255  # the most one thread can address


class Compiled(NamedTuple):
    """A kernel compiled ahead of time.

    Attributes:
        cubin: the binary.
        ptx: its assembly.
        registers: of one thread.
        spills: bytes of registers that one thread stores to and loads from memory instead.
        shared_bytes: shared memory of one program.
    """

    cubin: bytes
    ptx: str
    registers: int
    spills: int
    shared_bytes: int


def compile_kernel(
    kernel: JITFunction,
    signature: Mapping[str, str],
    constants: Mapping[str, object],
    arch: int,
    num_warps: int,
    num_stages: int,
    aligned: Collection[str] | None = None,
    **options: object,
) -> Compiled:
    """Compile a `triton.jit` kernel for compute capability `arch`, 90 for 9.0.

    Args:
        signature: Triton type of every argument that is not a constant: `*fp16`, `i32`, `fp32`,
            `tensordesc<fp16[64, 64]>`.
        constants: value of every `tl.constexpr`, and of arguments to be specialised on (None, 1).
        aligned: arguments divisible by 16, as the launcher would find; by default every pointer whose alignment
            the kernel is specialised on.
        options: of the compiler, `maxnreg` for one. Multiplications and additions fuse unless
            `enable_fp_fusion` says otherwise, as in the launchers.

    Raises:
        ImportError: Triton is not installed: it exists for Linux only.
        TypeError: an argument of the kernel has neither type nor value.
    """
    from triton import compile as compile_source
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=kernel, **_arguments(kernel, signature, constants, aligned))
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True} | options
    with _talkative() as log:
        compiled = compile_source(source, target=GPUTarget("cuda", arch, 32), options=options)
    registers, spills = resource_usage(log.getvalue())
    return Compiled(compiled.asm["cubin"], compiled.asm["ptx"], registers, spills, compiled.metadata.shared)


def _arguments(
    kernel: JITFunction,
    signature: Mapping[str, str],
    constants: Mapping[str, object],
    aligned: Collection[str] | None,
) -> dict[str, Mapping[object, object]]:
    """What `compile_kernel` is told of the arguments, as Triton's `ASTSource` wants it."""
    names = kernel.arg_names
    if unknown := set(names) ^ (set(signature) | set(constants)):
        raise TypeError(
            f"{kernel.__name__}: the types and values do not fit its arguments: {', '.join(sorted(unknown))}"
        )
    if aligned is None:
        unaligned = {param.name for param in kernel.params if param.do_not_specialize_on_alignment}
        aligned = [name for name, kind in signature.items() if kind.startswith("*") and name not in unaligned]
    return {
        "signature": {name: "constexpr" if name in constants else signature[name] for name in names},
        "constexprs": {(names.index(name),): value for name, value in constants.items()},
        "attrs": {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    }


@contextmanager
def _talkative() -> Iterator[io.StringIO]:
    """Triton compiles whatever its cache holds, and what its assembler says is caught: options and all are Triton's own."""
    from triton import knobs

    log = io.StringIO()
    with knobs.nvidia.scope(), knobs.compilation.scope(), redirect_stdout(log):
        knobs.nvidia.dump_ptxas_log = knobs.compilation.always_compile = True
        yield log


def resource_usage(log: str) -> tuple[int, int]:
    """Registers of one thread and the bytes it spills, from the report of `ptxas -v`.

    A stack frame alone is no spill: some releases leave an empty one of 8 bytes.
    """
    (registers,) = re.findall(r"Used (\d+) registers", log)
    stored, loaded = re.findall(r"(\d+) bytes spill", log)
    return int(registers), int(stored) + int(loaded)
