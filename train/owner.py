"""Who trains into a folder: one run at a time, told by a lock that ends with its process."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segfast import files
from segfast.dependencies.imports import need
from segfast.errors import BadOption

LOCK, OWNER = ".lock", ".owner.json"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The folder of a run for this process alone; one that was made and stayed empty is removed again.

    Raises:
        BadOption: another process trains into it; the message says which.
        CannotWrite: it cannot be made.
        MissingRuntime: filelock is not installed.
    """
    need("train", "filelock")
    from filelock import FileLock, Timeout

    made = _make(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BadOption(
            f"{folder} is in use by {_holder(folder)}; wait for it, end it, or choose another --out"
        ) from None
    except OSError as error:
        raise files.cannot_write(folder / LOCK, error) from error
    try:
        words = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        files.write_text(json.dumps(words) + "\n", folder / OWNER)
        yield
    finally:
        # While the lock is held: who comes next makes files of its own.
        for name in (OWNER, LOCK):
            with suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        lock.release()
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _make(folder: Path) -> list[Path]:
    """The folders that had to be made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    files.make_folder(folder)
    return missing


def _holder(folder: Path) -> str:
    try:
        words = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {words['pid']} on {words['host']}, since {words['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
