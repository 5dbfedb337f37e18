"""What runtimes on a GPU share: lanes for concurrent callers, pinned staging, and a CUDA graph per batch.

A lane is a stream and what belongs to it. Windows are copied into pinned memory, from there to the
device, and through the network, whose logits stay on the device; `fetch` computes from them on the
same stream and brings over only that. The host waits in `fetch` alone, so that while the device works
on one image the next is staged. On `cpu` all of it runs without streams and graphs, for tests.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segfast.errors import NotSupported
from segfast.kernels import merge_layout
from segfast.protocol import Size

# Windows [n, H, W, 3] on the device, uint8 or float32 in 0 … 255 → their logits, on the current stream and without
# waiting for it. What it does must depend on the shape alone, for a graph repeats it.
Network = Callable[[Tensor], Tensor]

# Two lanes keep a device busy: one is staged while the other computes. Each holds its own buffers and graphs.
LANES = 2
# A batch of about so many tokens fills the largest GPUs; more would only hold memory.
TOKENS = 1 << 15
LARGEST = 64
# Images whose windows are put together where many are to be had.
GROUP = 8

# Bytes of an answer that comes through pinned memory, which PyTorch keeps: the labels of 64 megapixels. Scores have more.
PINNED = 1 << 26

# Held while a network is launched without a graph or captured in one, while memory is given back, and while a device is
# waited for: none of these stands another beside it, as PyTorch's allocator and its choice of an attention belong to
# the whole process, and waiting for a device breaks a capture there.
_launch = threading.Lock()
# By stream: held while work is queued on it, as a capture takes along whatever any thread queues on its stream. PyTorch
# hands the same 32 streams of a device out again and again, so that lanes of several engines may share one.
_queues: dict[tuple[torch.device, int], threading.Lock] = {}


def largest_batch(tokens: int) -> int:
    """The power of two up to LARGEST with at most TOKENS tokens, for windows of `tokens` each."""
    return min(LARGEST, 1 << max(0, (TOKENS // tokens).bit_length() - 1))


def batches(count: int, largest: int) -> Iterator[tuple[int, int]]:
    """(windows, batch) of the calls that `count` windows take: batches are powers of two up to `largest`.

    A call may carry empty places, a quarter of it at most: three windows run as four, five as four and one.
    """
    while count:
        batch = min(largest, 1 << (count - 1).bit_length())             # the smallest that holds them all
        if batch > count and 4 * (batch - count) > batch:
            batch //= 2
        taken = min(batch, count)
        yield taken, batch
        count -= taken


class Lanes:
    """A bounded pool of lanes on one device.

    Args:
        network: makes the network of one lane, which no other lane calls.
        device: `cuda`, `cuda:N` or `cpu`.
        window: the size whose batches are captured in graphs; others run without, as they are rare.
        largest: batch; lowered where the device's memory does not hold it.
        limit: of lanes. They are made when they are needed.
    """

    def __init__(self, network: Callable[[], Network], device: str, window: Size, largest: int, limit: int = LANES):
        self.device, self.window, self.largest = torch.device(device), window, largest
        if self.device == torch.device("cuda"):                         # that of the caller now, not of a later thread
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.notes: list[str] = []
        self._network, self._limit = network, limit
        self._free: list[DeviceLane] = []                               # the last one used at the end
        self._made = 0
        self._changed = threading.Condition()

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

    def lower(self, batch: int) -> None:
        """Run at most `batch` windows at once from now on."""
        with self._changed:
            if batch < self.largest:
                self.largest = batch
                self.notes[:] = [f"at most {batch} window{'s' if batch > 1 else ''} at once, for want of GPU memory"]

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
            return DeviceLane(self, self._network())
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise


class _Graph(NamedTuple):
    """A captured call: what it reads and what it writes never move."""

    given: Tensor
    returned: Tensor
    graph: torch.cuda.CUDAGraph


class DeviceLane:
    """One stream with its staging and graphs; see `Lane`. `run` only while it is held, `fetch` at any time."""

    def __init__(self, lanes: Lanes, network: Network):
        self._lanes, self._network, self._device = lanes, network, lanes.device
        self._cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if self._cuda else None
        self._queue = _queue(self._device, self._stream)
        self._staging = deque(_Staging(self._cuda) for _ in range(2))   # one is filled while the other is copied
        self._graphs: dict[tuple[int, torch.dtype], _Graph] = {}
        self._memory = torch.cuda.graph_pool_handle() if self._cuda else None  # shared: they run one after another

    def idle(self) -> bool:
        """Whether all that it was given is done; no while something is being queued."""
        if self._stream is None:
            return True
        if not self._queue.acquire(blocking=False):                     # captured, perhaps: then it must not be asked
            return False
        try:
            return self._stream.query()
        finally:
            self._queue.release()

    def run(self, windows: Sequence[NDArray[Any]]) -> Tensor:
        """Logits of windows on the device, in memory of their own. See `Lane`.

        Raises:
            NotSupported: the device's memory does not hold one window.
        """
        largest = self._lanes.largest
        with self._on_stream():
            while True:
                try:
                    logits = self._run(windows, largest)
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                else:
                    self._lanes.lower(largest)
                    return logits
                # Here the error, whose traceback holds tensors, is gone.
                self._release()
                used = max(batch for _, batch in batches(len(windows), largest))
                if used == 1:
                    raise NotSupported(f"{self._device} has not enough free memory for one window; {REMEDY}")
                largest = used // 2

    def fetch(self, function: Callable[..., Any], *args: Any, **options: Any) -> NDArray[Any]:
        """See `Lane`.

        Raises:
            NotSupported: the device's memory does not hold the result.
        """
        with self._on_stream():
            try:
                return self._to_host(partial(function, *args, **options))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
        self._release_cache()
        raise NotSupported(f"{self._device} has not enough free memory for an image of this size; {REMEDY}")

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        with torch.inference_mode(), _stream(self._stream):
            yield

    def _run(self, windows: Sequence[NDArray[Any]], largest: int) -> Tensor:
        logits, start = None, 0
        for count, batch in batches(len(windows), largest):
            staging = self._staging[0]
            self._staging.rotate()
            staging.fill(windows[start : start + count], batch)         # which may wait for the device
            with self._queue:
                part = self._call(staging)[:count]
                if logits is None:
                    # A copy in any case: the next replay writes over `part`.
                    logits = _empty_like(part, len(windows))
                logits[start : start + count] = part
            start += count
        assert logits is not None, "no windows"
        return logits

    def _call(self, staging: _Staging) -> Tensor:
        """Logits of a batch; a graph's are those of its next replay too."""
        filled = staging.filled                                         # [batch, H, W, 3]
        if not self._cuda or tuple(filled.shape[1:3]) != self._lanes.window:
            given = torch.empty_like(filled, device=self._device)
            staging.copy_to(given)
            with _launch:
                return self._network(given)
        key = len(filled), filled.dtype
        if key not in self._graphs:
            self._graphs[key] = self._capture(torch.zeros_like(filled, device=self._device))
        given, returned, graph = self._graphs[key]
        staging.copy_to(given)
        graph.replay()
        return returned

    def _capture(self, given: Tensor) -> _Graph:
        with _launch:
            self._network(given)                                        # kernels are compiled and loaded, plans are made
            assert self._stream is not None
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads go on meanwhile.
            with torch.cuda.graph(graph, self._memory, self._stream, capture_error_mode="thread_local"):
                returned = self._network(given)
        return _Graph(given, returned, graph)

    def _to_host(self, function: Callable[[], Any]) -> NDArray[Any]:
        """A function's tensor of the device, or array, as an array of the host that nothing else writes to."""
        with self._queue:
            result = function()
            if isinstance(result, np.ndarray):
                return result
            result = result.float() if result.dtype == torch.bfloat16 else result  # NumPy has no bf16
            if self._stream is None:
                return result.numpy().copy()
            if result.nbytes > PINNED:
                return result.cpu().numpy()
            pinned = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            pinned.copy_(result, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)
        done.synchronize()
        return pinned.numpy().copy()                                    # pinned memory is dear, and returns to PyTorch's

    def _release(self) -> None:
        """Give back what the graphs hold, and what PyTorch keeps."""
        if self._stream is not None:
            with self._queue:
                self._stream.synchronize()
            self._memory = torch.cuda.graph_pool_handle()
        self._graphs.clear()
        self._release_cache()

    def _release_cache(self) -> None:
        if self._cuda:
            gc.collect()                                                # engines that nobody has any more hold theirs in cycles
            with _launch:
                torch.cuda.synchronize(self._device)
                torch.cuda.empty_cache()


class _Staging:
    """A buffer of the host from which windows are copied to the device; pinned, so that the copy overlaps."""

    def __init__(self, pinned: bool):
        self._copied = torch.cuda.Event() if pinned else None
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self.filled = self._bytes

    def fill(self, windows: Sequence[NDArray[Any]], batch: int) -> None:
        """Windows [H, W, 3] side by side in the first places of [batch, H, W, 3]; the others are black."""
        if self._copied is not None:
            self._copied.synchronize()                                  # the last copy has been read
        dtype = torch.uint8 if windows[0].dtype == np.uint8 else torch.float32
        shape = batch, *windows[0].shape
        need = int(np.prod(shape)) * dtype.itemsize
        if need > len(self._bytes):
            self._bytes = torch.zeros(need, dtype=torch.uint8, pin_memory=self._copied is not None)
        self.filled = self._bytes[:need].view(dtype).view(shape)
        array = self.filled.numpy()
        for place, window in zip(array, windows, strict=False):
            place[...] = window
        array[len(windows) :] = 0

    def copy_to(self, given: Tensor) -> None:
        """Begin the copy to the device, on the current stream."""
        given.copy_(self.filled, non_blocking=True)
        if self._copied is not None:
            self._copied.record()


REMEDY = (
    "close what else uses it, let go of answers kept from earlier images (their scores are there), "
    "or take a smaller model or device='cpu'"
)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error of PyTorch, or what caused it, is that the device's memory ran out."""
    while error is not None:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text:
            return True
        error = error.__context__
    return False


def _empty_like(part: Tensor, count: int) -> Tensor:
    """`count` answers to be written: labels, or logits [n, K, h, w] with the classes last, as kernels read them best."""
    shape = count, *part.shape[1:]
    if part.ndim != 4:
        return torch.empty(shape, dtype=part.dtype, device=part.device)
    return merge_layout.empty(shape, part.dtype, part.device)


def _queue(device: torch.device, stream: torch.cuda.Stream | None) -> threading.Lock:
    """The lock of a stream; of none, one of its own."""
    return threading.Lock() if stream is None else _queues.setdefault((device, stream.cuda_stream), threading.Lock())


def _stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)
