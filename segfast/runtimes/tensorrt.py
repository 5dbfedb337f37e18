"""TensorRT and TensorRT-RTX: `.engine` files on NVIDIA GPUs, checked before they are deserialised."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from segfast import classes
from segfast.artifacts.golden import photo
from segfast.artifacts.onnx import Artifact
from segfast.artifacts.plan import Plan, sidecar_path
from segfast.artifacts.sidecar import mark, read_plan
from segfast.artifacts.verification import Verification, verify
from segfast.config import Config
from segfast.dependencies import installation
from segfast.dependencies import tensorrt as trt
from segfast.errors import BadModel, BadOption, CannotWrite, EngineMismatch, MissingRuntime, NotSupported
from segfast.machine import devices, nvidia
from segfast.machine.exhaustion import REMEDY, out_of_memory
from segfast.protocol import Protocol, Size
from segfast.runtimes import Lane
from segfast.runtimes.lanes import GROUP, Lanes
from segfast.runtimes.rtx_kernels import Kernels
from segfast.runtimes.tensorrt_calls import Network, Program

# The first bytes of a plan of TensorRT-RTX; those of TensorRT differ with its options.
_RTX_MAGIC = b"vtrt"


class TensorRTRuntime:
    """A deserialised plan, with a bounded pool of lanes; each has CUDA graphs of its own, each graph an execution context.

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

    on_host = outlives_forks = bytes_only = False

    def __init__(self, plan: Plan | None, path: Path, content: bytes, device: str):
        kind = plan.options.compiler if plan is not None else "rtx" if content.startswith(_RTX_MAGIC) else "tensorrt"
        self.device, self._notes, self._kept = device, list[str](), 0
        # The plan of a compatible version brings a runtime of its own, which is code like the rest of it.
        program = Program(kind, content, device, plan is not None and plan.options.version_compatible)
        self._program, self.name = program, program.name
        if program.engine is None:
            raise self._refused(plan, path)
        program.input, program.output = self._names(path)
        self.artifact = plan.artifact if plan is not None else self._foreign(path)
        self.artifact.check_shapes(program.shape(program.input), program.shape(program.output))
        self.precision = self.artifact.precision
        shapes = program.engine.get_tensor_profile_shape(program.input, 0)
        program.smallest, largest = shapes[0][0], shapes[2][0]
        if program.configured is not None:
            digest = plan.digest if plan is not None else hashlib.sha256(content).hexdigest()
            program.kernels = Kernels(program.configured, path, digest, self._notes.append)
        self._lanes = Lanes(lambda: Network(program), device, self.artifact.size, largest)

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

    def compile_pairs(self) -> None:
        """See `Runtime`; nothing to do: graphs are captured as batches come."""

    def warm_up(self, window: Size) -> None:
        """See `Runtime`."""
        self._lanes.warm_up()
        self._keep_kernels()

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """See `Runtime`."""
        with self._lanes.lane() as lane:
            yield lane
        self._keep_kernels()

    def verification(self, plan: Plan) -> Verification:
        """Run the plan on the photo of its golden answer, and compare."""
        with self._lanes.lane() as lane:  # the plan may not be published yet
            logits = lane.run([photo(self.artifact.size)])
        return verify(plan, self._program.layers(), lane.fetch(lambda: logits))

    def _keep_kernels(self) -> None:
        """Write what TensorRT-RTX compiled for contexts that are new."""
        kernels, made = self._program.kernels, self._program.made
        if kernels is not None and made != self._kept:
            self._kept = made
            kernels.keep()

    def _names(self, path: Path) -> tuple[str, str]:
        """Names of the input and the output."""
        inputs, outputs = self._program.names()
        if (len(inputs), len(outputs)) != (1, 1) or self._program.dtype(inputs[0]) != torch.uint8:
            raise BadModel(f"{path} has other tensors than a Segmenter's: one of bytes, and its answer; {_REMEDY}")
        return inputs[0], outputs[0]

    def _foreign(self, path: Path) -> Artifact:
        """What the tensors of a plan without a sidecar tell: sizes and class count."""
        program = self._program
        windows, answer = program.shape(program.input), program.shape(program.output)
        labels = len(answer) == 3
        if (
            len(windows) != 4
            or windows[3] != 3
            or min(windows[1:3]) < 1
            or len(answer) not in (3, 4)
            or min(answer[1:]) < 1
        ):
            raise BadModel(f"{path} maps {windows} to {answer}, which no Segmenter does; {_REMEDY}")
        size = windows[1], windows[2]
        count = (256 if program.dtype(program.output) == torch.uint8 else 65536) if labels else answer[1]
        names, palette = classes.for_count(count)
        patch = 1 if labels else -(-size[0] // answer[2])
        # The network is compiled: of its architecture only the patch still matters.
        config = Config(
            name="unknown",
            patch=patch,
            width=1,
            depth=1,
            heads=1,
            decoder="linear",
            num_classes=count,
            image_size=size,
            protocol=Protocol((0.5,) * 3, (0.5,) * 3, window=size, stride=size),
            classes=names,
            palette=palette,
        ).check()
        self.note("no sidecar: classes are numbered, and nothing was checked")
        precision = "fp16" if program.dtype(program.output) == torch.float16 else "unknown precision"
        return Artifact(path, config, size, precision, "labels" if labels else "logits")

    def _refused(self, plan: Plan | None, path: Path) -> Exception:
        reason = self._program.failure("it gives no reason")
        if out_of_memory(RuntimeError(reason)):
            return NotSupported(f"{self.device} has not enough free memory for {path}; {REMEDY}")
        remedy = f"build it again: {plan.rebuild()}" if plan is not None else _REMEDY
        return EngineMismatch(f"{self.name} refuses {path} ({reason}); {remedy}")


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
        plan.check_host(trt.load(plan.options.compiler).__version__, capability)
    if not torch.cuda.is_available():
        raise MissingRuntime(f"this PyTorch has no CUDA, which an engine's tensors need; {installation.install('gpu')}")
    runtime = TensorRTRuntime(plan, path, content, device)
    if plan is not None and not plan.verified:
        _verify(runtime, plan)
    if plan is not None:
        _note_device(runtime, plan, nvidia.device_name(device))
    return runtime


def _note_device(runtime: TensorRTRuntime, plan: Plan, here: str) -> None:
    """Say that a plan of TensorRT meets another model of GPU, of the same capability: it runs, but was tuned for its own."""
    if plan.options.compiler == "tensorrt" and plan.options.hardware == "none" and plan.device != here:
        runtime.note(f"built on {plan.device}, here is {here}: slower perhaps than when built here: {plan.rebuild()}")


def _verify(runtime: TensorRTRuntime, plan: Plan) -> None:
    verification = runtime.verification(plan)
    if verification.failure is not None:
        raise EngineMismatch(f"{plan.path} must not be used: {verification.failure}; build it again: {plan.rebuild()}")
    runtime.note(f"verified now: {verification.comparison}; {verification.attention}")
    try:
        mark(plan)
    except (BadModel, CannotWrite) as error:
        runtime.note(f"{sidecar_path(plan.path).name} cannot be marked as verified ({error})")


_REMEDY = "build engines with python -m segfast.export --engine"
