"""PyTorch: checkpoints, unexported, on CPUs and NVIDIA GPUs. Takes windows of any size, resized ones unrounded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segfast import kernels
from segfast.dependencies import choice, imports
from segfast.dependencies.packages import TRITON
from segfast.errors import BadOption, MissingRuntime, NotSupported
from segfast.kernels import attention_table
from segfast.kernels.attend import cudnn_is_right
from segfast.kernels.quota import cut
from segfast.machine.exhaustion import REMEDY, out_of_memory
from segfast.model import Segmenter
from segfast.processes import forks
from segfast.processes.torch_state import true_products
from segfast.protocol import Size
from segfast.runtimes import HostRuntime, Lane
from segfast.runtimes.batches import largest_batch
from segfast.runtimes.graphs import launching
from segfast.runtimes.lanes import GROUP, Lanes
from segfast.runtimes.patch_logits import PatchLogits

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ATTENTIONS = ("triton", "cudnn", "flash", "sdpa")


class PyTorchRuntime(HostRuntime):
    """A Segmenter in evaluation mode, in one precision.

    Weights and activations are of that precision; what follows the mask decoder's last norm is fp32
    in any (`MaskDecoder.forward`).

    Args:
        model: left as it is; its weights are shared where neither device nor precision changes them.
        threads: of the CPU.
        precision: `fp32`, `fp16` or `bf16`. By default fp32 on a CPU; on a GPU fp16, or bf16 where
            the model's activations are too large for fp16.
        attention: one of ATTENTIONS for every length; by default what is fastest.

    Raises:
        BadOption: the precision or attention does not run here, or overflows.
        MissingRuntime: the device is not there.
        NotSupported: its memory does not hold the model.
    """

    name = "PyTorch"
    batch = 1  # of a CPU

    def __init__(
        self,
        model: Segmenter,
        device: str,
        threads: int | None,
        precision: str | None = None,
        attention: str | None = None,
    ):
        _check(device, precision, attention)
        self.device = device
        self._notes: list[str] = []
        self._threads = threads
        protocol = model.config.protocol
        if attention == "cudnn" and protocol.small_windows and not cudnn_is_right(1):
            raise BadOption(
                "attention='cudnn' is wrong for images of some sizes in this cuDNN; leave it out, or use 'flash'"
            )
        try:
            with forks.running():
                self.precision = forks.with_threads(self._load, model, precision, attention)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise NotSupported(f"{device} has not enough free memory for {model.config.name}; {REMEDY}") from None
        self._may_compile = attention == "triton" or (attention is None and bool(attention_table.ROWS))
        self._lanes: Lanes | None = None
        if device != "cpu":
            torch.cuda.current_stream(device).synchronize()  # the lanes' streams wait for no other
            h, w = (-(-side // model.config.patch) for side in protocol.window)
            network = self.logits  # the lanes must not hold the runtime
            self._lanes = Lanes(lambda: network, device, protocol.window, largest_batch(h * w))
            with launching:  # while no attention is pinned
                self._notes.insert(0, f"attention by {self.logits.named_attention(attention)}")
        elif attention is not None:
            self._notes.append(f"attention by {attention}")

    @property
    def notes(self) -> list[str]:
        """See `Runtime`."""
        return self._notes if self._lanes is None else [*self._notes, *self._lanes.notes]

    @property
    def group(self) -> int:
        """See `Runtime`."""
        return super().group if self._lanes is None else GROUP

    @property
    def on_host(self) -> bool:
        """See `Runtime`."""
        return self._lanes is None

    def lane(self) -> AbstractContextManager[Lane]:
        """See `Runtime`."""
        return super().lane() if self._lanes is None else self._lanes.lane()

    @property
    def outlives_forks(self) -> bool:
        """See `Runtime`."""
        return self.device == "cpu"

    def run(self, windows: NDArray[Any]) -> NDArray[Any]:
        """See `HostRuntime`."""
        return forks.with_threads(self._run, windows)

    @torch.inference_mode()
    def _run(self, windows: NDArray[Any]) -> NDArray[Any]:
        with _threads(self._threads), true_products():
            logits = self.logits(torch.tensor(np.ascontiguousarray(windows), device="cpu"))
        return (logits.float() if logits.dtype == torch.bfloat16 else logits).numpy()  # NumPy has no bf16

    def warm_up(self, window: Size) -> None:
        """See `Runtime`."""
        if self._lanes is None:
            super().warm_up(window)
        else:
            self._lanes.warm_up()
            if self._may_compile:
                self._compile_attention()

    def _compile_attention(self) -> None:
        """Compile our attention for any number of tokens: of images in sizes of their own, which no graph holds."""
        from segfast.kernels.attention_warm_up import warm_up

        config = self.logits.model.config
        with launching:
            warm_up(config.heads, config.width // config.heads, DTYPES[self.precision], self.device)

    def _load(self, model: Segmenter, precision: str | None, attention: str | None) -> str:
        """Load the model in the precision asked for, or chosen, and try it; that precision."""
        self.precision = precision or choice.checkpoint_precision(self.device)
        own = private(model, self.device, DTYPES[self.precision])
        if attention is not None:
            own.set_attention(kernels.attention_backend(attention))
        self.logits = PatchLogits(own, free=attention is None)
        if self.device == "cpu" and self.precision == "fp32" and attention is None:
            return self.precision  # nothing that could fail: a quick start
        with launching if self.device != "cpu" else nullcontext():  # a pinned attention is the whole process's
            finite = self._try(attention)
        if finite or self.precision != "fp16":
            return self.precision
        if precision is not None:
            raise BadOption(f"{model.config.name} with these weights overflows in fp16; use precision='bf16' or 'fp32'")
        self._notes.append("bf16, because activations overflow in fp16")
        return self._load(model, "bf16", attention)

    @torch.inference_mode()
    def _try(self, attention: str | None) -> bool:
        """Whether the logits of a noisy, a black and a white window are finite."""
        shape = 1, *self.logits.model.config.protocol.window, 3
        seeded = torch.Generator("cpu").manual_seed(0)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded, device="cpu")
        windows = noise, torch.zeros_like(noise), torch.full_like(noise, 255)
        try:
            return all(bool(self.logits(window.to(self.device)).isfinite().all()) for window in windows)
        except (RuntimeError, ValueError, TypeError) as error:
            if attention is None or out_of_memory(error):
                raise
            reason = imports.brief(error)
            raise BadOption(
                f"attention={attention!r} cannot run this model in {self.precision} on {self.device} ({reason}); "
                "leave it out, or use another"
            ) from error


def private(model: Segmenter, device: str, dtype: torch.dtype) -> Segmenter:
    """The model in evaluation mode on a device in a dtype, itself unchanged; weights that fit are shared."""
    known: dict[int, Any] = {id(model.config): model.config}
    for parameter in model.parameters():
        known[id(parameter)] = nn.Parameter(parameter.detach().to(device, dtype), requires_grad=False)
    return copy.deepcopy(model, known).eval()


def _check(device: str, precision: str | None, attention: str | None) -> None:
    if precision not in (None, *DTYPES):
        raise BadOption(f"precision must be one of {', '.join(DTYPES)}; got {precision!r}")
    if attention not in (None, *ATTENTIONS):
        raise BadOption(f"attention must be one of {', '.join(ATTENTIONS)}; got {attention!r}")
    if device == "cpu":
        if attention not in (None, "sdpa"):
            raise BadOption(f"attention={attention!r} runs on NVIDIA GPUs only; leave it out, or use device='cuda'")
        return
    if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        have = "no NVIDIA GPU" if not found else f"{found} NVIDIA GPU{'s' if found > 1 else ''}"
        raise MissingRuntime(f"PyTorch finds {have} for device={device!r}; use device='cpu', or a PyTorch with CUDA")
    if find_spec("triton") is None:
        raise MissingRuntime(f"Triton, which compiles the GPU's kernels, is not installed; pip install {TRITON}")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many of PyTorch's CPU threads for what this thread computes; the rest of the process keeps its own number.

    By default those it has, which follow the CPUs' affinity but not a quota.
    """
    before = torch.get_num_threads()
    if count is None:
        count = min(before, cut() or before)
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
