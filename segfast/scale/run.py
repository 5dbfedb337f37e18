"""The run itself: chunks of pictures through actors of Ray Data, each of which writes what it finds."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from segfast import errors
from segfast.errors import NotSupported, SegfastError
from segfast.scale.attempts import MOST, starting
from segfast.scale.sources import Picture, chunks
from segfast.scale.store import open_store

# Pictures of a chunk, which is done as a whole or again: of a long run, so many that its parts can still be listed.
SMALLEST, LARGEST, PARTS = 16, 512, 2000


@dataclass(frozen=True)
class Job:
    """What a run is given.

    Attributes:
        model, out: paths or addresses that every node reads, and writes to.
        options: of the Engine.
        actors, cpus, gpus: how many actors, and the share of Ray's resources that each takes.
        readers: threads of an actor that read ahead.
        run: of which others have another name.
    """

    model: str
    out: str
    options: dict[str, Any]
    actors: int
    cpus: float
    gpus: float = 0.0
    readers: int = 2
    run: str = field(default_factory=lambda: secrets.token_hex(8))


class Chunk(NamedTuple):
    """What became of a chunk: how many pictures have labels, and `NAME: why` of the others."""

    written: int
    failed: list[str]


class SegmentChunks:
    """An actor. What it needs for its work is imported once a mark says that it starts."""

    def __init__(self, job: Job):
        self._fault: SegfastError | None = None
        try:
            store = open_store(job.out)
            with starting(store, job.run, (MOST + 1) * job.actors):
                # Not before: a process may die of what these import.
                from segfast.ray import SegmentBatch
                from segfast.scale.chunk import ChunkWriter

                segment = SegmentBatch(job.model, labels="none", readers=job.readers, **job.options)
                self._writer = ChunkWriter(segment, store, job.run)
        except SegfastError as error:
            self._fault = error  # the first call tells it; raised here, Ray would print it, and try again

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of Ray Data: the addresses and names of a chunk → what became of it, or the error that ends the run."""
        try:
            if self._fault is not None:
                raise self._fault
            named = zip(row["addresses"], row["names"], strict=True)
            chunk = [Picture(str(address), str(name)) for address, name in named]
            failed = self._writer.write(chunk)
            return {"written": len(chunk) - len(failed), "failed": failed, "fault": "", "reason": ""}
        except SegfastError as error:
            return {"written": 0, "failed": [], "fault": type(error).__name__, "reason": str(error)}


def run(job: Job, pictures: list[Picture]) -> Iterator[Chunk]:
    """What becomes of the chunks, in any order, as they are done.

    Actors that die are started again, and what they had in hand is done again, but for a picture at which they die again
    and again. An actor leaves Ray's readers a CPU.

    Raises:
        NotSupported: Ray gave up, or processes die as they open the model; what is written stays, and the same run goes
            on from it.
        As `Engine`, and as `Store.write`.
    """
    import ray.data

    size = min(max(SMALLEST, len(pictures) // PARTS), LARGEST)
    rows = [
        {"addresses": [one.address for one in chunk], "names": [one.name for one in chunk]}
        for chunk in chunks(pictures, size)
    ]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        SegmentChunks,  # type: ignore[arg-type]  # a class of callables, to Ray
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=job.actors),
        num_cpus=job.cpus,
        num_gpus=job.gpus,
    )
    with typed():
        for row in found.iter_rows():
            if row["fault"]:
                raise getattr(errors, row["fault"])(row["reason"])
            yield Chunk(int(row["written"]), list(row["failed"]))


@contextmanager
def typed() -> Iterator[None]:
    """A block whose errors of Ray become ours."""
    import ray.exceptions

    try:
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:  # UserCodeException among them; of Ray's client
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise NotSupported(
            f"Ray gave up ({lines[-1].strip() if lines else type(error).__name__}); what is written stays, and the same "
            "command goes on"
        ) from error
