"""A machine as the doctor describes it. What it does not tell is None, and a question that fails is a warning."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from segfast.kernels import quota
from segfast.machine import cache, cpu, memory

T = TypeVar("T")


@dataclass(frozen=True)
class Cpu:
    """The CPU and its memory.

    Attributes:
        instructions: which of the sets that matter it has.
        cores: that this process may use, by affinity and quota.
        memory_bytes: at most what a container is allowed.
    """

    model: str | None
    instructions: dict[str, bool] | None
    cores: int | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Gpus:
    """The NVIDIA GPUs that the driver shows.

    Attributes:
        driver: its version.
        capabilities: compute capability of each, such as `sm89`.
    """

    count: int
    driver: str | None
    capabilities: list[str]


@dataclass(frozen=True)
class Cache:
    """The cache directory.

    Attributes:
        bytes: of all that is in it.
        writable: it is, or can be made.
    """

    path: str | None
    bytes: int | None
    writable: bool


@dataclass(frozen=True)
class Machine:
    """All of it; `system` is its name and version."""

    system: str | None
    cpu: Cpu
    gpus: Gpus
    cache: Cache


class Inquiry:
    """Questions that may fail in any way without stopping who asks.

    Attributes:
        warnings: what could not be answered, and why.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def ask(self, question: Callable[[], T], otherwise: T, what: str) -> T:
        """The answer, or `otherwise` and a warning: "cannot `what`"."""
        try:
            return question()
        except Exception as error:
            self.warnings.append(f"cannot {what} ({error or type(error).__name__})")
            return otherwise

    def gpus(self) -> int:
        """How many NVIDIA GPUs there are."""
        return self.ask(_count_gpus, 0, "count the NVIDIA GPUs")

    def machine(self, gpus: int) -> Machine:
        """The rest, for so many GPUs."""
        return Machine(
            self.ask(platform.platform, None, "name the system"),
            Cpu(
                self.ask(cpu.cpu_model, None, "name the CPU"),
                self.ask(cpu.instructions, None, "read the instruction sets"),
                self.ask(quota.cpus, None, "count the cores"),
                self.ask(memory.total, None, "read the memory"),
            ),
            Gpus(
                gpus,
                self.ask(_driver, None, "ask for the NVIDIA driver"),
                self.ask(lambda: _capabilities(gpus), list[str](), "ask for the GPUs' compute capability"),
            ),
            self.ask(_cache, Cache(None, None, False), "find the cache directory"),
        )


def _count_gpus() -> int:
    from segfast.machine import devices  # needs ctypes, which some Pythons lack

    return devices.nvidia_gpus()


def _driver() -> str | None:
    from segfast.machine import nvidia

    return nvidia.driver_version()


def _capabilities(gpus: int) -> list[str]:
    from segfast.machine import nvidia

    return [nvidia.capability(f"cuda:{index}") for index in range(gpus)]


def _cache() -> Cache:
    path = cache.cache_directory().absolute()
    return Cache(str(path), cache.size(path), cache.writable(path))
