"""The file of results: where it was measured, and with what; rows are the benchmarks' own."""

import datetime
import json
import platform
import subprocess
from pathlib import Path

from segfast import doctor, files
from segfast.packages import PACKAGES

REPOSITORY = Path(__file__).parent.parent


def surroundings():
    """Device, versions, date and commit."""
    told = doctor.instructions() or {}
    return {
        "benchmark": "segfast",
        "device": {
            "name": doctor.cpu_model() or platform.machine(),
            "kind": "cpu",
            "cpus": doctor.cores(),
            "memory_bytes": _memory(),
            "clock_mhz": _clock(),
            "instructions": ", ".join(name for name, present in told.items() if present),
        },
        "versions": {
            "python": platform.python_version(),
            **{one.module: next(filter(None, map(doctor.version, one.distributions)), None) for one in PACKAGES},
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def write(path, results):
    """Publish a file of results, whole or not at all."""
    text = json.dumps(results, indent=1) + "\n"
    with files.publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _commit():
    def git(*words):
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.strip()

    dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
    return git("rev-parse", "--short", "HEAD") + dirty


def _proc(path, key):
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].split()[0] for line in lines if line.startswith(key)), None)


def _memory():
    kilobytes = _proc("/proc/meminfo", "MemTotal")
    return int(kilobytes) * 1024 if kilobytes else None


def _clock():
    megahertz = _proc("/proc/cpuinfo", "cpu MHz")
    return float(megahertz) if megahertz else None
