"""TensorRT and TensorRT-RTX: `.engine` files on NVIDIA GPUs, checked before they are deserialised."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from segfast import classes, devices, nvidia, origin
from segfast.artifact import Artifact
from segfast.config import Config
from segfast.errors import BadModel, BadOption, CannotWrite, EngineMismatch, MissingRuntime, NotSupported
from segfast.nvidia import KINDS
from segfast.plan import Plan, mark, read_plan, sidecar
from segfast.probe import photo
from segfast.protocol import Protocol
from segfast.runtimes import Lane
from segfast.runtimes.device import GROUP, REMEDY, Lanes, out_of_memory
from segfast.verdict import Verdict, judge

if TYPE_CHECKING:
    import tensorrt
    import tensorrt_rtx

# The first bytes of a plan of TensorRT-RTX; those of TensorRT differ with its options.
_RTX_MAGIC = b"vtrt"


class TensorRTRuntime:
    """A deserialised plan, with a bounded pool of lanes; each has execution contexts and CUDA graphs of its own.

    Args:
        plan: what its sidecar says; None if it has none.
        path: of the plan, for messages.
        content: the plan itself.
        device: `cuda:N`.

    Raises:
        EngineMismatch: the library refuses the plan.
        BadModel: its tensors are not those of a Segmenter.
        NotSupported: the device's memory does not hold it.
    """

    outlives_forks = False

    def __init__(self, plan: Plan | None, path: Path, content: bytes, device: str):
        kind = plan.options.engine if plan is not None else "rtx" if content.startswith(_RTX_MAGIC) else "tensorrt"
        self._library, self.device, self._notes = nvidia.load(kind), device, list[str]()
        self.name, self._kind = f"{KINDS[kind].title} {self._library.__version__}", kind
        self._log = nvidia.logger(self._library)
        with torch.cuda.device(device):
            self._runtime = self._library.Runtime(self._log)
            # The plan of a compatible version brings a runtime of its own, which is code like the rest of it.
            self._runtime.engine_host_code_allowed = plan is not None and plan.options.version_compatible
            engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self._refused(plan, path)
        self._engine = engine
        self._given, self._returned = self._names(path)
        self.artifact = plan.artifact if plan is not None else self._foreign(path)
        self.artifact.check_shapes(self._shape(self._given), self._shape(self._returned))
        self.precision = self.artifact.precision
        shapes = engine.get_tensor_profile_shape(self._given, 0)
        self.smallest, self.largest = shapes[0][0], shapes[2][0]
        self._lanes = Lanes(lambda: _Network(self), device, self.artifact.size, self.largest)

    @property
    def notes(self) -> list[str]:
        """See `Runtime`."""
        return [*self._notes, *self._lanes.notes]

    def note(self, text: str) -> None:
        """Add a note."""
        self._notes.append(text)

    @property
    def group(self) -> int:
        """See `Runtime`."""
        return GROUP

    def widen(self) -> None:
        """See `Runtime`; nothing to do: graphs are captured as batches come."""

    def lane(self) -> AbstractContextManager[Lane]:
        """See `Runtime`."""
        return self._lanes.lane()

    def verdict(self, plan: Plan) -> Verdict:
        """Run the plan on its probe's photo, and judge it."""
        with self._lanes.lane() as lane:
            given = lane.run([photo(self.artifact.size)])
        answer = lane.fetch(lambda: given)
        with torch.cuda.device(self.device):
            inspector = self._engine.create_engine_inspector()
            inspector.execution_context = self.context(self.smallest)       # its shapes make the types known
            information = inspector.get_engine_information(self._library.LayerInformationFormat.JSON)
        return judge(plan, information, answer)

    def context(self, batch: int) -> tensorrt.IExecutionContext:
        """A context for one batch, without memory.

        NVIDIA advises one for each captured graph: a context keeps what depends on its shape.
        """
        made = self._lean_context()
        if made is None:
            raise RuntimeError(self._failure("no execution context"))
        if not made.set_input_shape(self._given, (batch, *self.artifact.size, 3)):
            raise RuntimeError(self._failure(f"a batch of {batch} is refused"))
        return made

    def _lean_context(self) -> tensorrt.IExecutionContext | None:
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._kind == "tensorrt":
            return self._engine.create_execution_context(strategy)
        # TensorRT-RTX compiles kernels for a shape in the background unless told otherwise, and a graph
        # would keep the slow ones that stand in for them.
        import tensorrt_rtx

        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        eager = tensorrt_rtx.DynamicShapesKernelSpecializationStrategy.EAGER
        cast("tensorrt_rtx.IRuntimeConfig", config).dynamic_shapes_kernel_specialization_strategy = eager
        return self._engine.create_execution_context(config)

    def execute(self, context: tensorrt.IExecutionContext, scratch: Tensor, windows: Tensor, answer: Tensor) -> None:
        """Begin a call on the current stream: tensors are bound by their addresses.

        Raises:
            RuntimeError: the library refuses it.
        """
        context.set_device_memory(scratch.data_ptr(), scratch.numel())
        bound = context.set_tensor_address(self._given, windows.data_ptr())
        bound = context.set_tensor_address(self._returned, answer.data_ptr()) and bound
        if not bound or not context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise RuntimeError(self._failure("a call failed"))

    def answer(self, batch: int) -> Tensor:
        """An empty tensor for the answer of a batch."""
        shape = batch, *self._shape(self._returned)[1:]
        return torch.empty(shape, dtype=self._dtype(self._returned), device=self.device)

    def _names(self, path: Path) -> tuple[str, str]:
        """Names of the input and the output."""
        modes, engine = self._library.TensorIOMode, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = [name for name in names if engine.get_tensor_mode(name) == modes.INPUT]
        returned = [name for name in names if engine.get_tensor_mode(name) == modes.OUTPUT]
        if (len(given), len(returned)) != (1, 1) or self._dtype(given[0]) != torch.uint8:
            raise BadModel(f"{path} has other tensors than a Segmenter's: one of bytes, and its answer; {_REMEDY}")
        return given[0], returned[0]

    def _shape(self, name: str) -> list[int]:
        return list(self._engine.get_tensor_shape(name)[:])

    def _dtype(self, name: str) -> torch.dtype | None:
        kinds = self._library.DataType
        known = {kinds.UINT8: torch.uint8, kinds.HALF: torch.float16, kinds.FLOAT: torch.float32, kinds.INT32: torch.int32}
        return known.get(self._engine.get_tensor_dtype(name))

    def _foreign(self, path: Path) -> Artifact:
        """What the tensors of a plan without a sidecar tell: sizes and class count."""
        given, returned = self._shape(self._given), self._shape(self._returned)
        labels = len(returned) == 3
        if len(given) != 4 or given[3] != 3 or min(given[1:3]) < 1 or len(returned) not in (3, 4) or min(returned[1:]) < 1:
            raise BadModel(f"{path} maps {given} to {returned}, which no Segmenter does; {_REMEDY}")
        size = given[1], given[2]
        count = (256 if self._dtype(self._returned) == torch.uint8 else 65536) if labels else returned[1]
        names, palette = classes.for_count(count)
        patch = 1 if labels else -(-size[0] // returned[2])
        # The network is compiled: of its architecture only the patch still matters.
        config = Config(
            name="unknown", patch=patch, width=1, depth=1, heads=1, decoder="linear", num_classes=count, image_size=size,
            protocol=Protocol((0.5,) * 3, (0.5,) * 3, window=size, stride=size), classes=names, palette=palette,
        ).check()  # fmt: skip
        self.note("no sidecar: classes are numbered, and nothing was checked")
        precision = "fp16" if self._dtype(self._returned) == torch.float16 else "unknown precision"
        return Artifact(path, config, size, precision, "labels" if labels else "logits")

    def _refused(self, plan: Plan | None, path: Path) -> Exception:
        reason = self._failure("it gives no reason")
        if out_of_memory(RuntimeError(reason)):
            return NotSupported(f"{self.device} has not enough free memory for {path}; {REMEDY}")
        remedy = f"build it again: {plan.rebuild()}" if plan is not None else _REMEDY
        return EngineMismatch(f"{self.name} refuses {path} ({reason}); {remedy}")

    def _failure(self, what: str) -> str:
        """What the library said last, marked where it means that memory ran out."""
        said = " ".join(self._log.errors[-1].split())[:300] if self._log.errors else ""
        self._log.errors.clear()
        scarce = any(word in said.lower() for word in ("outofmemory", "out of memory", "memory could not be allocated"))
        return f"out of memory: {said}" if scarce else f"{what}: {said}" if said else what


class _Network:
    """A lane's way through a plan: contexts by batch, and memory that PyTorch gives and takes back."""

    def __init__(self, runtime: TensorRTRuntime):
        self._runtime = runtime
        self._contexts: dict[int, tuple[tensorrt.IExecutionContext, int]] = {}

    def __call__(self, windows: Tensor) -> Tensor:
        """Answers of windows [n, H, W, 3] on the device, uint8 or float32 in 0 … 255, on the current stream."""
        if windows.dtype != torch.uint8:
            windows = windows.round().clamp(0, 255).to(torch.uint8)
        count, batch = len(windows), max(len(windows), self._runtime.smallest)
        if count < batch:                                               # under the profile: black windows fill it
            windows = torch.cat([windows, windows.new_zeros(batch - count, *windows.shape[1:])])
        if batch not in self._contexts:
            context = self._runtime.context(batch)
            self._contexts[batch] = context, context.update_device_memory_size_for_shapes()
        context, need = self._contexts[batch]
        # From the graph's own memory while it is captured, which its lane's other graphs share.
        scratch = torch.empty(max(need, 1), dtype=torch.uint8, device=windows.device)
        answer = self._runtime.answer(batch)
        self._runtime.execute(context, scratch, windows.contiguous(), answer)
        return answer[:count]


def open_engine(path: Path, device: str, trusted: bool) -> TensorRTRuntime:
    """An engine file ready to run; one that no GPU has run yet is verified first, and marked.

    Raises:
        BadModel: the file is missing, damaged, or not ours and not vouched for.
        BadOption: the device asked for is the CPU, though there is a GPU.
        MissingRuntime: the GPU or the library is not there.
        EngineMismatch: the plan is not what its sidecar says, is for another GPU or version, or fails its check.
        NotSupported: the GPU's memory does not hold it.
    """
    plan = read_plan(path, trusted)
    content = path.read_bytes() if plan is None else plan.read()
    if device == "cpu":
        kind = BadOption if devices.nvidia_gpus() else MissingRuntime
        raise kind(f"{path} runs on an NVIDIA GPU only; on a CPU use the .onnx file that it was built from")
    device = nvidia.indexed(device)
    capability = nvidia.capability(device)
    if plan is not None:
        plan.check_host(nvidia.load(plan.options.engine).__version__, capability)
    if not torch.cuda.is_available():
        raise MissingRuntime(f"this PyTorch has no CUDA, which an engine's tensors need; {origin.install('gpu')}")
    runtime = TensorRTRuntime(plan, path, content, device)
    if plan is not None and not plan.verified:
        _verify(runtime, plan)
    if plan is not None:
        _note_device(runtime, plan, nvidia.device_name(device))
    return runtime


def _note_device(runtime: TensorRTRuntime, plan: Plan, here: str) -> None:
    """Say that a plan of TensorRT meets another model of GPU, of the same capability: it runs, but was tuned for its own."""
    if plan.options.engine == "tensorrt" and plan.options.hardware == "none" and plan.device != here:
        runtime.note(f"built on {plan.device}, here is {here}: slower perhaps than when built here: {plan.rebuild()}")


def _verify(runtime: TensorRTRuntime, plan: Plan) -> None:
    verdict = runtime.verdict(plan)
    if verdict.failure is not None:
        raise EngineMismatch(f"{plan.path} must not be used: {verdict.failure}; build it again: {plan.rebuild()}")
    runtime.note(f"verified now: {verdict.comparison}; {verdict.attention}")
    try:
        mark(plan)
    except (BadModel, CannotWrite) as error:
        runtime.note(f"{sidecar(plan.path).name} cannot be marked as verified ({error})")


_REMEDY = "build engines with python -m segfast.export --engine"
