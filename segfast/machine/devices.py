"""Which devices are there, asked of the driver alone."""

from __future__ import annotations

import ctypes
import os
import re
import sys

from segfast.errors import BadOption, MissingRuntime
from segfast.machine import nvml

# cuda.h: CUDA was started in the process that this one was forked from.
_NOT_INITIALISED = 3
_started_in: int | None = None


def check_device(device: str | None) -> str:
    """`cpu`, `cuda` or `cuda:N`; None is the NVIDIA GPU if there is one, else the CPU.

    Raises:
        BadOption: it is none of these.
        MissingRuntime: it is a GPU, and this process was forked from one that used CUDA.
    """
    if device is None:
        device = "cuda" if nvidia_gpus() else "cpu"
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise BadOption(f"device must be 'cpu', 'cuda' or 'cuda:N'; got {device!r}")
    if device != "cpu":
        _refuse_fork()
    return device


def nvidia_gpus() -> int:
    """How many NVIDIA GPUs CUDA shows to this process; 0 without a driver. CUDA is not started, where NVML is there.

    Raises:
        MissingRuntime: as `cuda_driver`, where it is not.
    """
    found = nvml.gpus()
    if found is not None:
        return nvml.visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))
    driver, count = cuda_driver(), ctypes.c_int(0)  # Tegra has no NVML
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def cuda_driver() -> ctypes.CDLL | None:
    """CUDA's driver, started in this process; None where it is missing or cannot start.

    Raises:
        MissingRuntime: this process was forked from one that used CUDA.
    """
    global _started_in
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    _refuse_fork()
    status = driver.cuInit(0)
    if status == _NOT_INITIALISED:
        raise MissingRuntime(_FORKED)
    if status != 0:
        return None
    _started_in = os.getpid()
    return driver


def _refuse_fork() -> None:
    """Raises MissingRuntime in a child that was forked after CUDA was started: there it fails, or hangs."""
    forked = getattr(sys.modules.get("torch.cuda"), "_is_in_bad_fork", bool)
    if _started_in not in (None, os.getpid()) or forked():
        raise MissingRuntime(_FORKED)


_FORKED = (
    "this process was forked from one that used CUDA, which does not work in it; start processes by "
    "multiprocessing's 'spawn', use CUDA in the children alone, or give device='cpu'"
)
