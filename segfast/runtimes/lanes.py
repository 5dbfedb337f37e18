"""The lanes of a GPU: a bounded pool for concurrent callers, each of whom holds one for an image or several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from segfast.protocol import Size
from segfast.runtimes.device_lane import Common, DeviceLane
from segfast.runtimes.graphs import Network

# Two lanes keep a device busy: one is staged while the other computes. Each holds its own buffers and graphs.
LANES = 2
# Images whose windows are put together where many are to be had.
GROUP = 8


class Lanes:
    """A bounded pool of lanes on one device.

    Args:
        network: makes a network that one lane alone calls: one for each of its graphs, one for all other calls.
            It must not hold who holds the lanes, or neither dies before a garbage collection.
        device: `cuda`, `cuda:N` or `cpu`.
        window: the size whose batches are captured in graphs; others run without, as they are rare.
        largest: batch; lowered where the device's memory does not hold it.
        limit: of lanes. They are made when they are needed.
    """

    def __init__(self, network: Callable[[], Network], device: str, window: Size, largest: int, limit: int = LANES):
        place = torch.device(device)
        if place == torch.device("cuda"):  # that of the caller now, not of a later thread
            place = torch.device("cuda", torch.cuda.current_device())
        self._common = Common(place, window, largest)
        self._network, self._limit = network, limit
        self._free: list[DeviceLane] = []  # the last one used at the end
        self._made = 0
        self._changed = threading.Condition()
        self._warming = threading.Lock()

    @property
    def largest(self) -> int:
        """Most windows that run at once."""
        return self._common.largest

    @property
    def notes(self) -> list[str]:
        """See `Runtime`."""
        return self._common.notes

    def warm_up(self) -> None:
        """Make all lanes, and let each capture all that it will run: nothing is captured afterwards.

        Raises:
            NotSupported: the device's memory does not hold one window.
        """
        with self._warming, ExitStack() as held:  # two that held a lane each would wait for ever
            for lane in [held.enter_context(self.lane()) for _ in range(self._limit)]:
                lane.warm_up()

    @contextmanager
    def lane(self) -> Iterator[DeviceLane]:
        """See `Runtime`."""
        lane = self._take()
        try:
            yield lane
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify()

    def _take(self) -> DeviceLane:
        """A lane with nothing to do; else a new one; else the one that was given work the longest ago."""
        with self._changed:
            while not self._free and self._made == self._limit:
                self._changed.wait()
            idle = next((lane for lane in reversed(self._free) if lane.idle()), None)
            if idle is not None or self._made == self._limit:
                lane = idle if idle is not None else self._free[0]
                self._free.remove(lane)
                return lane
            self._made += 1
        try:
            return DeviceLane(self._common, self._network)
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise
