"""One lane of a GPU: a stream and what belongs to it.

Windows are copied into pinned memory, from there to the device, and through the network, whose logits stay on the
device; `fetch` computes from them on the same stream and brings over only that. The host waits in `fetch` alone, so
that while the device works on one image the next is staged. On `cpu` all of it runs without streams and graphs, for
tests.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segfast.errors import NotSupported
from segfast.kernels import merge_layout
from segfast.kernels.stopping import check
from segfast.machine.exhaustion import REMEDY, out_of_memory
from segfast.protocol import Size
from segfast.runtimes.batches import all_batches, batches
from segfast.runtimes.graphs import TRIES, Graphs, Network, launching
from segfast.runtimes.staging import DTYPES, Staging, Window

# Bytes of an answer that comes through pinned memory, which PyTorch keeps: the labels of 64 megapixels. Scores have more.
PINNED = 1 << 26

# By stream: held while work is queued on it, as a capture takes along whatever any thread queues on its stream. PyTorch
# hands the same 32 streams of a device out again and again, so that lanes of several engines may share one.
_queues: dict[tuple[torch.device, int], threading.Lock] = {}


class Common:
    """What the lanes of a pool have in common. A lane holds this, not the pool: so both die with their engine.

    Attributes:
        device, window, largest: as of `Lanes`.
    """

    def __init__(self, device: torch.device, window: Size, largest: int):
        self.device, self.window, self.largest = device, window, largest
        self._lock = threading.Lock()
        self._lowered = False
        self._broken, self._reason = 0, ""
        self._given_up: set[int] = set()

    @property
    def notes(self) -> list[str]:
        """For people, what is not as it should be."""
        notes, n = [], self.largest
        if self._lowered:
            notes.append(f"at most {n} window{'s' if n > 1 else ''} at once, for want of GPU memory")
        if n := self._broken:
            note = f"{n} capture{'s' if n > 1 else ''} of a CUDA graph broken by other work in this process ({self._reason})"
            without = ", ".join(map(str, sorted(self._given_up)))
            notes.append(note + (f", so that batches of {without} run without one" if without else ""))
        return notes

    def lower(self, batch: int) -> None:
        """Run at most `batch` windows at once from now on."""
        with self._lock:
            if batch < self.largest:
                self.largest, self._lowered = batch, True

    def broke(self, batch: int, reason: str, again: bool) -> None:
        """Note that the capture of a batch was broken, and whether another will be tried."""
        with self._lock:
            self._broken, self._reason = self._broken + 1, reason
            if not again:
                self._given_up.add(batch)


class DeviceLane:
    """One stream with its staging and graphs; see `Lane`. `run` only while it is held, `fetch` at any time."""

    def __init__(self, common: Common, network: Callable[[], Network]):
        self._common, self._device = common, common.device
        self._network = network()  # of calls without a graph
        self._cuda = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if self._cuda else None
        self._queue = _queue(self._device, self._stream)
        self._staging = deque(Staging(self._cuda) for _ in range(2))  # one is filled while the other is copied
        self._graphs = Graphs(network, self._stream, common.broke) if self._stream is not None else None
        self._ran = torch.cuda.Event(blocking=True) if self._cuda else None

    def __del__(self) -> None:
        """Wait for what was begun: an execution context of TensorRT must not go while the device is in it."""
        ran = getattr(self, "_ran", None)
        if ran is not None and not sys.is_finalizing():
            ran.synchronize()

    def warm_up(self) -> None:
        """Run every batch of either dtype that there may be, until its graph is captured; only while the lane is held."""
        largest = 0
        if self._graphs is not None:
            self._graphs.forgive()
        while largest != self._common.largest:  # which falls where memory runs out
            largest = self._common.largest
            for batch, dtype in product(all_batches(largest), DTYPES):
                windows = [np.zeros((*self._common.window, 3), dtype)] * batch
                for _ in range(TRIES):
                    self.run(windows)
                    if self._graphs is None or (batch, DTYPES[dtype]) in self._graphs:
                        break

    def idle(self) -> bool:
        """Whether all that it was given is done; no while something is being queued."""
        if self._stream is None:
            return True
        if not self._queue.acquire(blocking=False):  # captured, perhaps: then it must not be asked
            return False
        try:
            return self._stream.query()
        finally:
            self._queue.release()

    def run(self, windows: Sequence[Window]) -> Tensor:
        """Logits of windows on the device, in memory of their own. See `Lane`.

        Raises:
            NotSupported: the device's memory does not hold one window.
        """
        largest = self._common.largest
        with self._on_stream():
            while True:
                try:
                    logits = self._run(windows, largest)
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                else:
                    self._common.lower(largest)
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

    def _run(self, windows: Sequence[Window], largest: int) -> Tensor:
        logits, start = None, 0
        for count, batch in batches(len(windows), largest):
            check()
            staging = self._staging[0]
            self._staging.rotate()
            staging.fill(windows[start : start + count], batch)  # which may wait for the device
            with self._queue:
                part = self._call(staging)[:count]
                if logits is None:
                    # A copy in any case: the next replay writes over `part`.
                    logits = _empty_like(part, len(windows))
                logits[start : start + count] = part
                if self._ran is not None:
                    self._ran.record()
            start += count
        assert logits is not None, "no windows"
        return logits

    def _call(self, staging: Staging) -> Tensor:
        """Logits of a batch; a graph's are those of its next replay too."""
        filled = staging.filled  # [batch, H, W, 3]
        found = None
        if self._graphs is not None and tuple(filled.shape[1:3]) == self._common.window:
            found = self._graphs.find(filled)
        if found is None:
            windows = torch.empty_like(filled, device=self._device)
            staging.copy_to(windows)
            with launching:
                return self._network(windows)
        staging.copy_to(found.windows)
        found.graph.replay()
        return found.answer

    def _to_host(self, function: Callable[[], Tensor | NDArray[Any]]) -> NDArray[Any]:
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
            pinned = torch.empty(result.shape, dtype=result.dtype, device="cpu", pin_memory=True)
            pinned.copy_(result, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # others have the core meanwhile
            done.record(self._stream)
        done.synchronize()
        return pinned.numpy().copy()  # pinned memory is dear, and returns to PyTorch's

    def _release(self) -> None:
        """Give back what the graphs hold, and what PyTorch keeps."""
        if self._stream is not None and self._graphs is not None:
            with self._queue:
                self._stream.synchronize()
            self._graphs.clear()
        self._release_cache()

    def _release_cache(self) -> None:
        if self._cuda:
            with launching:
                torch.cuda.empty_cache()


def _empty_like(part: Tensor, count: int) -> Tensor:
    """`count` answers to be written: labels, or logits [n, K, h, w] with the classes last, as kernels read them best."""
    shape = count, *part.shape[1:]
    if part.ndim != 4:
        return torch.empty(shape, dtype=part.dtype, device=part.device)
    return merge_layout.empty(shape, part.dtype, part.device)


def _queue(device: torch.device, stream: torch.cuda.Stream | None) -> threading.Lock:
    """The lock of a stream; of none, one of its own."""
    return threading.Lock() if stream is None else _queues.setdefault((device, stream.cuda_stream), threading.Lock())


def _stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)
