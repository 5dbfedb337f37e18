"""The file of results: where it was measured, and with what; rows are the benchmarks' own."""

import datetime
import json
import platform
import re
import subprocess
from pathlib import Path

from segfast import files
from segfast.dependencies.packages import versions
from segfast.kernels.quota import cpus
from segfast.machine import cpu

REPOSITORY = Path(__file__).parent.parent
GPU_FIELDS = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")


def surroundings(device):
    """Device, versions, date and commit of a run on `cpu` or `cuda`."""
    return {"benchmark": "segfast", "device": _gpu() if device == "cuda" else _cpu(), **software()}


def software():
    """Versions, date and commit."""
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def gpu():
    """What PyTorch and the driver say of the GPU."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    # By its own name, as CUDA_VISIBLE_DEVICES may have renumbered it; PyTorch before 2.5 does not know it.
    which = f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else "0"
    answer = _said("nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader", f"--id={which}")
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **dict(zip(GPU_FIELDS, (value.strip() for value in answer.split(",")), strict=False)),
    }


def write(path, results):
    """Publish a file of results, whole or not at all."""
    text = json.dumps(results, indent=1) + "\n"
    files.make_folder(Path(path).parent)
    with files.publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_name(about):
    """`intel-xeon-2-cores.json`, `nvidia-h200.json`; of the `device` of `surroundings`."""
    cores = f" {about['cpus']} cores" if about["kind"] == "cpu" else ""
    bare = re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b|@", " ", about["name"])
    return re.sub(r"[^a-z0-9]+", "-", f"{bare}{cores}".lower()).strip("-") + ".json"


def _gpu():
    found = gpu()
    clock = re.match(r"[\d.]+", found.get("clocks.max.sm", ""))
    return {
        "name": found["name"],
        "kind": "cuda",
        "cpus": cpus(),
        "memory_bytes": found["memory_bytes"],
        "clock_mhz": float(clock[0]) if clock else None,
        "instructions": "sm_{}{}".format(*found["capability"]),
        "gpu": found,
    }


def _cpu():
    told = cpu.instructions() or {}
    megahertz, kilobytes = _proc("/proc/cpuinfo", "cpu MHz"), _proc("/proc/meminfo", "MemTotal")
    return {
        "name": cpu.cpu_model() or platform.machine(),
        "kind": "cpu",
        "cpus": cpus(),
        "memory_bytes": int(kilobytes) * 1024 if kilobytes else None,
        "clock_mhz": float(megahertz) if megahertz else None,
        "instructions": ", ".join(name for name, present in told.items() if present),
    }


def _commit():
    dirty = "-dirty" if _said("git", "status", "--porcelain", "--untracked-files=no") else ""
    return _said("git", "rev-parse", "--short", "HEAD") + dirty


def _said(*command):
    """What a command prints, empty where it cannot run."""
    try:
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def _proc(path, key):
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].split()[0] for line in lines if line.startswith(key)), None)
