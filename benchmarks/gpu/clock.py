"""Seconds, bytes and kernels of functions on a device, within a budget of time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Function = Callable[[], Any]
# What is measured, and the function that measures it.
Row = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
ROUNDS = 7
# A row takes a few seconds, most of them compiling and checking.
ROW_SECONDS = 12
# What one measurement lasts at least: the resolution of CUDA's events is half a microsecond.
LEAST_SECONDS = 2e-3
MOST_CALLS = 64


@dataclass(frozen=True)
class Clock:
    """A device and the time left for it.

    Attributes:
        device: `cuda`, or `cpu` in a rehearsal.
        deadline: of `time.monotonic`.
    """

    device: str
    deadline: float

    @property
    def rehearsal(self) -> bool:
        """Whether sizes are to be tiny, because nothing here is a GPU."""
        return self.device == "cpu"

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def synchronise(self) -> None:
        """Wait for the device."""
        if not self.rehearsal:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back the memory of what is no longer used."""
        gc.collect()
        if not self.rehearsal:
            torch.cuda.empty_cache()

    def seconds(self, functions: dict[str, Function], graphs: bool = False) -> dict[str, float]:
        """Median seconds of a call of each, in turns, so that a changing clock favours none.

        Args:
            functions: each is called before anything is timed, and enqueues its work on the current stream.
            graphs: replay the calls as a CUDA graph, as an Engine does, so that the launches cost nothing.
        """
        calls = {name: self._many(function, graphs and not self.rehearsal) for name, function in functions.items()}
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(2 if self.rehearsal else ROUNDS):
            for name, (call, count) in calls.items():
                samples[name].append(self._once(call) / count)
        return {name: statistics.median(values) for name, values in samples.items()}

    def peak_bytes(self, function: Function) -> int | None:
        """The most memory of the device that a call holds beyond what was held; None on a CPU."""
        if self.rehearsal:
            return None
        function()
        self.synchronise()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        self.synchronise()
        return int(torch.cuda.max_memory_allocated() - before)

    def profile(self, function: Function, rows: int = 8) -> list[dict[str, Any]]:
        """The kernels that take most of a call's time on the device."""
        activity = torch.profiler.ProfilerActivity
        function()
        self.synchronise()
        with torch.profiler.profile(activities=[activity.CPU if self.rehearsal else activity.CUDA]) as profiler:
            function()
            self.synchronise()
        name = "self_cpu_time_total" if self.rehearsal else "self_device_time_total"
        events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, name))
        total = sum(getattr(event, name) for event in events) or 1.0
        return [
            {"kernel": event.key[:120], "calls": event.count, "microseconds": round(getattr(event, name), 1),
             "share": round(getattr(event, name) / total, 3)}
            for event in events[:rows]
        ]  # fmt: skip

    def attempt(self, row: Row) -> dict[str, Any]:
        """The row, measured; or why it was not."""
        about, measure = row
        if self.left() < ROW_SECONDS:
            return about | {"skipped": f"less than {ROW_SECONDS} s were left"}
        try:
            return about | measure()
        except Exception as error:  # the other rows are worth having
            return about | {"error": f"{type(error).__name__}: {error}"[:500]}
        finally:
            self.free()

    def _many(self, function: Function, graph: bool) -> tuple[Function, int]:
        """A function that does so many calls, and how many they are."""
        function()                                                      # compiles, plans and allocates
        one = min(self._once(function) for _ in range(2))
        count = max(1, min(MOST_CALLS, round(LEAST_SECONDS / max(one, 1e-6))))

        def loop() -> None:
            for _ in range(count):
                function()

        return (_captured(loop) if graph else loop), count

    def _once(self, function: Function) -> float:
        self.synchronise()
        if self.rehearsal:
            start = time.perf_counter()
            function()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def _captured(function: Function) -> Function:
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph, stream=stream):
        function()
    return graph.replay


def target(what: str, wanted: float, got: float, at_most: bool = False) -> dict[str, Any]:
    """One line of a row's targets."""
    met = got <= wanted if at_most else got >= wanted
    return {"what": what, "wanted": wanted, "got": round(got, 4), "met": bool(met)}


def missed(row: dict[str, Any]) -> bool:
    """Whether a row has a target that it does not meet."""
    return any(not one["met"] for one in row.get("targets", []))
