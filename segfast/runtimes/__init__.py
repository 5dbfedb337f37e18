"""What runs the network: one class per runtime, all with the same words (`Runtime`, `Lane`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segfast.kernels.stopping import check
from segfast.processes import forks
from segfast.protocol import Size

# From so many windows of an image, or images of a stream, getting ready for many is worth its time.
MANY = 8


class Lane(Protocol):
    """An image's way through a runtime: its logits stay where they are computed until something is fetched."""

    def run(self, windows: Sequence[NDArray[Any]]) -> Any:
        """Logits [n, K, h, w] or labels [n, H, W] of RGB windows [H, W, 3] of one size and dtype, any number of them.

        On a GPU they are its tensor, and may still be on their way when this returns. Only while the lane is held.

        Args:
            windows: uint8, or float32 in 0 … 255 where resizing made them so; runtimes of files
                with uint8 inputs round those.
        """
        ...

    def fetch(self, function: Callable[..., Any], *args: Any, **options: Any) -> NDArray[Any]:
        """What a function of `run`'s answers gives, computed where they are, as an array of the host; at any time."""
        ...


class Runtime(Protocol):
    """A compiled network.

    Attributes:
        name, device, precision: what runs it, where and in which arithmetic, for people.
        bytes_only: its network takes bytes, to which resized windows are rounded.
    """

    name: str
    device: str
    precision: str
    bytes_only: bool

    @property
    def group(self) -> int:
        """How many images at a time it runs best, where many are to be had."""
        ...

    @property
    def on_host(self) -> bool:
        """Whether its lanes give arrays of the host, wherever the network runs."""
        ...

    @property
    def notes(self) -> list[str]:
        """Every fall-back that was taken, for people."""
        ...

    @property
    def outlives_forks(self) -> bool:
        """Whether it runs in forked children of the process that made it."""
        ...

    def compile_pairs(self) -> None:
        """Get ready for many windows, pairs of them on every core, where that costs something."""
        ...

    def warm_up(self, window: Size) -> None:
        """Get ready for any number of windows of a size: nothing is compiled, planned or captured for them later."""
        ...

    def lane(self) -> AbstractContextManager[Lane]:
        """A lane of the caller's own while it is held; threads that find none free wait."""
        ...


class HostRuntime(ABC):
    """What runtimes share that take and give arrays of the host, `batch` windows a call; any thread may call `run`."""

    batch: int
    bytes_only = False

    @property
    def on_host(self) -> bool:
        """See `Runtime`."""
        return True

    @property
    def outlives_forks(self) -> bool:
        """See `Runtime`; libraries with threads of their own do not."""
        return False

    @property
    def group(self) -> int:
        """See `Runtime`."""
        return self.batch

    def compile_pairs(self) -> None:  # noqa: B027 (most have nothing to do)
        """See `Runtime`."""

    def warm_up(self, window: Size) -> None:
        """See `Runtime`: every number of windows that a call may have is run once."""
        self.compile_pairs()
        with self.lane() as lane:
            for count in range(1, self.batch + 1):
                lane.run([np.zeros((*window, 3), np.uint8)] * count)

    @abstractmethod
    def run(self, windows: NDArray[Any]) -> NDArray[Any]:
        """Logits or labels of at most `batch` windows [n, H, W, 3]."""

    def run_all(self, windows: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Logits or labels of any number of windows [H, W, 3], in parts of up to `batch`, one after the other."""
        return [self.call(windows[start : start + self.batch]) for start in range(0, len(windows), self.batch)]

    def call(self, windows: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """`run` of at most `batch` windows [H, W, 3], unless the work was called off."""
        check()
        stacked = np.stack(windows)
        with forks.running():
            return self.run(stacked)

    def lane(self) -> AbstractContextManager[Lane]:
        """See `Runtime`."""
        return nullcontext(_HostLane(self))


class _HostLane:
    """A host runtime as a lane: nothing to wait for."""

    def __init__(self, runtime: HostRuntime):
        self._runtime = runtime

    def run(self, windows: Sequence[NDArray[Any]]) -> NDArray[Any]:
        if len(windows) >= max(MANY, self._runtime.group):
            self._runtime.compile_pairs()
        parts = self._runtime.run_all(windows)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def fetch(self, function: Callable[..., Any], *args: Any, **options: Any) -> NDArray[Any]:
        with forks.running():  # the first time loops are compiled
            result: NDArray[Any] = function(*args, **options)
        return result


def to_bytes(windows: NDArray[Any]) -> NDArray[np.uint8]:
    """Windows as uint8 and contiguous: resized ones are rounded to the nearest value."""
    if windows.dtype != np.uint8:
        windows = np.rint(windows).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(windows)
