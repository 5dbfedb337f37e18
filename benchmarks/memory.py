"""What a call holds of the memory, at its peak."""

import ctypes
from pathlib import Path

import torch

RESET, STATUS, INFO = Path("/proc/self/clear_refs"), Path("/proc/self/status"), Path("/proc/meminfo")


def peak(function, device="cpu", held=None):
    """The most bytes beyond those `held` (now, unless told) that a call needs; None where it cannot be told."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if held is None else held
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held
    now = resident()
    if now is None:
        return None
    RESET.write_text("5")                                               # the high-water mark
    function()
    return _bytes(STATUS, "VmHWM") - (now if held is None else held)


def resident(device="cpu"):
    """Bytes in use now; None where it cannot be told."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    if not RESET.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        return None
    # What earlier calls freed but the allocator kept would hide later ones' use.
    ctypes.CDLL(None).malloc_trim(0)
    return _bytes(STATUS, "VmRSS")


def available():
    """Bytes of the host that programs may still take; None where it cannot be told."""
    return _bytes(INFO, "MemAvailable") if INFO.exists() else None


def _bytes(path, key):
    return next(int(line.split()[1]) * 1024 for line in path.read_text().splitlines() if line.startswith(key + ":"))
