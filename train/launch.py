"""How this process was started, and its place among others: by torchrun or in its manner, by SLURM, or by MPI."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from segfast.errors import BadOption


class Place(NamedTuple):
    """A process among those started with it.

    Attributes:
        rank, size: its number, and how many there are.
        local_rank: its number on its machine.
        address: host:port where they meet; None is what the environment says.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str | None = None


class _Launcher(NamedTuple):
    """The names of a launcher's environment variables; of the processes on this machine, where there is one."""

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str
    # A variable of a larger allocation, in which `size` is missing where its launcher was not used.
    allocated: str = ""


LAUNCHERS = (
    _Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "", "SLURM_NTASKS"),
    _Launcher("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    _Launcher("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)  # fmt: skip


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that the environment gives this process.

    Raises:
        BadOption: it was started as one of several that cannot find each other; the message has the line to use.
    """
    for launcher in LAUNCHERS:
        size = _number(environment, launcher.size)
        if size is None and (_number(environment, launcher.allocated) or 1) > 1:
            raise BadOption(_remedy(environment, f"{launcher.allocated} is {environment[launcher.allocated]}"))
        if size is None and (_number(environment, launcher.rank) or 0) > 0:
            raise BadOption(_remedy(environment, f"{launcher.rank} is set without {launcher.size}"))
        if size is not None and size > 1:
            return _among(environment, launcher, size)
    return Place()


def local_size(environment: Mapping[str, str] = os.environ) -> int:
    """At most so many processes share this machine's memory."""
    for launcher in LAUNCHERS:
        size = _number(environment, launcher.size)
        if size is not None and size > 1:
            return _number(environment, launcher.local_size) or size
    return 1


def _among(environment: Mapping[str, str], launcher: _Launcher, size: int) -> Place:
    rank = _number(environment, launcher.rank)
    if rank is None or not rank < size:
        raise BadOption(_remedy(environment, f"{launcher.size} is {size}, {launcher.rank} {rank}"))
    local = _number(environment, launcher.local_rank)
    place = Place(rank, size, rank if local is None else local)
    if "MASTER_ADDR" in environment and "MASTER_PORT" in environment:
        return (
            place._replace(local_rank=place.local_rank)
            if launcher.name == "torchrun"
            else place._replace(address=f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}")
        )
    nodes = _number(environment, "SLURM_STEP_NUM_NODES") or _number(environment, "SLURM_NNODES")
    together = nodes == 1 if launcher.name == "srun" else _number(environment, launcher.local_size) == size
    host = environment.get("MASTER_ADDR") or ("127.0.0.1" if together else None)
    if host is None:
        raise BadOption(_remedy(environment, f"{launcher.name} started {size} processes, and MASTER_ADDR is not set"))
    job = _number(environment, "SLURM_JOB_ID") or 0
    port = environment.get("MASTER_PORT") or str(
        20_000 + (job * 7 + (_number(environment, "SLURM_STEP_ID") or 0)) % 10_000
    )
    return place._replace(address=f"{host}:{port}")


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A variable that is a whole number; SLURM writes `2(x3)` where machines differ."""
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None


def _remedy(environment: Mapping[str, str], what: str) -> str:
    words = " ".join(sys.argv[1:])
    count = environment.get("WORLD_SIZE") or environment.get("SLURM_NTASKS") or "N"
    return (
        f"{what}, so that several processes would train alone into one folder; start one task a machine, with "
        f"torchrun --nproc-per-node {count} -m segfast.train {words}".rstrip()
    )
