"""How many CPUs a process may use: its affinity, and the quotas of its control groups, which affinity does not show."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Where Linux mounts the hierarchies of control groups: version 2, alone or beside version 1, and version 1's by controller.
_UNIFIED = ("", "unified")
_CONTROLLERS = {"cpu": ("cpu", "cpu,cpuacct", "cpuacct,cpu"), "memory": ("memory",)}


def cpus() -> int:
    """CPUs that this process may use: the least of its affinity and its quota, rounded up."""
    own = affinity()
    return own if (limit := quota()) is None else min(own, limit)


def cut() -> int | None:
    """`cpus()` where a quota allows fewer than the affinity does, which libraries heed by themselves; else None."""
    limit = quota()
    return limit if limit is not None and limit < affinity() else None


def affinity() -> int:
    """CPUs that the system's scheduler may choose from."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def quota() -> int | None:
    """CPUs' worth of time that control groups allow (`docker --cpus`), rounded up; None without a limit.

    Read once a process: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max), and for version 1
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us).
    """
    return read_quota(MOUNT, OWN)


def read_quota(mount: Path, own: Path) -> int | None:
    """The least quota of the groups below `mount` that the file `own` names, and of those above them."""
    limits = [limit for folder in groups("cpu", mount, own) if (limit := _limit(folder)) is not None]
    return max(1, math.ceil(min(limits))) if limits else None


def groups(controller: str, mount: Path = MOUNT, own: Path = OWN) -> Iterator[Path]:
    """Folders of the control groups by which a controller ("cpu", "memory") may limit this process, of both versions.

    The roots below `mount`, then each group that the file `own` names, from the innermost up to its root. In a
    container the path may be the host's, of which only the root is to be seen.
    """
    yield from (mount / name for name in (*_UNIFIED, *_CONTROLLERS[controller]))
    for line in read(own).splitlines():  # number:controllers:path
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        named = controller in controllers.split(",")
        names = _UNIFIED if not controllers else _CONTROLLERS[controller] if named else ()
        inner = Path(path.lstrip("/"))
        for name in names:
            yield from (mount / name / group for group in (inner, *inner.parents))


def read(path: Path) -> str:
    """The text of a file, empty where there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def _limit(folder: Path) -> float | None:
    """CPUs that one group allows, by whichever version's files it has."""
    if words := read(folder / "cpu.max").split():  # "max 100000", or quota and period
        return _ratio(words[0], words[1] if len(words) > 1 else "100000")
    return _ratio(read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    """Quota by period; None for what is no limit: "max", -1, or nothing at all."""
    try:
        microseconds, per = int(quota), int(period)
    except ValueError:
        return None
    return microseconds / per if microseconds > 0 and per > 0 else None
