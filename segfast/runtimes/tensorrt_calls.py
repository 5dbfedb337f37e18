"""Calls of a deserialised plan of TensorRT or TensorRT-RTX, in PyTorch's memory and on its streams.

Their bindings keep nothing alive that another object still needs: whoever makes one object from another holds
both, and lets go of the younger one first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from segfast.dependencies import tensorrt as trt
from segfast.dependencies.tensorrt import COMPILERS
from segfast.machine import exhaustion
from segfast.runtimes.rtx_kernels import Kernels

if TYPE_CHECKING:
    import tensorrt
    import tensorrt_rtx

# Memory that calls on one stream share, as they run one after another: by device and stream.
_scratch: WeakValueDictionary[tuple[torch.device, int], Tensor] = WeakValueDictionary()


class Program:
    """A deserialised plan: the objects of its library, and what is made from them.

    Args:
        kind: `tensorrt` or `rtx`.
        content: the plan.
        device: `cuda:N`.
        host_code: whether the plan may bring a runtime of its own, as one for several versions does.

    Attributes:
        engine: None if the library refuses the plan.
        input, output: names of its input and output, once they are known.
        smallest: batch of its profile, likewise.
        configured: what contexts of TensorRT-RTX are made from; None for TensorRT.
        kernels: what it compiled for them.
        made: how many contexts there have been.
    """

    input: str
    output: str
    smallest: int

    def __init__(self, kind: str, content: bytes, device: str, host_code: bool):
        self.library = trt.load(kind)
        self.name, self.device, self.made = f"{COMPILERS[kind].title} {self.library.__version__}", device, 0
        self._heard = trt.listen(self.library)
        with torch.cuda.device(device):
            self._runtime = self.library.Runtime(self._heard.log)
            self._runtime.engine_host_code_allowed = host_code
            self.engine = self._runtime.deserialize_cuda_engine(content)
        self.kernels: Kernels | None = None
        self.configured = self._configure() if kind == "rtx" and self.engine is not None else None

    def __del__(self) -> None:
        for name in ("configured", "kernels", "engine", "_runtime"):
            self.__dict__.pop(name, None)

    def context(self, batch: int) -> tensorrt.IExecutionContext:
        """A context for one batch, without memory; who holds it holds this program, and lets go of the context first.

        Raises:
            RuntimeError: the library refuses it.
        """
        how: Any = self.configured
        if how is None:
            how = self.library.ExecutionContextAllocationStrategy.USER_MANAGED
        made = self.engine.create_execution_context(how)
        if made is None:
            raise RuntimeError(self.failure("no execution context"))
        if not made.set_input_shape(self.input, (batch, *self.shape(self.input)[1:])):
            raise RuntimeError(self.failure(f"a batch of {batch} is refused"))
        self.made += 1
        return made

    def execute(self, context: tensorrt.IExecutionContext, scratch: Tensor, windows: Tensor, answer: Tensor) -> None:
        """Begin a call on the current stream: tensors are bound by their addresses.

        Raises:
            RuntimeError: the library refuses it.
        """
        context.set_device_memory(scratch.data_ptr(), scratch.numel())
        bound = context.set_tensor_address(self.input, windows.data_ptr())
        bound = context.set_tensor_address(self.output, answer.data_ptr()) and bound
        if not bound or not context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise RuntimeError(self.failure("a call failed"))

    def answer(self, batch: int) -> Tensor:
        """An empty tensor for the answer of a batch."""
        shape = batch, *self.shape(self.output)[1:]
        return torch.empty(shape, dtype=self.dtype(self.output), device=self.device)

    def names(self) -> tuple[list[str], list[str]]:
        """Names of its inputs and outputs."""
        modes, engine = self.library.TensorIOMode, self.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == modes.INPUT]
        return inputs, [name for name in names if engine.get_tensor_mode(name) == modes.OUTPUT]

    def shape(self, name: str) -> list[int]:
        """Of a tensor; −1 where the profile leaves it open."""
        return list(self.engine.get_tensor_shape(name)[:])

    def dtype(self, name: str) -> torch.dtype | None:
        """Of a tensor; None for what no Segmenter has."""
        kinds = self.library.DataType
        known = {
            kinds.UINT8: torch.uint8,
            kinds.HALF: torch.float16,
            kinds.FLOAT: torch.float32,
            kinds.INT32: torch.int32,
        }
        return known.get(self.engine.get_tensor_dtype(name))

    def layers(self) -> str:
        """What the engine's inspector tells of its layers, as JSON."""
        with torch.cuda.device(self.device):
            context = self.context(self.smallest)  # its shapes make the types known
            inspector = self.engine.create_engine_inspector()
            inspector.execution_context = context  # which it does not hold
            return inspector.get_engine_information(self.library.LayerInformationFormat.JSON)

    def failure(self, what: str) -> str:
        """What the library said last, marked where it means that memory ran out."""
        said = " ".join(self._heard.errors[-1].split())[:300] if self._heard.errors else ""
        self._heard.clear()
        return f"out of memory: {said}" if exhaustion.logged(said) else f"{what}: {said}" if said else what

    def _configure(self) -> tensorrt_rtx.IRuntimeConfig:
        """What contexts of TensorRT-RTX are made from.

        It compiles kernels for a shape in the background unless told otherwise, and a graph would keep the
        slow ones that stand in for them.
        """
        library: Any = self.library
        config = cast("tensorrt_rtx.IRuntimeConfig", self.engine.create_runtime_config())
        config.set_execution_context_allocation_strategy(library.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.dynamic_shapes_kernel_specialization_strategy = library.DynamicShapesKernelSpecializationStrategy.EAGER
        return config


class Network:
    """A way through a plan, for one graph or for all calls without: a context for each batch.

    A graph keeps addresses, and a context what depends on them and on its shape: so each graph has a context of
    its own, as NVIDIA advises (TensorRT#3798), and its addresses are those of its first call ever after.
    """

    def __init__(self, program: Program):
        self._program = program
        self._calls: dict[int, _Call] = {}

    def __call__(self, windows: Tensor) -> Tensor:
        """Answers of windows [n, H, W, 3] on the device, uint8 or float32 in 0 … 255, on the current stream.

        The next call writes over them.
        """
        batch = max(len(windows), self._program.smallest)
        if batch not in self._calls:
            self._calls[batch] = _Call(self._program, batch, windows.device)
        return self._calls[batch](windows)[: len(windows)]


class _Call:
    """A batch's context, and the memory it reads and writes."""

    def __init__(self, program: Program, batch: int, device: torch.device):
        self._program, self._batch = program, batch
        self._context = program.context(batch)
        self._need = max(1, self._context.update_device_memory_size_for_shapes())
        self._scratch = _shared(device, self._need)
        self._answer = program.answer(batch)
        self._bytes: Tensor | None = None

    def __del__(self) -> None:
        self.__dict__.pop("_context", None)

    def __call__(self, windows: Tensor) -> Tensor:
        self._program.execute(self._context, self._scratch[: self._need], self._filled(windows), self._answer)
        return self._answer

    def _filled(self, windows: Tensor) -> Tensor:
        """The windows as the plan takes them: bytes, and black ones up to the batch."""
        count = len(windows)
        if windows.dtype == torch.uint8 and count == self._batch:
            return windows.contiguous()
        if self._bytes is None:
            self._bytes = torch.zeros((self._batch, *windows.shape[1:]), dtype=torch.uint8, device=windows.device)
        self._bytes[:count] = windows if windows.dtype == torch.uint8 else windows.round().clamp(0, 255)
        self._bytes[count:] = 0
        return self._bytes


def _shared(device: torch.device, need: int) -> Tensor:
    """Memory for the calls on the current stream, of at least so many bytes."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    kept = _scratch.get((device, stream))
    if kept is None or kept.numel() < need:
        kept = _scratch[device, stream] = torch.empty(need, dtype=torch.uint8, device=device)
    return kept
