"""Where a run writes: a folder, or a prefix of an object store. Every file is there whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from segfast import files
from segfast.errors import CannotWrite

MINUTE = 60


class Store(Protocol):
    """A place with names in it."""

    def write(self, name: str, content: bytes) -> None:
        """Put content under a name, in place of what may be there."""

    def read(self, name: str) -> bytes | None:
        """What lies under a name, if anything does."""

    def remove(self, name: str) -> None:
        """Take a name away, if it is there."""

    def names(self, folder: str) -> list[str]:
        """The names below a folder, sorted."""

    def sweep(self, folders: Iterable[str]) -> None:
        """Remove what writers that were killed left unfinished in folders."""


def open_store(place: str) -> Store:
    """The store at a path or URL of fsspec."""
    return Objects(place) if "://" in place else Folder(place)


class Folder:
    """A folder on a disk that all nodes share, or this machine's own."""

    def __init__(self, place: str):
        self._root = files.make_folder(Path(place).absolute())

    def write(self, name: str, content: bytes) -> None:
        """As of Store; atomically, by `files.publish`."""
        path = self._root / name
        files.make_folder(path.parent)
        with files.publish(path) as temporary:
            temporary.write_bytes(content)

    def read(self, name: str) -> bytes | None:
        """As of Store."""
        path = self._root / name
        return path.read_bytes() if path.is_file() else None

    def remove(self, name: str) -> None:
        """As of Store."""
        (self._root / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """As of Store; a temporary file that a killed writer left is none."""
        found = (path for path in (self._root / folder).rglob("*") if path.is_file())
        return sorted(path.relative_to(self._root).as_posix() for path in found if not path.name.startswith("."))

    def sweep(self, folders: Iterable[str]) -> None:
        """As of Store; what is younger than MINUTE may be another run's."""
        for folder in folders:
            for path in (self._root / folder).glob(".segfast-*"):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > MINUTE:
                        path.unlink()


class Objects:
    """A prefix of an object store, whose uploads are atomic themselves."""

    def __init__(self, place: str):
        import fsspec

        self._place = place
        try:
            system, root = fsspec.url_to_fs(place)
        except Exception as error:  # each file system has errors of its own
            raise self._cannot(error) from error
        self._system: Any = system
        self._root: str = root.rstrip("/")

    def write(self, name: str, content: bytes) -> None:
        """As of Store."""
        try:
            self._system.pipe_file(f"{self._root}/{name}", content)
        except Exception as error:
            raise self._cannot(error) from error

    def read(self, name: str) -> bytes | None:
        """As of Store."""
        try:
            content: bytes = self._system.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return content

    def remove(self, name: str) -> None:
        """As of Store."""
        with suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{name}")

    def names(self, folder: str) -> list[str]:
        """As of Store."""
        self._system.invalidate_cache()
        found = self._system.find(f"{self._root}/{folder}")
        return sorted(path[len(self._root) + 1 :] for path in found)

    def sweep(self, folders: Iterable[str]) -> None:
        """As of Store: an upload that is not finished is not there."""

    def _cannot(self, error: Exception) -> CannotWrite:
        reason = f"{type(error).__name__}: {error}"
        return CannotWrite(f"cannot write to {self._place} ({reason}); check the address, and your rights")
