"""How much memory this process may take, may still take, and has taken."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from segfast.kernels.quota import MOUNT, OWN, groups, read

INFO = Path("/proc/meminfo")


class _Version(NamedTuple):
    """Files of a version of Linux's control groups (docs.kernel.org: cgroup-v2.html, cgroup-v1/memory.html).

    Attributes:
        cached: what was read from disk, is counted as used, and is given back when wanted.
    """

    limit: str
    used: str
    cached: str


_VERSIONS = (
    _Version("memory.max", "memory.current", "inactive_file"),
    _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available(info: Path = INFO, mount: Path = MOUNT, own: Path = OWN) -> int | None:
    """Bytes that may still be taken: the system's, swap included, and no more than the process's control groups allow.

    Where Linux's files are missing, all the memory that the machine has; None if that is unknown too.
    """
    system = _table(info)
    if "MemAvailable" not in system:
        return _installed() if info is INFO else None
    free = 1024 * (system["MemAvailable"] + system.get("SwapFree", 0))
    rooms = (_room(version, folder) for folder in groups("memory", mount, own) for version in _VERSIONS)
    return max(0, min([free, *(room for room in rooms if room is not None)]))


def total(mount: Path = MOUNT, own: Path = OWN) -> int | None:
    """Bytes of memory that the machine has, at most what the process's control groups allow; None where it does not tell."""
    installed = _installed()
    if installed is None:
        return None
    limits = (read(folder / version.limit).strip() for folder in groups("memory", mount, own) for version in _VERSIONS)
    return min([installed, *(int(limit) for limit in limits if limit.isdigit())])


def peak() -> int | None:
    """The most bytes that this process has held, if the system tells."""
    try:
        status = Path("/proc/self/status").read_bytes()  # of which the process's name may be no text
    except OSError:
        status = b""
    if match := re.search(rb"VmHWM:\s+(\d+) kB", status):  # ru_maxrss is inherited on Linux
        return int(match[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _room(version: _Version, folder: Path) -> int | None:
    """Bytes that one group may still take; None without a limit."""
    limit, used = read(folder / version.limit).strip(), read(folder / version.used).strip()
    if not (limit.isdigit() and used.isdigit()):  # "max", or no such group
        return None
    return int(limit) - int(used) + _table(folder / "memory.stat").get(version.cached, 0)


def _table(path: Path) -> dict[str, int]:
    """The numbers of a file of lines such as `MemFree: 12 kB`."""
    rows = (line.replace(":", " ").split() for line in read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _installed() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
