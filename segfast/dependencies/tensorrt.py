"""NVIDIA's compilers, TensorRT and TensorRT-RTX, as libraries; neither is imported before it is needed.

Both have one interface, so all our code is written once, against `Library`: what it uses of either, and nothing
that TensorRT 10.12 or 11 lacks.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from segfast.dependencies import imports
from segfast.errors import BadOption, MissingRuntime

if TYPE_CHECKING:
    import tensorrt


@dataclass(frozen=True)
class Compiler:
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


COMPILERS: Mapping[str, Compiler] = MappingProxyType(
    {
        "tensorrt": Compiler("TensorRT", "tensorrt", "tensorrt", (10, 12)),
        "rtx": Compiler("TensorRT-RTX", "tensorrt_rtx", "tensorrt-rtx-cu13", (1, 7)),
    }
)

# Errors of a library that are kept: the first of a failing build explains the rest.
HEARD = 1000


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


def check_compiler(compiler: object) -> str:
    """`tensorrt` or `rtx`.

    Raises:
        BadOption: it is neither.
    """
    if not isinstance(compiler, str) or compiler not in COMPILERS:
        raise BadOption(f"compiler must be one of {', '.join(COMPILERS)}; got {compiler!r}")
    return compiler


def load(compiler: str) -> Library:
    """A compiler's module.

    Raises:
        MissingRuntime: it is not installed, cannot start, or is too old.
    """
    about, fault = COMPILERS[compiler], "cannot be imported"
    library = cast(Library, imports.load(about.module, about.title, about.pip, fault))
    try:
        found = library.__version__
    except AttributeError as error:  # a folder of that name
        raise MissingRuntime(imports.broken(about.title, about.pip, error, fault)) from error
    if release(found) < about.oldest:
        oldest = ".".join(map(str, about.oldest))
        raise MissingRuntime(f"{about.title} {found} is too old; pip install '{about.pip}>={oldest}'")
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

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity <= library.ILogger.Severity.ERROR:
                self.errors.append(msg.strip())
                self.heard += 1

    return Log()
