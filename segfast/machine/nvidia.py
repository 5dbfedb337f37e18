"""What the NVIDIA driver says of a GPU; asking starts CUDA in this process."""

from __future__ import annotations

import ctypes
import sys

from segfast.errors import MissingRuntime
from segfast.machine import devices
from segfast.machine.nvml import driver_version as driver_version

# Numbers of cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256


def indexed(device: str) -> str:
    """`cuda:N` for `cuda`: PyTorch's current GPU where PyTorch is in use, else the first."""
    if device != "cuda":
        return device
    torch = sys.modules.get("torch")
    return f"cuda:{torch.cuda.current_device() if torch is not None and torch.cuda.is_available() else 0}"


def capability(device: str) -> str:
    """The compute capability of a GPU as its compilers write it, such as `sm89`.

    Args:
        device: `cuda` or `cuda:N`.

    Raises:
        MissingRuntime: the driver shows no such GPU.
    """
    driver, number = _device(device)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    for value, attribute in ((major, _CAPABILITY_MAJOR), (minor, _CAPABILITY_MINOR)):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, number) != 0:
            raise MissingRuntime(f"the NVIDIA driver does not tell the compute capability of {device}; update it")
    return f"sm{major.value}{minor.value}"


def device_name(device: str) -> str:
    """A GPU's name.

    Raises:
        MissingRuntime: the driver shows no such GPU.
    """
    driver, number = _device(device)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver.cuDeviceGetName(name, _NAME_BYTES, number)
    return name.value.decode(errors="replace")


def _device(device: str) -> tuple[ctypes.CDLL, ctypes.c_int]:
    """The driver, and its handle of a GPU."""
    handle, index = ctypes.c_int(0), int(device.partition(":")[2] or 0)
    driver = devices.cuda_driver()
    if driver is None:
        raise MissingRuntime("there is no NVIDIA driver here that starts; an engine file runs on an NVIDIA GPU alone")
    if driver.cuDeviceGet(ctypes.byref(handle), index) != 0:
        raise MissingRuntime(f"the NVIDIA driver shows no {device}; python -m segfast.doctor tells what it shows")
    return driver, handle
