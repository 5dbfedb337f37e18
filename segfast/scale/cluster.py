"""The cluster of a run, which may be this machine alone, and the way into it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from segfast.errors import NotSupported, SegfastError
from segfast.scale.run import Chunk, Job, run, typed
from segfast.scale.sources import Picture


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[dict[str, float]]:
    """A cluster, or one of this process alone; the resources that it has."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray would report to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # what matters reaches us as errors
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except Exception as error:
        raise NotSupported(
            f"Ray cannot be reached or started ({error}); check --address, and RAY_AUTH_MODE=token where it wants a token"
        ) from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


class Far:
    """A run inside a cluster, for whom Ray's client (`ray://`) connects: Ray Data does not work through it."""

    def __init__(self, job: Job, pictures: list[Picture]):
        self._chunks = run(job, pictures)

    def next(self) -> Chunk | SegfastError | None:
        """What became of another chunk; None at the end."""
        try:
            return next(self._chunks, None)
        except SegfastError as error:
            return error


def run_from_here(job: Job, pictures: list[Picture]) -> Iterator[Chunk]:
    """As `run`, in the cluster that this process is connected to, by whatever means."""
    import ray
    import ray.util

    if not ray.util.client.ray.is_connected():
        yield from run(job, pictures)
        return
    far: Any = ray.remote(num_cpus=0)(Far).remote(job, pictures)  # a handle, whose methods have `remote`
    with typed():
        while (found := cast(Chunk | SegfastError | None, ray.get(far.next.remote()))) is not None:
            if isinstance(found, SegfastError):
                raise found
            yield found
