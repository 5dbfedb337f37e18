"""Which devices are there, asked of the driver alone."""

from __future__ import annotations

import ctypes
import re
import sys

from segfast.errors import BadOption


def check_device(device: str | None) -> str:
    """`cpu`, `cuda` or `cuda:N`; None is the NVIDIA GPU if there is one, else the CPU.

    Raises:
        BadOption: it is none of these.
    """
    if device is None:
        return "cuda" if nvidia_gpus() else "cpu"
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise BadOption(f"device must be 'cpu', 'cuda' or 'cuda:N'; got {device!r}")
    return device


def nvidia_gpus() -> int:
    """How many NVIDIA GPUs the driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
