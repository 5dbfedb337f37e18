"""What this machine has, what an Engine would use here, and what is missing with the command that gets it.

    python -m segfast.doctor

Ends with one JSON line. The exit code is 0 if an Engine that is told no device can run an
`.onnx` file here, else 1.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from segfast import __version__, cli
from segfast.dependencies import choice, inspection, installation
from segfast.dependencies.inspection import Found
from segfast.dependencies.packages import PACKAGES
from segfast.dependencies.tensorrt import COMPILERS
from segfast.machine.cpu import has_int8
from segfast.machine.facts import Inquiry, Machine


@dataclass(frozen=True)
class Outlook:
    """Whether an Engine runs models of one kind here; how, or why not."""

    runs: bool
    text: str


@dataclass(frozen=True)
class Report:
    """All that the doctor says.

    Attributes:
        packages: by module.
        engine: of the kinds of model, `onnx`, `checkpoints` and `engines`.
    """

    machine: Machine
    packages: dict[str, Found]
    engine: dict[str, Outlook]
    warnings: list[str]


def main() -> int:
    """Print the report for people, then as one JSON line; 0 if an Engine can run an `.onnx` file."""
    cli.parser("segfast.doctor", __doc__).parse_args()
    report = examine()
    print("\n".join(describe(report)))
    print(json.dumps(values(report)))
    return 0 if report.engine["onnx"].runs else 1


def examine() -> Report:
    """Look at everything; None where this system does not tell."""
    inquiry = Inquiry()
    gpus = inquiry.gpus()
    device = "cuda" if gpus else "cpu"
    packages = inspection.examine(device)
    inquiry.warnings += inspection.conflicts()
    machine = inquiry.machine(gpus)
    outlooks = {
        "onnx": of_onnx(packages, device),
        "checkpoints": of_checkpoints(packages, device),
        "engines": of_engines(packages, gpus),
    }
    return Report(machine, packages, outlooks, inquiry.warnings)


def values(report: Report) -> dict[str, object]:
    """The report as the JSON line has it."""
    machine = report.machine
    return {
        "segfast": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": machine.system,
        "cpu": asdict(machine.cpu),
        "nvidia_gpus": machine.gpus.count,
        "nvidia_driver": machine.gpus.driver,
        "capabilities": machine.gpus.capabilities,
        "packages": {name: asdict(found) for name, found in report.packages.items()},
        "engine": {kind: asdict(outlook) for kind, outlook in report.engine.items()},
        "cache": asdict(machine.cache),
        "warnings": report.warnings,
    }


def describe(report: Report) -> list[str]:
    """The report's lines."""
    cpu, gpus, cache = report.machine.cpu, report.machine.gpus, report.machine.cache
    memory = "?" if cpu.memory_bytes is None else f"{cpu.memory_bytes / 2**30:.1f} GiB"
    size = "?" if cache.bytes is None else f"{cache.bytes / 1e6:.1f} MB"
    return [
        f"segfast {__version__}, Python {platform.python_version()} ({sys.executable})",
        f"system       {report.machine.system or '?'}",
        f"CPU          {cpu.model or '?'}: {cpu.cores or '?'} cores usable, memory {memory}",
        f"  has        {_names(cpu.instructions, True)}",
        f"  lacks      {_names(cpu.instructions, False)}",
        f"NVIDIA GPUs  {gpus.count} seen by the driver{''.join(f', {name}' for name in gpus.capabilities)}",
        f"driver       {gpus.driver or 'no NVIDIA driver'}",
        "",
        *(line for package in PACKAGES for line in _lines(package.module, package.purpose, report.packages)),
        "",
        *(f"{label:<12} {report.engine[kind].text}" for kind, label in _KINDS.items()),
        f"{'cache':<12} {cache.path or '?'}: {size}, {'' if cache.writable else 'not '}writable",
        *(f"warning: {text}" for text in report.warnings),
    ]


_KINDS = {"onnx": ".onnx files", "checkpoints": "checkpoints", "engines": "engine files"}


def _lines(module: str, purpose: str, packages: Mapping[str, Found]) -> list[str]:
    """What is said of a package."""
    found = packages[module]
    if not found.present:
        return [f"{module:<12} missing: {purpose}; {found.get}"]
    detail = f" ({found.detail})" if found.detail else ""
    broken = [f"{'':12} broken: {found.error}; {found.get}"] if found.error else []
    return [f"{module:<12} {found.version or '?'}{detail}", *broken]


def _names(sets: dict[str, bool] | None, wanted: bool) -> str:
    if sets is None:
        return "?"
    return " ".join(name for name, there in sets.items() if there == wanted) or "-"


def of_onnx(packages: Mapping[str, Found], device: str) -> Outlook:
    """What an Engine runs `.onnx` files in when it is told no device."""
    for name in ("numpy", "PIL"):
        if not packages[name].present:
            return _cannot(_trouble(name, packages))
    known = {name: _said(name, found) for name, found in packages.items() if not found.works and not found.fatal}
    runtime, why = choice.for_onnx(None, device, known)
    found = packages[runtime]
    if not found.works:
        return _cannot(_trouble("openvino" if why and not found.present else runtime, packages))
    offers = (found.detail or "").split(", ")
    if device != "cpu" and "CUDAExecutionProvider" not in offers:
        return _cannot(
            "the installed onnxruntime has no CUDA; pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        )
    if error := inspection.trial("engine").error:
        return _cannot(f"segfast.engine cannot be imported ({error}); {installation.install()}")
    if runtime == "onnxruntime":
        because = f", as {why}" if packages["openvino"].present and why else ""
        return Outlook(True, f"ONNX Runtime on {device}: every file in its own precision{because}{_slower(packages)}")
    half, rest = (choice.openvino_precision(precision, offers) for precision in ("fp16", "int8"))
    whole = f"int8 over {rest}" if has_int8() else f"{rest} (this CPU has no int8)"
    return Outlook(
        True, f"OpenVINO on cpu: fp16 files in {half}, int8 files in {whole}, fp32 files in fp32{_slower(packages)}"
    )


def of_checkpoints(packages: Mapping[str, Found], device: str) -> Outlook:
    """What an Engine runs checkpoints in."""
    torch, triton, precision = packages["torch"], packages["triton"], choice.checkpoint_precision(device)
    if not torch.present:
        return _cannot(_trouble("torch", packages))
    if device != "cpu" and not triton.present:
        return _cannot(f"triton, which compiles the GPU's kernels, is missing; {triton.get}")
    if device != "cpu" and torch.detail == "no CUDA":
        return _cannot(
            "this PyTorch has no CUDA, and an Engine takes the GPU unless told device='cpu'; pip install torch"
        )
    if torch.error:
        return _cannot(_trouble("torch", packages))
    if device == "cpu":
        return Outlook(True, f"PyTorch on cpu in {precision}{_slower(packages)}")
    built = f"PyTorch {torch.version or '?'} ({torch.detail or 'CUDA unknown'}), Triton {triton.version or '?'}"
    return Outlook(True, f"{built} on {device} in {precision}")


def of_engines(packages: Mapping[str, Found], gpus: int) -> Outlook:
    """What builds `.engine` files here, and whether they run."""
    ready = [compiler.module for compiler in COMPILERS.values() if packages[compiler.module].works]
    builds = "; built here for any RTX GPU by TensorRT-RTX" if "tensorrt_rtx" in ready else ""
    if not gpus:
        return _cannot(f"there is no NVIDIA GPU{builds}")
    if not ready:
        return _cannot(f"TensorRT is missing; {packages['tensorrt'].get}")
    torch = packages["torch"]
    if not torch.present or torch.detail == "no CUDA":
        return _cannot(f"their tensors are those of a PyTorch with CUDA; {torch.get}{builds}")
    return Outlook(True, f"those that {' or '.join(ready)} of the same version built for this GPU")


def _cannot(reason: str) -> Outlook:
    return Outlook(False, f"cannot run: {reason}")


def _trouble(name: str, packages: Mapping[str, Found]) -> str:
    """What is wrong with a package, and the command that mends it."""
    return f"{_said(name, packages[name])}; {packages[name].get}"


def _said(name: str, found: Found) -> str:
    return f"{name} is {'broken' if found.present else 'missing'}"


def _slower(packages: Mapping[str, Found]) -> str:
    """What is said where numba's loops do not run."""
    numba = packages["numba"]
    return "" if numba.works else f"; windows merged in NumPy, slower, as {_said('numba', numba)}"


if __name__ == "__main__":
    cli.run(main)
