"""Which packages are here, and whether they work: what may be broken is tried in a process of its own, which it may end."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple

from segfast.dependencies import installation
from segfast.dependencies.packages import ONNX_RUNTIME, PACKAGES, Package, version
from segfast.kernels.quota import read

# A model of one Identity: a session with it shows whether a provider really starts.
_IDENTITY = (
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a0208"
    "0142040a00100d"
)
# By module; `engine` is our own.
_TRIALS = {
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


@dataclass(frozen=True)
class Found:
    """A package as it was found.

    Attributes:
        detail: what it offers, in words: providers, instructions, CUDA.
        error: why it does not work.
        get: the command that gets or mends it.
    """

    present: bool
    version: str | None
    detail: str | None
    error: str | None
    get: str

    @property
    def works(self) -> bool:
        """Whether it is there, and no trial of it failed."""
        return self.present and not self.error

    @property
    def fatal(self) -> bool:
        """Whether it ends the process that imports it: no fall-back comes after that."""
        return self.error is not None and self.error.startswith(_ENDS)


class Answer(NamedTuple):
    """Of a trial; see `Found`."""

    detail: str | None
    error: str | None


def examine(device: str) -> dict[str, Found]:
    """All that segfast can use, by module, tried at once: PyTorch alone takes seconds.

    Args:
        device: `cpu` or `cuda`, on which they have to work.
    """
    with ThreadPoolExecutor(len(PACKAGES)) as pool:
        found = pool.map(lambda package: _examine(package, device), PACKAGES)
        return {package.module: one for package, one in zip(PACKAGES, found, strict=True)}


def trial(name: str, device: str = "cpu") -> Answer:
    """What a package says in a process of its own."""
    code = f"import json\n{_TRIALS[name]}\nprint('\\n' + json.dumps(answer))"
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
            return Answer(None, lines[-1] if lines else _ending(ended.returncode))
        return Answer(", ".join(json.loads(ended.stdout.splitlines()[-1])), None)
    except Exception as error:  # no process, no answer in time, no JSON
        return Answer(None, str(error) or type(error).__name__)


def conflicts() -> list[str]:
    """What is wrong, and its remedy, of distributions that overwrite each other: another `segfast` and ours, ONNX Runtime's."""
    other = installation.foreign()
    found = [other] if other else []
    if version("onnxruntime") and version("onnxruntime-gpu"):
        remedy = f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {ONNX_RUNTIME}"
        found.append(f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other; {remedy}")
    return found


def _examine(package: Package, device: str) -> Found:
    spec = _spec(package.module)
    if spec is None or spec.origin is None:  # a folder of that name is no package
        return Found(False, None, None, None, f"pip install {package.pip}")
    detail, error = trial(package.module, device) if package.module in _TRIALS else (None, None)
    if package.module == "torch":
        detail = _cuda_of_torch(spec)
    return Found(True, package.version, detail or None, error, _remedy(package, error))


def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except Exception:  # a damaged finder or parent
        return None


def _cuda_of_torch(spec: ModuleSpec) -> str | None:
    """The CUDA that PyTorch was built for, read without importing it."""
    folder = next(iter(spec.submodule_search_locations or ()), "")
    if match := re.search(r"^cuda\b.*?=\s*(.+)$", read(Path(folder, "version.py")), re.MULTILINE):
        number = match[1].strip("'\" ")
        return "no CUDA" if number == "None" else f"CUDA {number}"
    return None


def _remedy(package: Package, error: str | None) -> str:
    if error and "CUDAExecutionProvider" in error:  # NVIDIA's libraries, beside the package itself
        return "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return f"pip install {'--force-reinstall ' if error else ''}{package.pip}"


def _ending(code: int) -> str:
    if code < 0 and -code in set(signal.Signals):
        return f"{_ENDS} {signal.Signals(-code).name}"
    return f"{_ENDS} code {code}"
