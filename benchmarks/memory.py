"""What a call holds of the memory, at its peak."""

import ctypes
from pathlib import Path

import torch

from segfast.machine import memory

RESET, STATUS, INFO = Path("/proc/self/clear_refs"), Path("/proc/self/status"), Path("/proc/meminfo")
GROUPS = Path("/sys/fs/cgroup")


def peak(function, device="cpu", held=None):
    """The most bytes beyond those `held` (now, unless told) that a call needs; None where it cannot be told."""
    if device == "cuda":
        held = resident(device) if held is None else held
        function()
        torch.cuda.synchronize()
        return _taken() - held  # allocators keep what they took
    now = resident()
    if now is None:
        return None
    try:
        RESET.write_text("5")  # the high-water mark
    except OSError:
        return None
    function()
    return _bytes(STATUS, "VmHWM") - (now if held is None else held)


def resident(device="cpu"):
    """Bytes in use now; None where it cannot be told."""
    if device == "cuda":
        torch.cuda.empty_cache()
        return _taken()
    if not RESET.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        return None
    # What earlier calls freed but the allocator kept would hide later ones' use.
    ctypes.CDLL(None).malloc_trim(0)
    return _bytes(STATUS, "VmRSS")


def available():
    """Bytes of the host that programs may still take; None where it cannot be told."""
    return memory.available(INFO, GROUPS)


def _taken():
    """Bytes of the GPU in anybody's use: PyTorch's count leaves out other runtimes' and those of graphs."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def _bytes(path, key):
    return next(int(line.split()[1]) * 1024 for line in path.read_text().splitlines() if line.startswith(key + ":"))
