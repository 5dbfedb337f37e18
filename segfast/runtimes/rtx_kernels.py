"""The kernels that TensorRT-RTX compiled for a plan on this machine, kept beside it: `x-rtx.engine.kernels`.

Without them it compiles its kernels again for every context and in every process. The library refuses what
another GPU, driver or version compiled; a digest before it tells of damage, and of another plan of the same name.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from segfast import files
from segfast.errors import CannotWrite
from segfast.runtimes.graphs import launching

if TYPE_CHECKING:
    import tensorrt_rtx

_DIGEST_BYTES = 32


def kernels_file(plan: Path) -> Path:
    """Where the kernels of a plan are."""
    return plan.with_name(plan.name + ".kernels")


class Kernels:
    """A runtime cache that all contexts of a plan share; whatever is wrong with its file, they work without.

    Args:
        configured: the runtime configuration that contexts are made from; it must die first.
        plan: its path.
        digest: of the plan.
        note: told what went wrong, for people.
    """

    def __init__(self, configured: tensorrt_rtx.IRuntimeConfig, plan: Path, digest: str, note: Callable[[str], None]):
        self._path, self._digest, self._note = kernels_file(plan), digest, note
        self._cache = configured.create_runtime_cache()
        self._kept = b""  # what the file says
        self._failed, self._saving = False, threading.Lock()
        self._take()
        if not configured.set_runtime_cache(self._cache):
            self._note("TensorRT-RTX takes no runtime cache: kernels are compiled at every start")

    def keep(self) -> None:
        """Write what was compiled since, unless that failed before; another thread's writing is not waited for."""
        if self._failed or not self._saving.acquire(blocking=False):
            return
        try:
            with launching:  # nothing is compiled meanwhile
                content = bytes(memoryview(self._cache.serialize()))
            if content != self._kept:
                self._write(content)
        except CannotWrite as error:
            self._failed = True
            self._note(f"compiled kernels cannot be kept ({error}): they are compiled at every start")
        finally:
            self._saving.release()

    def _write(self, content: bytes) -> None:
        with files.publish(self._path) as temporary:
            temporary.write_bytes(self._seal(content) + content)
        self._kept = content

    def _take(self) -> None:
        """Read the file, or note that it is of no use."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            return self._note(f"{self._path.name} cannot be read ({error.strerror}): kernels are compiled again")
        seal, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if seal != self._seal(content):
            return self._note(f"{self._path.name} is damaged or another plan's: kernels are compiled again")
        if not self._cache.deserialize(content):
            return self._note(f"{self._path.name} is of another GPU, driver or version: kernels are compiled again")
        self._kept = content

    def _seal(self, content: bytes) -> bytes:
        return hashlib.sha256(self._digest.encode() + content).digest()
