"""Seconds, bytes and kernels of functions on a device, within a budget of time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.budget import Budget

Function = Callable[[], Any]
ROUNDS = 7
# What one measurement lasts at least: the resolution of CUDA's events is half a microsecond.
LEAST_SECONDS = 2e-3
MOST_CALLS = 64


class Prepared(NamedTuple):
    """A function that repeats a call so many times, the first of which are done."""

    repeat: Function
    calls: int


@dataclass(frozen=True)
class Clock(Budget):
    """A device and the time left for it; see `Budget`."""

    def synchronise(self) -> None:
        """Wait for the device."""
        if not self.rehearsal:
            torch.cuda.synchronize()

    def alive(self) -> bool:
        """Whether the device still answers: after some errors every later call of the process fails."""
        try:
            self.synchronise()
        except Exception:
            return False
        return True

    def free(self) -> None:
        """Give back the memory of what is no longer used. Never raises: a lost device would, and hide the row's own error."""
        gc.collect()
        with suppress(Exception):
            if not self.rehearsal:
                torch.cuda.empty_cache()

    @contextmanager
    def queue(self) -> Iterator[None]:
        """All within is queued on the stream that captures use: autograd runs a backward where its forward ran."""
        if self.rehearsal:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def seconds(self, functions: dict[str, Function], graphs: bool = False) -> dict[str, float]:
        """Median seconds of a call of each, in turns; see `prepare` and `in_turns`."""
        return self.in_turns({name: self.prepare(function, graphs) for name, function in functions.items()})

    def prepare(self, function: Function, graphs: bool = False) -> Prepared:
        """A function ready to be timed: it was called, and is repeated until a measurement lasts long enough.

        Args:
            function: enqueues its work on the current stream.
            graphs: replay the calls as a CUDA graph, as an Engine does, so that the launches cost nothing.
        """
        with self.queue():
            function()  # compiles, plans and allocates
            one = min(self._once(function) for _ in range(1 if self.rehearsal else 2))
        count = max(1, min(MOST_CALLS, round(LEAST_SECONDS / max(one, 1e-6))))

        def loop() -> None:
            for _ in range(count):
                function()

        return Prepared(self._captured(loop) if graphs and not self.rehearsal else loop, count)

    def in_turns(self, prepared: dict[str, Prepared]) -> dict[str, float]:
        """Median seconds of a call of each, in turns, so that a changing clock favours none."""
        samples: dict[str, list[float]] = {name: [] for name in prepared}
        for _ in range(1 if self.rehearsal else ROUNDS):
            for name, (repeat, calls) in prepared.items():
                samples[name].append(self._once(repeat) / calls)
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
            {
                "kernel": event.key[:120],
                "calls": event.count,
                "microseconds": round(getattr(event, name), 1),
                "share": round(getattr(event, name) / total, 3),
            }
            for event in events[:rows]
        ]

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    def _captured(self, function: Function) -> Function:
        """Its calls as a graph. Captured on the stream on which they ran before, within `queue`."""
        graph = torch.cuda.CUDAGraph()
        with self.queue(), torch.cuda.graph(graph, stream=self._stream):
            function()
        return graph.replay

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
