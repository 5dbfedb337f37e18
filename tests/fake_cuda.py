"""Enough of torch.cuda on the CPU to run the lanes' own logic: streams that are done at once, graphs that replay.

It refuses what CUDA and PyTorch refuse: a capture is broken by whoever waits for the device and by a garbage
collection, a broken one says so at every call, and its pool must be given back before it is used again. What it
cannot show is whether a GPU agrees: that work on streams overlaps, that a capture records it. Those are
test_engine_gpu.py's.
"""

import gc
import threading
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import torch

from segfast.runtimes import device_lane, graphs, lanes, staging

UNSUPPORTED = "CUDA error: operation not permitted when stream is capturing"
INVALIDATED = "CUDA error: operation failed due to a previous error during capture"


def install(monkeypatch, *modules):
    """Make lanes, and other modules, believe in a GPU."""
    fake = FakeTorch()
    for module in (lanes, device_lane, graphs, staging, *modules):
        monkeypatch.setattr(module, "torch", fake)
    return fake


def pretend(monkeypatch):
    """Make the PyTorch engine believe in a GPU, down to its lanes; what it merges with is the host's."""
    from segfast.runtimes import patch_logits, pytorch

    fake = install(monkeypatch, pytorch)
    private, called, to = pytorch.private, patch_logits.PatchLogits.__call__, torch.Tensor.to
    monkeypatch.setattr(pytorch, "private", lambda model, device, dtype: private(model, "cpu", dtype))
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda x, *args, **options: x if args and str(args[0]).startswith("cuda") else to(x, *args, **options),
    )
    monkeypatch.setattr(
        patch_logits.PatchLogits, "__call__", lambda self, given: fake.network(partial(called, self))(given)
    )
    return fake


class FakeTorch:
    """The module `torch`, with a device `cuda` that is the CPU.

    Attributes:
        recording: the graph that is being captured.
        old: as PyTorch before 2.12, it forgets no pool of a capture that was broken.
        device_waits: calls that wait for the whole device.
        pools: those that captures are filling.
    """

    def __init__(self):
        self.captures, self.replays, self.recording, self.replaying = 0, 0, None, False
        self.streams, self.different_streams = 0, 32
        self.pinned_bytes, self.copies_waited, self.busy = 0, 0, False
        self.device_waits, self.blocking, self.old, self.pools = 0, [], False, []
        self._current = threading.local()
        self.cuda = SimpleNamespace(
            Stream=self._stream,
            Event=self._event,
            CUDAGraph=lambda: Graph(self),
            graph_pool_handle=lambda: (0, 1),
            stream=self._on,
            device=lambda device: nullcontext(),
            current_stream=lambda device=None: getattr(self._current, "stream", _default()),
            current_device=lambda: 0,
            device_count=lambda: 1,
            synchronize=self.synchronize,
            empty_cache=lambda: None,
            is_available=lambda: True,
        )
        self._C = SimpleNamespace(_cuda_endAllocateToPool=self._end_pool, _cuda_releasePool=lambda index, pool: None)

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

    def synchronize(self, device=None):
        """Wait for the device, as any code of the process may."""
        self.device_waits += 1
        if self.recording is not None:
            self.recording.broken = True
            raise RuntimeError(UNSUPPORTED)

    def collected(self, phase, info):
        """A garbage collection frees what may not be freed in a capture."""
        if self.recording is not None:
            self.recording.broken = True

    def network(self, function):
        """A network that a capture records with the memory it reads and writes."""

        def call(given):
            if self.recording is not None:
                self.recording.check()
            result = function(given)
            if self.recording is not None:
                self.recording.check()
                self.recording.calls.append((function, given, result))
            return result

        return call

    def _stream(self, device=None):
        """As PyTorch, it gives out the same few streams again and again."""
        self.streams += 1
        number = self.streams % self.different_streams
        return SimpleNamespace(query=lambda: not self.busy, synchronize=lambda: None, cuda_stream=number, device=device)

    @contextmanager
    def _on(self, stream):
        before = self.cuda.current_stream()
        self._current.stream = stream
        try:
            yield
        finally:
            self._current.stream = before

    def _event(self, blocking=False):
        self.blocking.append(blocking)
        return SimpleNamespace(record=lambda stream=None: None, synchronize=self._waited)

    def _waited(self):
        self.copies_waited += 1

    def _end_pool(self, index, pool):
        if pool not in self.pools:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.pools.remove(pool)


def _default():
    return SimpleNamespace(cuda_stream=0, synchronize=lambda: None)


class Graph:
    """Repeats what was recorded, in the same memory."""

    def __init__(self, fake):
        self.fake, self.calls, self.broken, self.pool = fake, [], False, None

    def capture_begin(self, pool=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"  # other threads go on
        assert self.fake.recording is None
        if pool in self.fake.pools:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.fake.pools.append(pool)
        self.fake.captures += 1
        self.fake.recording, self.pool = self, pool
        gc.callbacks.append(self.fake.collected)

    def capture_end(self):
        gc.callbacks.remove(self.fake.collected)
        self.fake.recording = None
        if not (self.broken and self.fake.old):
            self.fake.pools.remove(self.pool)
        self.check()

    def check(self):
        if self.broken:
            raise RuntimeError(INVALIDATED)

    def reset(self):
        self.calls.clear()

    def replay(self):
        self.fake.replays += 1
        self.fake.replaying = True
        for function, given, result in self.calls:
            result.copy_(function(given))
        self.fake.replaying = False
