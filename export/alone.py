"""One process at a time builds a file."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segfast import files
from segfast.errors import CannotWrite
from segfast.machine.cache import cache_directory


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """While no other process of this user builds the same file; without a cache directory, whoever else does."""
    from filelock import FileLock, Timeout

    name = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]
    lock = None
    try:
        lock = FileLock(files.make_folder(cache_directory() / "locks") / f"{name}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        assert lock is not None
        print(f"another process builds {target}: waiting for it", file=sys.stderr)
        lock.acquire()
    except (CannotWrite, OSError, NotImplementedError) as error:
        lock = None
        print(f"processes that build {target} at once do not wait for each other: {error}", file=sys.stderr)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
