"""Engines sent to other processes: as the path, options and digest of their file, which is opened again there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from segfast import files
from segfast.checkpoints import download
from segfast.errors import BadModel, NotSupported

T = TypeVar("T")


class Source:
    """What an Engine was made from, as far as another process can make it again.

    Args:
        given: the path, published name or Segmenter.
        options: of the Engine, by name.
    """

    def __init__(self, given: object, options: dict[str, object]):
        self.options = options
        self._name: str | None = None
        self._stamp: tuple[tuple[int, ...], ...] | None = None
        if isinstance(given, (str, os.PathLike)):
            text = os.fspath(given)
            self._published = download.is_name(text)
            self._name = text if self._published else os.path.abspath(text)
            self._stamp = _stamp(self._name, self._published)

    def reduce(self, make: Callable[..., T]) -> tuple[Callable[..., T], tuple[object, ...]]:
        """For pickle: `reopen` and its arguments. The digest is computed here, not whenever an Engine is opened.

        Raises:
            NotSupported: it was made from a Segmenter.
            BadModel: the file is no longer the one that was opened.
        """
        if self._name is None:
            raise NotSupported(
                "an Engine made from a Segmenter cannot be sent to another process: save the model, "
                "model.save('model.safetensors'), and send Engine('model.safetensors')"
            )
        if _stamp(self._name, self._published) != self._stamp:
            raise BadModel(f"{self._name} has changed since this Engine opened it; open it again, and send that Engine")
        return reopen, (make, self._name, self.options, _digest(self._name, self._published))


def reopen(make: Callable[..., T], name: str, options: dict[str, object], digest: str) -> T:
    """The Engine of a file, which is the one that another process had.

    Raises:
        BadModel: it is not there, or another.
        Whatever `make` raises.
    """
    try:
        found = _digest(name, download.is_name(name))
    except OSError as error:
        raise BadModel(
            f"an Engine of {name} was sent here, where that file cannot be read ({error.strerror}); "
            "copy it to the same path, or open it here: segfast.Engine(path)"
        ) from None
    if found != digest:
        raise BadModel(
            f"an Engine of {name} was sent here, where that file is another (SHA-256 {found[:16]}…, not {digest[:16]}…); "
            "copy the sender's, or open this one: segfast.Engine(path)"
        )
    return make(name, **options)


def _digest(name: str, published: bool) -> str:
    """SHA-256 of a model's file; of several, one of theirs."""
    digests = [files.sha256(path) for path in _files(download.fetch(name) if published else Path(name))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """The files that decide what a model computes. The sidecar of an `.engine` file names the digest of that itself."""
    if path.is_dir():
        path /= "checkpoint.pth"  # as the original code's are opened
    settings = path.with_name("variant.yml")
    return [path, settings] if path.suffix in (".pth", ".pt") and settings.is_file() else [path]


def _stamp(name: str, published: bool) -> tuple[tuple[int, ...], ...] | None:
    """Changes when one of a model's files is written again; None of what is not there."""
    path = download.cached(name) if published else Path(name)
    try:
        found = [path.stat() for path in _files(path)] if path is not None else None
    except OSError:
        return None
    return None if found is None else tuple((about.st_size, about.st_mtime_ns, about.st_ino) for about in found)
