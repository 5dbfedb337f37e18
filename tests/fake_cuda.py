"""Enough of torch.cuda on the CPU to run the lanes' own logic: streams that are done at once, graphs that replay.

What it cannot show is whether a GPU agrees: that work on streams overlaps, that a capture records it. Those are
test_engine_gpu.py's.
"""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import torch


class FakeTorch:
    """The module `torch`, with a device `cuda` that is the CPU."""

    def __init__(self):
        self.captures, self.replays, self.recording = 0, 0, None
        self.streams, self.different_streams = 0, 32
        self.pinned_bytes, self.copies_waited, self.busy = 0, 0, False
        self.cuda = SimpleNamespace(
            Stream=self._stream,
            Event=lambda: SimpleNamespace(record=lambda stream=None: None, synchronize=self._waited),
            CUDAGraph=lambda: Graph(self),
            graph=self._capture,
            graph_pool_handle=lambda: (0, 1),
            stream=lambda stream: nullcontext(),
            current_device=lambda: 0,
            synchronize=lambda device=None: None,
            empty_cache=lambda: None,
        )

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, *shape, device=None, pin_memory=False, **options):
        self.pinned_bytes += pin_memory
        return torch.empty(*shape, **options)

    def zeros(self, *shape, device=None, pin_memory=False, **options):
        self.pinned_bytes += pin_memory
        return torch.zeros(*shape, **options)

    def zeros_like(self, x, device=None):
        return torch.zeros_like(x)

    def empty_like(self, x, device=None):
        return torch.empty_like(x)

    def _stream(self, device=None):
        """As PyTorch, it gives out the same few streams again and again."""
        self.streams += 1
        number = self.streams % self.different_streams
        return SimpleNamespace(query=lambda: not self.busy, synchronize=lambda: None, cuda_stream=number)

    def _waited(self):
        self.copies_waited += 1

    @contextmanager
    def _capture(self, graph, pool=None, stream=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"  # other threads go on
        assert self.recording is None
        self.captures += 1
        self.recording = graph
        try:
            yield
        finally:
            self.recording = None

    def network(self, function):
        """A network that a capture records with the memory it reads and writes."""

        def call(given):
            result = function(given)
            if self.recording is not None:
                self.recording.calls.append((function, given, result))
            return result

        return call


class Graph:
    """Repeats what was recorded, in the same memory."""

    def __init__(self, fake):
        self.fake, self.calls = fake, []

    def replay(self):
        self.fake.replays += 1
        for function, given, result in self.calls:
            result.copy_(function(given))
