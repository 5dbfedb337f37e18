"""`.onnx` → `.engine`: built once, verified where there is a GPU for it, and published with its sidecar."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segfast import files
from segfast.artifacts.golden import Golden, photo
from segfast.artifacts.onnx import Artifact, read_artifact
from segfast.artifacts.plan import Options, Plan
from segfast.artifacts.sidecar import publish, read_plan
from segfast.artifacts.verification import Verification
from segfast.dependencies import tensorrt as trt
from segfast.dependencies.imports import need
from segfast.dependencies.tensorrt import COMPILERS
from segfast.errors import BadModel, CannotWrite, ExportFailed, SegfastError
from segfast.export.alone import alone
from segfast.export.builder import Built, build_plan
from segfast.export.replacing import replaced
from segfast.export.targets import check_engine, has_cuda
from segfast.machine import devices, nvidia


@dataclass(frozen=True)
class EngineReport:
    """What was built.

    Attributes:
        plan: what the sidecar says.
        bytes: of the plan.
        seconds: that the compiler took.
        reused: the file was there already, built from the same `.onnx` file in the same way.
        verification: of its first run; None where no GPU here runs it.
        notes: what was not as asked, or was replaced.
    """

    plan: Plan
    bytes: int
    seconds: float
    reused: bool
    verification: Verification | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        plan, options = self.plan, self.plan.options
        how = f"{COMPILERS[options.compiler].title} {plan.version} for {', '.join(options.targets)}"
        batch = f"batch {options.batch[0]} to {options.batch[2]}, best at {options.batch[1]}"
        if self.reused:
            lines = [f"{plan.path} is up to date ({how}, {batch}); delete it to build it anew"]
        else:
            lines = [f"wrote {plan.path} ({self.bytes / 1e6:.1f} MB, built in {self.seconds:.1f} s by {how}; {batch})"]
        if self.verification is not None:
            lines.append(str(self.verification))
        elif not plan.verified:
            lines.append(
                "not verified: no GPU and PyTorch here run it; the first Engine that opens it on a GPU does that"
            )
        return "\n".join([*lines, *self.notes])


def build_engine(
    onnx: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    compiler: str = "tensorrt",
    targets: str | Sequence[str] | None = None,
    batch: tuple[int, int, int] = Options.batch,
    workspace: int | None = Options.workspace,
    level: int = Options.level,
    hardware: str = Options.hardware,
    version_compatible: bool = Options.version_compatible,
    device: str = "cuda",
    force: bool = False,
) -> EngineReport:
    """Compile one of our `.onnx` files for NVIDIA GPUs.

    Where a GPU here runs the plan, its layers are inspected and its answer for a photo is compared
    with the `.onnx` file's before it is published; otherwise the sidecar says `verified: false`. Of
    several processes that build the same file, one does and the others wait for it.

    Args:
        path: of the plan, `*.engine`; its sidecar is `*.engine.json`.
        compiler: `tensorrt`, for the GPU that is there, or `rtx`, for `targets`, on any x86-64 machine.
        targets: for `rtx`: compute capabilities such as `"sm89,sm120"`; by default that of the GPU here.
        batch, workspace, level, hardware, version_compatible: see `segfast.artifacts.plan.Options`.
        device: `cuda` or `cuda:N`.
        force: let a model of random weights replace a file of trained ones.

    Raises:
        BadOption: an option is out of range, or a trained file would be replaced by one of random weights.
        BadModel: the `.onnx` file is not ours.
        MissingRuntime: the compiler or, for TensorRT, the GPU or a PyTorch with CUDA is not there.
        ExportFailed: the compiler refuses the network, or the plan does not pass; nothing was written.
        CannotWrite: the destination is full, read-only or missing; nothing was written.
    """
    files.check_suffix(path, ".engine")
    source, target = Path(onnx), Path(path)
    device = nvidia.indexed(devices.check_device(device))
    given = Options(trt.check_compiler(compiler), (), batch, workspace, level, hardware, version_compatible).check()
    artifact = _read(source)
    options = replace(given, targets=check_engine(compiler, targets, artifact.precision, device))
    need("export", "onnxruntime", "filelock")
    job = _Job(artifact, source.read_bytes(), target, options, device)
    with alone(target):
        if (current := _current(job)) is not None:
            return EngineReport(current, target.stat().st_size, 0.0, True, None, ())
        old = replaced(target, artifact.config, force)
        report = _build(job)
    return report if old is None else replace(report, notes=(f"it replaced a file of that name: {old}", *report.notes))


@dataclass(frozen=True)
class _Job:
    """A plan to be built.

    Attributes:
        content: of the `.onnx` file.
        target: where the plan goes.
        device: `cuda:N`, which TensorRT builds for and which runs the plan if it can.
    """

    artifact: Artifact
    content: bytes
    target: Path
    options: Options
    device: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def version(self) -> str:
        return trt.load(self.options.compiler).__version__

    @property
    def runs_here(self) -> bool:
        there = devices.nvidia_gpus() > 0 and nvidia.capability(self.device) in self.options.targets
        return there and has_cuda()

    @property
    def timings(self) -> Path:
        """Where the timing cache is kept."""
        return self.target.with_suffix(".timing")


def _read(source: Path) -> Artifact:
    if source.suffix.lower() != ".onnx":
        raise BadModel(f"{source} is no .onnx file; an engine is built from one: python -m segfast.export")
    return read_artifact(source)


def _build(job: _Job) -> EngineReport:
    """Compile, verify if a GPU here can, publish."""
    device = job.device if job.options.compiler == "tensorrt" else None
    with publish(job.target) as write:
        golden = Golden.of(job.artifact.output, _answer(job.artifact))
        start = time.perf_counter()
        built = build_plan(job.content, job.artifact.size, job.options, device=device, timings=_earlier_timings(job))
        seconds = time.perf_counter() - start
        plan = _describe(job, built, golden)
        verification = _verify(plan, bytes(built.plan), job.device) if job.runs_here else None
        plan = replace(plan, verified=verification is not None)
        write(plan, built.plan)
    notes = (*built.notes, *_keep_timings(job, built.timings))
    return EngineReport(plan, built.plan.nbytes, seconds, False, verification, notes)


def _current(job: _Job) -> Plan | None:
    """What is there already, if it is whole and was built from the same file in the same way."""
    try:
        plan = read_plan(job.target)
        wanted = job.digest, job.options, job.version
        if plan is None or (plan.onnx_digest, plan.options, plan.version) != wanted:
            return None
        if job.runs_here and not plan.verified:
            return None
        plan.read()
    except SegfastError:
        return None
    return plan


def _answer(artifact: Artifact) -> NDArray[np.generic]:
    """What the `.onnx` file says of the photo: in ONNX Runtime on the CPU, which keeps to its types."""
    from segfast.runtimes.onnxruntime import ONNXRuntime

    return ONNXRuntime(artifact, "cpu", None).run(photo(artifact.size)[None])


def _describe(job: _Job, built: Built, golden: Golden) -> Plan:
    there = devices.nvidia_gpus() > 0
    return Plan(
        artifact=replace(job.artifact, path=job.target),
        options=job.options,
        version=job.version,
        device=nvidia.device_name(job.device) if there else None,
        driver=nvidia.driver_version(),
        digest=hashlib.sha256(built.plan).hexdigest(),
        onnx=job.artifact.path.name,
        onnx_digest=job.digest,
        nodes=built.nodes,
        golden=golden,
        verified=False,
    )


def _verify(plan: Plan, content: bytes, device: str) -> Verification:
    """Run a plan that is not published yet.

    Raises:
        ExportFailed: it does not pass.
    """
    from segfast.runtimes.tensorrt import TensorRTRuntime

    verification = TensorRTRuntime(plan, plan.path, content, device).verification(plan)
    if verification.failure is not None:
        raise ExportFailed(f"{plan.path} was built but not written: {verification.failure}")
    return verification


def _earlier_timings(job: _Job) -> bytes | None:
    try:
        return job.timings.read_bytes() if job.options.compiler == "tensorrt" else None
    except OSError:
        return None  # there is none, or none that can be read


def _keep_timings(job: _Job, timings: bytes | None) -> tuple[str, ...]:
    """Keep the timing cache beside the plan; the plan is good without it."""
    if timings is None:
        return ()
    try:
        with files.publish(job.timings) as temporary:
            temporary.write_bytes(timings)
    except CannotWrite as error:
        return (f"the timing cache is not kept: {error}",)
    return ()
