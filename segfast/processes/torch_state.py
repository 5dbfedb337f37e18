"""PyTorch's ambient settings, kept out of what is loaded, made, exported and run, and left as they were.

Default dtype, default device, autocast and inference mode belong to the caller's own tensors. Most of them hold
for one thread, and are put aside for ours in it; the default dtype belongs to the process, where another thread
may rely on it, and is not touched: whatever would ask for it is told float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from segfast.processes import forks

T = TypeVar("T")

# Makers of tensors that take the default dtype where they are given none. `torch.tensor` is told one where we call it.
_MAKERS = {torch.empty, torch.linspace, torch.ones, torch.rand, torch.randn, torch.zeros}


class _Float32(TorchFunctionMode):
    """Tensors are made in float32 where nothing else is said."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _MAKERS and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


@contextmanager
def fresh() -> Iterator[None]:
    """A block that makes ordinary tensors as a fresh process would: float32, on the CPU, without autocast."""
    with torch.device("cpu"), _Float32(), torch.inference_mode(False), torch.autocast("cpu", enabled=False):
        yield


def made(function: Callable[..., T], *args: Any) -> T:
    """What a function makes of tensors in a `fresh` block, in forked children as well."""

    def call() -> T:
        with fresh():
            return function(*args)

    with forks.running():
        return forks.with_threads(call)


class _TrueProducts:
    """Blocks whose float32 matrix products and convolutions on a CPU are in float32, whatever oneDNN was told.

    `torch.set_float32_matmul_precision("medium")`, a usual line for GPUs, has them computed in bf16. The setting belongs
    to the process: it is put back when the last of the blocks that run at once ends.
    """

    _ONEDNN: Any = torch.backends.mkldnn
    _KINDS = _ONEDNN.matmul, _ONEDNN.conv

    def __init__(self) -> None:
        self._lock = forks.Lock()
        self._running = 0
        self._before: list[str] = []
        forks.in_child(self._alone)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            lowered = [kind.fp32_precision not in ("none", "ieee") for kind in self._KINDS]
            if pinned := self._running > 0 or any(lowered):
                self._running += 1
                self._pin()
        try:
            yield
        finally:
            if pinned:
                with self._lock:
                    self._running -= 1
                    self._release()

    def _alone(self) -> None:
        """In a forked child, to which the blocks of other threads did not come along."""
        if self._running:
            self._running = 0
            self._release()

    def _pin(self) -> None:
        if self._running == 1:
            self._before = [kind.fp32_precision for kind in self._KINDS]
            for kind in self._KINDS:
                kind.fp32_precision = "ieee"

    def _release(self) -> None:
        if self._running == 0:
            inherited = self._ONEDNN.fp32_precision
            for kind, value in zip(self._KINDS, self._before, strict=True):
                kind.fp32_precision = "none" if value == inherited else value


true_products = _TrueProducts()
