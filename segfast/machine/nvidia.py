"""NVIDIA's compilers, TensorRT and TensorRT-RTX, and what the driver says of a GPU; nothing is imported before it is needed.

Both libraries have one interface, so all our code is written once, against `Library`: what it uses
of either, and nothing that TensorRT 10.12 or 11 lacks.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from segfast.dependencies import imports
from segfast.errors import BadOption, MissingRuntime
from segfast.machine import devices
from segfast.machine.nvml import driver_version as driver_version

if TYPE_CHECKING:
    import tensorrt


@dataclass(frozen=True)
class Kind:
    """One of the two compilers.

    Attributes:
        title: its name for people.
        module, pip: what to import, and what to give `pip install`.
        oldest: first version with the interface we use.
    """

    title: str
    module: str
    pip: str
    oldest: tuple[int, int]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "tensorrt": Kind("TensorRT", "tensorrt", "tensorrt", (10, 12)),
        "rtx": Kind("TensorRT-RTX", "tensorrt_rtx", "tensorrt-rtx-cu13", (1, 7)),
    }
)

# Errors of a library that are kept: the first of a failing build explains the rest.
HEARD = 1000
# Numbers of cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256


class Library(Protocol):
    """What is used of `tensorrt` and `tensorrt_rtx`; enumerations and classes are theirs."""

    __version__: str
    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    DataType: type[tensorrt.DataType]
    Dims: type[tensorrt.Dims]
    ExecutionContextAllocationStrategy: type[tensorrt.ExecutionContextAllocationStrategy]
    HardwareCompatibilityLevel: type[tensorrt.HardwareCompatibilityLevel]
    ILogger: type[tensorrt.ILogger]
    IProgressMonitor: type[tensorrt.IProgressMonitor]
    LayerInformationFormat: type[tensorrt.LayerInformationFormat]
    LayerType: type[tensorrt.LayerType]
    MemoryPoolType: type[tensorrt.MemoryPoolType]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
    Runtime: type[tensorrt.Runtime]
    TensorIOMode: type[tensorrt.TensorIOMode]


def check_kind(engine: object) -> str:
    """`tensorrt` or `rtx`.

    Raises:
        BadOption: it is neither.
    """
    if not isinstance(engine, str) or engine not in KINDS:
        raise BadOption(f"engine must be one of {', '.join(KINDS)}; got {engine!r}")
    return engine


def installed(engine: str) -> bool:
    """Whether a compiler's module is there, without importing it."""
    return importlib.util.find_spec(KINDS[engine].module) is not None


def load(engine: str) -> Library:
    """A compiler's module.

    Raises:
        MissingRuntime: it is not installed, cannot start, or is too old.
    """
    kind = KINDS[engine]
    if not installed(engine):
        raise MissingRuntime(f"{kind.title} is not installed; pip install {kind.pip}")
    try:
        library = cast(Library, importlib.import_module(kind.module))
        found = library.__version__
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = imports.brief(error)
        raise MissingRuntime(
            f"{kind.title} cannot be imported ({reason}); pip install --force-reinstall {kind.pip}"
        ) from error
    if release(found) < kind.oldest:
        oldest = ".".join(map(str, kind.oldest))
        raise MissingRuntime(f"{kind.title} {found} is too old; pip install '{kind.pip}>={oldest}'")
    return library


def release(version: str) -> tuple[int, int]:
    """(major, minor) of a version."""
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    return (*numbers, 0, 0)[0], (*numbers, 0, 0)[1]


class Listener:
    """What a library says is wrong from now on, in order.

    Attributes:
        log: what its builders and runtimes are made with.
    """

    def __init__(self, log: Any):
        self.log, self._start = log, log.heard

    @property
    def errors(self) -> list[str]:
        """The last of them, HEARD at most."""
        return list(self.log.errors)[-(self.log.heard - self._start) :] if self.log.heard > self._start else []

    def clear(self) -> None:
        """Forget them."""
        self._start = self.log.heard


def listen(library: Library) -> Listener:
    """A listener to a library's logger.

    There is one logger, which lives as long as the process: a library goes on using the first that it was given,
    whatever the next builder or runtime is given, and whether that first one still lives or not.
    """
    with _listening:
        return Listener(_logger(cast(Any, library)))


_listening = threading.Lock()


@cache
def _logger(library: Any) -> Any:
    """A logger that shows nothing and keeps the last errors."""

    class Log(library.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=HEARD)
            self.heard = 0

        def log(self, severity: Any, msg: str) -> None:
            if severity <= library.ILogger.Severity.ERROR:
                self.errors.append(msg.strip())
                self.heard += 1

    return Log()


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
