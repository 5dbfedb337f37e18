"""The processes that train together, however they were started; one process is a world of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from segfast.errors import MissingRuntime, SegfastError, TrainingFailed
from segfast.train.launch import Place, place

# The first rank checks the dataset while the others wait; all are started within minutes.
PATIENCE, JOINING = timedelta(hours=4), timedelta(minutes=10)
# How long a process whose peer has gone waits for a word of it, and the first, which keeps the words, for readers.
WORD = timedelta(seconds=10)
_FAILED, _HEARD = "segfast.failed", "segfast.heard"

T = TypeVar("T")


class EndedElsewhere(TrainingFailed):
    """Another process of the run failed, and says why."""


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: of this process; 0 writes.
        size: how many there are.
        device: of this process: `cpu` or `cuda:N`.
        store: what all of them can read and write, if they are more than one.
    """

    rank: int
    size: int
    device: torch.device
    store: Store | None = None

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

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails in one process ends all of them, and that one alone says why.

        Raises:
            EndedElsewhere: in the others.
            TrainingFailed: a process has gone without a word.
        """
        try:
            yield
        except BaseException as error:
            if self.size == 1:
                raise
            if isinstance(error, RuntimeError) and not isinstance(error, SegfastError):
                if self._heard():
                    raise EndedElsewhere("another process of this run failed; its message says why") from None
                if _lost(error):
                    raise TrainingFailed(
                        "another process of this run has gone without a word, perhaps killed as memory ran out; "
                        "the same command goes on from the last saved state"
                    ) from error
            self._tell()
            raise
        finally:
            self._close()

    def _tell(self) -> None:
        """Leave word for the others; where they read it in this process, it stays until they have."""
        assert self.store is not None
        with suppress(RuntimeError):
            self.store.set(_FAILED, str(self.rank))
            self._close()
            if self.first and not dist.is_torchelastic_launched():
                self.store.wait([f"{_HEARD}.{rank}" for rank in range(1, self.size)], WORD)

    def _heard(self) -> bool:
        """Whether another process has left word that it failed."""
        assert self.store is not None
        try:
            self.store.wait([_FAILED], WORD)
            self.store.set(f"{_HEARD}.{self.rank}", "")
        except RuntimeError:
            return False
        return True

    def _close(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join(device: str) -> World:
    """The world that this process was started in, over NCCL on GPUs and Gloo on CPUs; otherwise this process alone.

    Args:
        device: `cpu`, `cuda` (the GPU of the local rank) or `cuda:N`.

    Raises:
        BadOption: a launcher started several processes without what they need to find each other.
        MissingRuntime: PyTorch finds no such GPU, or the others do not come.
    """
    where = place()
    mine = _device(device, where.local_rank)
    if where.size == 1:
        return World(0, 1, mine)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    store = _meet(where)
    backend = "nccl" if mine.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=where.rank, world_size=where.size, timeout=PATIENCE)
    return World(where.rank, where.size, mine, PrefixStore("segfast", store))


def _meet(where: Place) -> Store:
    url = "env://" if where.address is None else f"tcp://{where.address}"
    try:
        store, *_ = next(rendezvous(url, where.rank, where.size, timeout=JOINING))
    except (RuntimeError, ValueError, OSError) as error:
        raise MissingRuntime(
            f"process {where.rank} of {where.size} does not find the others ({error}); see that all of them were started "
            "and reach MASTER_ADDR and MASTER_PORT, or start them with torchrun"
        ) from None
    store.set_timeout(PATIENCE)
    return store


def _lost(error: RuntimeError) -> bool:
    """Whether an error is that of a peer that has gone."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in words for word in ("gloo", "connection", "nccl"))


def _device(device: str, local_rank: int) -> torch.device:
    if device == "cpu":
        return torch.device("cpu")
    mine = torch.device(device if ":" in device else f"cuda:{local_rank}")
    if not torch.cuda.is_available() or (mine.index or 0) >= torch.cuda.device_count():
        raise MissingRuntime(f"PyTorch finds no {mine}; start fewer processes, or use --device cpu")
    return mine
