"""NVIDIA's management library: what GPUs there are, told without starting CUDA.

CUDA that was started in a process is of no use in its forked children: so nothing that only counts may start it.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

# Of nvml.h.
_VERSION_BYTES, _UUID_BYTES = 80, 96


class Gpu(NamedTuple):
    """A GPU of this machine.

    Attributes:
        uuid: `GPU-…`.
        parts: UUIDs of its MIG devices, `MIG-…`; None where it is not divided.
    """

    uuid: str
    parts: tuple[str, ...] | None = None


def gpus() -> list[Gpu] | None:
    """The GPUs that this process may open, in the order of their bus; None where the library is missing or fails."""
    with _opened() as nvml:
        count = ctypes.c_uint(0)
        if nvml is None or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        handles = [_handle(nvml.nvmlDeviceGetHandleByIndex_v2, index) for index in range(count.value)]
        return [Gpu(_uuid(nvml, handle), _parts(nvml, handle)) for handle in handles if handle is not None]


def visible(gpus: Sequence[Gpu], setting: str | None) -> int:
    """How many of the GPUs CUDA shows.

    Args:
        setting: of CUDA_VISIBLE_DEVICES: indices and beginnings of UUIDs, of which the first that names nothing ends
            the list, and one that is named twice empties it. Of MIG devices CUDA shows one, and no whole GPU beside it.
    """
    if setting is None:
        chosen = [part for gpu in gpus for part in _shown(gpu)]
    else:
        chosen = []
        for name in setting.split(","):
            found = _named(gpus, name.strip())
            if found is None:
                break
            if found in chosen:
                return 0
            chosen.append(found)
        chosen = [
            part for found in chosen for part in ([found] if found.startswith("MIG-") else _shown(_of(gpus, found)))
        ]
    return 1 if any(name.startswith("MIG-") for name in chosen) else len(chosen)


def driver_version() -> str | None:
    """The version of the NVIDIA driver, such as `580.65.06`; None without one."""
    text = ctypes.create_string_buffer(_VERSION_BYTES)
    with _opened() as nvml:
        if nvml is None or nvml.nvmlSystemGetDriverVersion(text, _VERSION_BYTES) != 0:
            return None
    return text.value.decode(errors="replace")


@contextmanager
def _opened() -> Iterator[ctypes.CDLL | None]:
    """The library, started; None without it."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        yield None
        return
    if nvml.nvmlInit_v2() != 0:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _handle(get: ctypes._NamedFuncPointer, *arguments: object) -> ctypes.c_void_p | None:
    """A handle that a function of the library gives; None where it gives none, for want of permission or of a device."""
    handle = ctypes.c_void_p()
    return handle if get(*arguments, ctypes.byref(handle)) == 0 else None


def _uuid(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(_UUID_BYTES)
    nvml.nvmlDeviceGetUUID(handle, text, _UUID_BYTES)
    return text.value.decode(errors="replace")


def _parts(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> tuple[str, ...] | None:
    mode, pending, most = ctypes.c_uint(0), ctypes.c_uint(0), ctypes.c_uint(0)
    if nvml.nvmlDeviceGetMigMode(handle, ctypes.byref(mode), ctypes.byref(pending)) != 0 or mode.value == 0:
        return None
    nvml.nvmlDeviceGetMaxMigDeviceCount(handle, ctypes.byref(most))
    parts = [_handle(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index) for index in range(most.value)]
    return tuple(_uuid(nvml, part) for part in parts if part is not None)


def _shown(gpu: Gpu) -> Sequence[str]:
    """What CUDA shows of a GPU: itself, or its MIG devices."""
    return [gpu.uuid] if gpu.parts is None else gpu.parts


def _named(gpus: Sequence[Gpu], name: str) -> str | None:
    """The UUID that an index or the beginning of a UUID means; None for what it does not."""
    if name.startswith(("GPU-", "MIG-")):
        known = (
            [gpu.uuid for gpu in gpus]
            if name.startswith("GPU-")
            else [part for gpu in gpus for part in gpu.parts or ()]
        )
        found = [uuid for uuid in known if uuid.startswith(name)]
        return found[0] if len(found) == 1 else None
    number = re.match(r"\+?(\d+)", name)  # CUDA reads no further
    return gpus[int(number[1])].uuid if number and int(number[1]) < len(gpus) else None


def _of(gpus: Sequence[Gpu], uuid: str) -> Gpu:
    return next(gpu for gpu in gpus if gpu.uuid == uuid)
