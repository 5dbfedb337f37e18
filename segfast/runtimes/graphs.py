"""The CUDA graphs of a lane: each repeats one call of a network that is its own.

A capture is broken by whoever waits for the whole device meanwhile, in any thread of the process, and by a
garbage collection that frees what the device may not free then. We wait for streams and events alone, and
begin no collection. Where somebody else broke a capture, its call runs without a graph, and a later one is
captured again.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from segfast.machine.exhaustion import out_of_memory

# Windows [n, H, W, 3] on the device, uint8 or float32 in 0 … 255 → their logits, on the current stream and without
# waiting for it. What it does must depend on the shape alone, for a graph repeats it.
Network = Callable[[Tensor], Tensor]

# Captures of one call that may be broken before it runs without a graph for good.
TRIES = 3

# Held while a network is launched without a graph or captured in one, and while memory is given back: none of these
# stands another beside it, as PyTorch's allocator and its choice of an attention belong to the whole process.
launching = threading.Lock()


class Graph(NamedTuple):
    """A captured call: what it reads and what it writes never move."""

    windows: Tensor
    answer: Tensor
    graph: torch.cuda.CUDAGraph
    network: Network  # whose memory the graph reads and writes


class Graphs:
    """Graphs by batch and dtype, in memory that they share: they run one after another.

    Args:
        network: makes the network of one graph. A TensorRT context serves one: it keeps what depends on a call.
        stream: on which they are captured; the current one whenever `find` is called.
        broken: told of every capture that was broken: its batch, why, and whether another will be tried.
    """

    def __init__(
        self, network: Callable[[], Network], stream: torch.cuda.Stream, broken: Callable[[int, str, bool], None]
    ):
        self._network, self._stream, self._tell = network, stream, broken
        self._graphs: dict[tuple[int, torch.dtype], Graph] = {}
        self._broken: Counter[tuple[int, torch.dtype]] = Counter()
        self._memory = torch.cuda.graph_pool_handle()

    def __contains__(self, key: tuple[int, torch.dtype]) -> bool:
        """Whether there is a graph of a batch and dtype."""
        return key in self._graphs

    def find(self, like: Tensor) -> Graph | None:
        """The graph of a batch of this shape and dtype, captured now if it is not there; None if that is in vain.

        Raises:
            RuntimeError: the network itself fails, or memory runs out.
        """
        key = len(like), like.dtype
        if key not in self._graphs and self._broken[key] < TRIES:
            network, windows = self._network(), torch.zeros_like(like, device=self._stream.device)
            with launching:
                network(windows)  # kernels are compiled and loaded, plans are made
                self._stream.synchronize()
                try:
                    self._graphs[key] = self._capture(network, windows)
                except RuntimeError as error:
                    if out_of_memory(error):
                        raise
                    self._broken[key] += 1
                    self._tell(len(like), str(error).strip().partition("\n")[0], self._broken[key] < TRIES)
        return self._graphs.get(key)

    def forgive(self) -> None:
        """Try again what was in vain."""
        self._broken.clear()

    def clear(self) -> None:
        """Let go of all graphs and of their memory; nothing may run any more."""
        self._graphs.clear()
        self._memory = torch.cuda.graph_pool_handle()

    def _capture(self, network: Network, windows: Tensor) -> Graph:
        """The calls of `torch.cuda.graph`, which would wait for the whole device first, and so break others' captures."""
        torch.cuda.empty_cache()  # a graph's memory is apart from what is kept
        graph = torch.cuda.CUDAGraph()
        try:
            with no_collection():
                # Other threads go on meanwhile.
                graph.capture_begin(self._memory, capture_error_mode="thread_local")
                try:
                    answer = network(windows)
                finally:
                    graph.capture_end()
        except RuntimeError:
            self._abandon(graph)
            raise
        return Graph(windows, answer, graph, network)

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """Let PyTorch's allocator forget a broken capture.

        Before PyTorch 2.12 it goes on filling the capture's pool (pytorch#180395), and refuses to begin there again.
        """
        graph.reset()
        try:
            index = self._stream.device.index
            torch._C._cuda_endAllocateToPool(index, self._memory)
            torch._C._cuda_releasePool(index, self._memory)
        except RuntimeError:  # it has forgotten
            pass


_pausing = threading.Lock()
_pauses, _was_enabled = 0, False


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection begins by itself meanwhile, in any thread; may be nested, also by several threads."""
    global _pauses, _was_enabled
    with _pausing:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _pausing:
            _pauses -= 1
            if _pauses == 0 and _was_enabled:
                gc.enable()
