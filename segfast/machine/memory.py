"""How much memory this process may take, may still take, and has taken."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from segfast.machine.system_files import read

INFO, GROUPS, OWN = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class _Version(NamedTuple):
    """How a version of Linux's control groups tells of memory (docs.kernel.org: cgroup-v2.html, cgroup-v1/memory.html).

    Attributes:
        folders: where its hierarchy may be mounted.
        controller: its name in `/proc/self/cgroup`.
        cached: what was read from disk, is counted as used, and is given back when wanted.
    """

    folders: tuple[str, ...]
    controller: str
    limit: str
    used: str
    cached: str


_VERSIONS = (
    _Version(("", "unified"), "", "memory.max", "memory.current", "inactive_file"),
    _Version(("memory",), "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available(info: Path = INFO, groups: Path = GROUPS, own: Path = OWN) -> int | None:
    """Bytes that may still be taken: the system's, swap included, and no more than the process's control groups allow.

    Where Linux's files are missing, all the memory that the machine has; None if that is unknown too.
    """
    system = _table(info)
    if "MemAvailable" not in system:
        return _installed() if info is INFO else None
    bounds = [1024 * (system["MemAvailable"] + system.get("SwapFree", 0))]
    for version in _VERSIONS:
        bounds += [room for folder in _folders(version, groups, own) if (room := _room(version, folder)) is not None]
    return max(0, min(bounds))


def total(groups: Path = GROUPS, own: Path = OWN) -> int | None:
    """Bytes of memory that the machine has, at most what the process's control groups allow; None where it does not tell."""
    installed = _installed()
    if installed is None:
        return None
    limits = (
        read(folder / version.limit).strip() for version in _VERSIONS for folder in _folders(version, groups, own)
    )
    return min([installed, *(int(limit) for limit in limits if limit.isdigit())])


def peak() -> int | None:
    """The most bytes that this process has held, if the system tells."""
    if match := re.search(r"VmHWM:\s+(\d+) kB", read(Path("/proc/self/status"))):  # ru_maxrss is inherited on Linux
        return int(match[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _folders(version: _Version, groups: Path, own: Path) -> Iterator[Path]:
    """Every group of the process, from its own to the root; of a container's only the mount's root may be seen."""
    for name in version.folders:
        yield groups / name
    for line in read(own).splitlines():  # number:controllers:path
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if version.controller in controllers.split(","):
            inner = Path(path.lstrip("/"))
            yield from (groups / name / group for name in version.folders for group in (inner, *inner.parents))


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
