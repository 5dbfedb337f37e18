"""The processes that train together, as `torchrun` started them; one process is a world of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from segfast.errors import MissingRuntime

# The first rank checks the dataset and evaluates while the others wait.
PATIENCE = timedelta(hours=4)

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: of this process; 0 writes.
        size: how many there are.
        device: of this process: `cpu` or `cuda:N`.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, on the first; an empty list on the others."""
        if self.size == 1:
            return [value]
        values = [value] * self.size if self.first else []
        dist.gather_object(value, values or None)
        return values

    def share(self, value: T) -> T:
        """The value of the first process."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def close(self) -> None:
        """End the common work."""
        if self.size > 1:
            dist.destroy_process_group()


def join(device: str) -> World:
    """The world that `torchrun` made, over NCCL on GPUs and Gloo on CPUs; without it, this process alone.

    Args:
        device: `cpu`, `cuda` (the GPU of the local rank) or `cuda:N`.

    Raises:
        MissingRuntime: PyTorch finds no such GPU.
    """
    launched = dist.is_available() and dist.is_torchelastic_launched()
    place = _place(device, dist.get_node_local_rank(0) if launched else 0)
    if not launched:
        return World(0, 1, place)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size(), place)


def _place(device: str, local_rank: int) -> torch.device:
    if device == "cpu":
        return torch.device("cpu")
    place = torch.device(device if ":" in device else f"cuda:{local_rank}")
    if not torch.cuda.is_available() or (place.index or 0) >= torch.cuda.device_count():
        raise MissingRuntime(f"PyTorch finds no {place}; start fewer processes, or use --device cpu")
    return place
