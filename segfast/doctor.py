"""What this machine has, what an Engine would use here, and what is missing with the command that gets it.

    python -m segfast.doctor

Ends with one JSON line. The exit code is 0 if an Engine that is told no device can run an
`.onnx` file here, else 1.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from segfast import __version__, cli
from segfast.dependencies import installation
from segfast.dependencies.packages import ONNX_RUNTIME, PACKAGES, Package

T = TypeVar("T")

# What the runtimes choose their arithmetic by, as Linux names it.
X86 = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "avx512_fp16")
ARM = ("asimdhp", "bf16", "i8mm")

# A model of one Identity: a session with it shows whether a provider really starts.
_IDENTITY = (
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a0208"
    "0142040a00100d"
)
# What builds and runs `.engine` files.
COMPILERS = ("tensorrt", "tensorrt_rtx")
# Run in a process of their own: a broken library may end it, and must not end the doctor.
_PROBES = {
    "openvino": "from segfast.runtimes.openvino import tolerate_no_home; tolerate_no_home()\n"
    "import openvino; core = openvino.Core(); answer = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')",
    "onnxruntime": f"""
import onnxruntime, sys
if sys.argv[1] != "cpu" and hasattr(onnxruntime, "preload_dlls"): onnxruntime.preload_dlls()
wanted = ["CPUExecutionProvider" if sys.argv[1] == "cpu" else "CUDAExecutionProvider"]
answer = onnxruntime.get_available_providers()
if wanted[0] in answer:
    options = onnxruntime.SessionOptions(); options.log_severity_level = 3
    started = onnxruntime.InferenceSession(bytes.fromhex("{_IDENTITY}"), options, wanted).get_providers()
    if started[0] != wanted[0]: sys.exit(wanted[0] + " does not start")
""",
    "numba": "import numba; from segfast.kernels import merge_cpu; merge_cpu.trial(); answer = []",
    "torch": "import torch; answer = []",
    "tensorrt": "import tensorrt; answer = []",
    "tensorrt_rtx": "import tensorrt_rtx; answer = []",
    "engine": "import segfast.engine; answer = []",
}

_ENDS = "importing it ends Python with"


def main() -> int:
    """Print the report for people, then as one JSON line; 0 if an Engine can run an `.onnx` file."""
    cli.parser("segfast.doctor", __doc__).parse_args()
    found = examine()
    print("\n".join(describe(found)))
    print(json.dumps(found))
    return 0 if found["engine"]["onnx"]["runs"] else 1


def examine() -> dict[str, Any]:
    """Everything the report says, as plain values; None where this system does not tell."""
    warnings: list[str] = []
    gpus = _ask(_gpus, 0, warnings, "count the NVIDIA GPUs")
    device = "cuda" if gpus else "cpu"
    packages = {package.module: _package(package) for package in PACKAGES}
    _try(packages, device)
    warnings += _conflicts()
    return {
        "segfast": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": _ask(platform.platform, None, warnings, "name the system"),
        "cpu": {
            "model": _ask(cpu_model, None, warnings, "name the CPU"),
            "instructions": _ask(instructions, None, warnings, "read the instruction sets"),
            "cores": _ask(cores, None, warnings, "count the cores"),
            "memory_bytes": _ask(_memory, None, warnings, "read the memory"),
        },
        "nvidia_gpus": gpus,
        "nvidia_driver": _ask(_driver, None, warnings, "ask for the NVIDIA driver"),
        "capabilities": _ask(
            lambda: _capabilities(gpus), list[str](), warnings, "ask for the GPUs' compute capability"
        ),
        "packages": packages,
        "engine": {
            "onnx": _onnx_default(packages, device),
            "checkpoints": _checkpoint_default(packages, device),
            "engines": _engine_default(packages, gpus),
        },
        "cache": _ask(_cache, {"path": None, "bytes": None, "writable": False}, warnings, "find the cache directory"),
        "warnings": warnings,
    }


def _try(packages: dict[str, Any], device: str) -> None:
    """Import what is there and may be broken, and note what comes of it: all at once, PyTorch alone takes seconds."""
    names = [name for name in _PROBES if name in packages and packages[name]["present"]]
    with ThreadPoolExecutor(len(names) or 1) as pool:
        for name, answer in zip(names, pool.map(lambda name: _probe(name, device), names), strict=True):
            entry = packages[name]
            entry |= {"detail": entry["detail"] or answer["detail"] or None, "error": answer["error"]}
            if answer["error"]:
                entry["get"] = _mend(name, answer["error"])


def describe(found: dict[str, Any]) -> list[str]:
    """The report's lines."""
    cpu, cache = found["cpu"], found["cache"]
    memory = "?" if cpu["memory_bytes"] is None else f"{cpu['memory_bytes'] / 2**30:.1f} GiB"
    sets = cpu["instructions"]
    lines = [
        f"segfast {found['segfast']}, Python {found['python']} ({found['executable']})",
        f"system       {found['system'] or '?'}",
        f"CPU          {cpu['model'] or '?'}: {cpu['cores'] or '?'} cores usable, memory {memory}",
        f"  has        {_names(sets, True)}",
        f"  lacks      {_names(sets, False)}",
        f"NVIDIA GPUs  {found['nvidia_gpus']} seen by the driver{''.join(f', {name}' for name in found['capabilities'])}",
        f"driver       {found['nvidia_driver'] or 'no NVIDIA driver'}",
        "",
    ]
    for package in PACKAGES:
        entry = found["packages"][package.module]
        if entry["present"]:
            detail = f" ({entry['detail']})" if entry["detail"] else ""
            lines.append(f"{package.module:<12} {entry['version'] or '?'}{detail}")
            if entry["error"]:
                lines.append(f"{'':12} broken: {entry['error']}; {entry['get']}")
        else:
            lines.append(f"{package.module:<12} missing: {package.purpose}; {entry['get']}")
    lines.append("")
    for what, label in (("onnx", ".onnx files"), ("checkpoints", "checkpoints"), ("engines", "engine files")):
        lines.append(f"{label:<12} {found['engine'][what]['text']}")
    size = "?" if cache["bytes"] is None else f"{cache['bytes'] / 1e6:.1f} MB"
    lines.append(f"{'cache':<12} {cache['path'] or '?'}: {size}, {'' if cache['writable'] else 'not '}writable")
    return lines + [f"warning: {text}" for text in found["warnings"]]


def cpu_model() -> str | None:
    """The CPU's name, if the system tells."""
    named = _cpuinfo("model name") or platform.processor() or platform.machine()
    return named or None


def cores() -> int:
    """How many cores this process may use, by affinity and quota."""
    from segfast.kernels.quota import cpus

    return cpus()


def instructions() -> dict[str, bool] | None:
    """Which of the instruction sets that matter the CPU has; None where the system does not tell."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    if not flags:
        return None
    wanted = ARM if platform.machine().lower() in ("aarch64", "arm64") else X86
    return {name: name in flags for name in wanted}


def version(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except Exception:  # absent, or its metadata is damaged
        return None


def peak_memory() -> int | None:
    """The most memory this process has held, in bytes, if the system tells."""
    status = _read("/proc/self/status")
    if match := re.search(r"VmHWM:\s+(\d+) kB", status):  # ru_maxrss is inherited on Linux
        return int(match[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _package(package: Package) -> dict[str, Any]:
    """Whether a package is there, its version, and the command that gets or mends it."""
    spec = _spec(package.module)
    present = getattr(spec, "origin", None) is not None  # a folder of that name is no package
    found = next((v for v in map(version, package.distributions) if v), None) if present else None
    entry = {"present": present, "version": found, "detail": None, "error": None, "get": f"pip install {package.pip}"}
    if present and package.module == "torch":
        entry["detail"] = _torch_cuda(spec)
    return entry


def _spec(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except Exception:  # a damaged finder or parent
        return None


def _torch_cuda(spec: Any) -> str | None:
    """The CUDA that PyTorch was built for, read without importing it."""
    folder = next(iter(getattr(spec, "submodule_search_locations", None) or ()), "")
    if match := re.search(r"^cuda\b.*?=\s*(.+)$", _read(os.path.join(folder, "version.py")), re.MULTILINE):
        number = match[1].strip("'\" ")
        return "no CUDA" if number == "None" else f"CUDA {number}"
    return None


def _mend(module: str, error: str) -> str:
    if "CUDAExecutionProvider" in error:  # NVIDIA's libraries, beside the package itself
        return "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return f"pip install --force-reinstall {_pip(module)}"


def _probe(name: str, device: str = "cpu") -> dict[str, Any]:
    """`detail` and `error` of a package that is asked in a process of its own."""
    code = f"import json\n{_PROBES[name]}\nprint('\\n' + json.dumps(answer))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        ended = subprocess.run(  # noqa: S603 (our own code)
            [sys.executable, "-c", code, device],
            capture_output=True,
            env=environment,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        if ended.returncode:
            lines = ended.stderr.decode(errors="replace").strip().splitlines()
            return {"detail": None, "error": lines[-1] if lines else _ending(ended.returncode)}
        return {"detail": ", ".join(json.loads(ended.stdout.splitlines()[-1])), "error": None}
    except Exception as error:  # no process, no answer in time, no JSON
        return {"detail": None, "error": str(error) or type(error).__name__}


def _ending(code: int) -> str:
    if code < 0 and -code in set(signal.Signals):
        return f"{_ENDS} {signal.Signals(-code).name}"
    return f"{_ENDS} code {code}"


def _onnx_default(packages: dict[str, Any], device: str) -> dict[str, Any]:
    """What an Engine runs `.onnx` files in when it is told no device, as `Engine` decides it."""
    for name in ("numpy", "PIL"):
        if not packages[name]["present"]:
            return _cannot(f"{name} is missing; {packages[name]['get']}")
    name, why = "onnxruntime", ""
    if device == "cpu" and _spec("openvino") is not None:
        trouble = packages["openvino"]["error"]
        if trouble and trouble.startswith(_ENDS):  # which no Engine outlives
            return _cannot(f"openvino is broken; {packages['openvino']['get']}")
        name, why = ("onnxruntime", ", as openvino is broken") if trouble else ("openvino", "")
    entry = packages[name]
    if not entry["present"]:
        missing = "openvino" if device == "cpu" else name
        state = "broken" if why else "missing"
        return _cannot(f"{missing} is {state}; {packages[missing]['get']}")
    if entry["error"]:
        return _cannot(f"{name} is broken; {entry['get']}")
    answers = (entry["detail"] or "").split(", ")
    if device != "cpu" and "CUDAExecutionProvider" not in answers:
        return _cannot(
            "the installed onnxruntime has no CUDA; pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        )
    if error := _probe("engine")["error"]:
        return _cannot(f"segfast.engine cannot be imported ({error}); {installation.install()}")
    if name == "onnxruntime":
        return {
            "runs": True,
            "text": f"ONNX Runtime on {device}: every file in its own precision{why}{_slower(packages)}",
        }
    half = next((half.lower() for half in ("BF16", "FP16") if half in answers), "fp32")
    return {"runs": True, "text": f"OpenVINO on cpu: fp16 files in {half}, fp32 files in fp32{_slower(packages)}"}


def _checkpoint_default(packages: dict[str, Any], device: str) -> dict[str, Any]:
    """What an Engine runs checkpoints in."""
    torch = packages["torch"]
    if not torch["present"]:
        return _cannot(f"torch is missing; {torch['get']}")
    triton = packages["triton"]
    if device != "cpu" and not triton["present"]:
        return _cannot(f"triton, which compiles the GPU's kernels, is missing; {triton['get']}")
    if device != "cpu" and torch["detail"] == "no CUDA":
        return _cannot(
            "this PyTorch has no CUDA, and an Engine takes the GPU unless told device='cpu'; pip install torch"
        )
    if torch.get("error"):
        return _cannot(f"torch is broken; {torch['get']}")
    if device == "cpu":
        return {"runs": True, "text": f"PyTorch on cpu in fp32{_slower(packages)}"}
    built = (
        f"PyTorch {torch['version'] or '?'} ({torch['detail'] or 'CUDA unknown'}), Triton {triton['version'] or '?'}"
    )
    return {"runs": True, "text": f"{built} on {device} in fp16"}


def _engine_default(packages: dict[str, Any], gpus: int) -> dict[str, Any]:
    """What builds `.engine` files here, and whether they run."""
    ready = [name for name in COMPILERS if packages[name]["present"] and not packages[name]["error"]]
    builds = "; built here for any RTX GPU by TensorRT-RTX" if "tensorrt_rtx" in ready else ""
    if not gpus:
        return _cannot(f"there is no NVIDIA GPU{builds}")
    if not ready:
        return _cannot(f"TensorRT is missing; {packages['tensorrt']['get']}")
    torch = packages["torch"]
    if not torch["present"] or torch["detail"] == "no CUDA":
        return _cannot(f"their tensors are those of a PyTorch with CUDA; {torch['get']}{builds}")
    return {"runs": True, "text": f"those that {' or '.join(ready)} of the same version built for this GPU"}


def _slower(packages: dict[str, Any]) -> str:
    """What is said where numba's loops do not run."""
    numba = packages["numba"]
    if numba["present"] and not numba["error"]:
        return ""
    return f"; windows merged in NumPy, slower, as numba is {'broken' if numba['present'] else 'missing'}"


def _cannot(reason: str) -> dict[str, Any]:
    return {"runs": False, "text": f"cannot run: {reason}"}


def _pip(module: str) -> str:
    return next(package.pip for package in PACKAGES if package.module == module)


def _conflicts() -> list[str]:
    """Distributions that overwrite each other: another `segfast` and ours, onnxruntime and onnxruntime-gpu."""
    other = installation.foreign()
    found = [other] if other else []
    if version("onnxruntime") and version("onnxruntime-gpu"):
        remedy = f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {ONNX_RUNTIME}"
        found.append(f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other; {remedy}")
    return found


def _gpus() -> int:
    from segfast.machine.devices import nvidia_gpus  # needs ctypes, which some Pythons lack

    return nvidia_gpus()


def _driver() -> str | None:
    from segfast.machine.nvidia import driver_version

    return driver_version()


def _capabilities(gpus: int) -> list[str]:
    from segfast.machine.nvidia import capability

    return [capability(f"cuda:{index}") for index in range(gpus)]


def _cache() -> dict[str, Any]:
    """The cache directory, its size, and whether it is writable or can be made."""
    from segfast.checkpoints.download import cache_directory

    path = cache_directory().absolute()
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue  # removed meanwhile
    nearest = next((parent for parent in (path, *path.parents) if os.path.lexists(parent)), Path(path.anchor))
    writable = os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)
    return {"path": str(path), "bytes": size, "writable": writable}


def _memory() -> int | None:
    """Bytes of memory, at most what a container is allowed."""
    if not hasattr(os, "sysconf"):
        return None
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _cpuinfo(key: str) -> str | None:
    match = re.search(rf"^{key}\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else None


def _read(path: str) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def _names(sets: dict[str, bool] | None, wanted: bool) -> str:
    if sets is None:
        return "?"
    return " ".join(name for name, there in sets.items() if there == wanted) or "-"


def _ask(question: Callable[[], T], otherwise: T, warnings: list[str], what: str) -> T:
    """The answer, or `otherwise` and a warning: nothing here may stop the doctor."""
    try:
        return question()
    except Exception as error:
        warnings.append(f"cannot {what} ({error or type(error).__name__})")
        return otherwise


if __name__ == "__main__":
    cli.run(main)
