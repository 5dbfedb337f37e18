"""What the system says of the CPU."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from segfast.kernels.quota import read

# What the runtimes choose their arithmetic by, as Linux names it.
X86 = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "avx512_fp16")
ARM = ("asimdhp", "asimddp", "bf16", "i8mm")


def cpu_model() -> str | None:
    """The CPU's name, if the system tells."""
    return _cpuinfo("model name") or platform.processor() or platform.machine() or None


def instructions() -> dict[str, bool] | None:
    """Which of the instruction sets that matter the CPU has; None where the system does not tell."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    if not flags:
        return None
    wanted = ARM if platform.machine().lower() in ("aarch64", "arm64") else X86
    return {name: name in flags for name in wanted}


def has_int8() -> bool:
    """Whether the CPU multiplies bytes exactly and fast; taken to be so where the system does not tell.

    Without these instructions sums of two products saturate at 16 bits.
    """
    sets = instructions()
    return sets is None or any(
        sets.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    )


def _cpuinfo(key: str) -> str | None:
    match = re.search(rf"^{key}\s*:\s*(.+)$", read(Path("/proc/cpuinfo")), re.MULTILINE)
    return match[1].strip() if match else None
