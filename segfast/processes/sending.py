"""Engines sent to other processes: as the path, options and digest of their file, which is opened again there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segfast import files
from segfast.checkpoints import download
from segfast.errors import BadModel, NotSupported


class Source:
    """What an Engine was made from, as far as another process can make it again.

    Args:
        given: the path, published name or Segmenter.
        options: of the Engine, by name.
    """

    def __init__(self, given: Any, options: dict[str, Any]):
        self.options = options
        self._name: str | None = None
        self._stamp: tuple[tuple[int, ...], ...] | None = None
        if isinstance(given, (str, os.PathLike)):
            text = os.fspath(given)
            self._name = text if download.is_name(text) else os.path.abspath(text)
            self._stamp = _stamp(self._name)

    def reduce(self, make: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
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
        if _stamp(self._name) != self._stamp:
            raise BadModel(f"{self._name} has changed since this Engine opened it; open it again, and send that Engine")
        return reopen, (make, self._name, self.options, _digest(self._name))


def reopen(make: Callable[..., Any], name: str, options: dict[str, Any], digest: str) -> Any:
    """The Engine of a file, which is the one that another process had.

    Raises:
        BadModel: it is not there, or another.
        Whatever `make` raises.
    """
    try:
        found = _digest(name)
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


def _digest(name: str) -> str:
    """SHA-256 of a model's file; of several, one of theirs."""
    paths = _files(download.fetch(name)) if download.is_name(name) else _files(Path(name))
    digests = [files.sha256(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """The files that decide what a model computes. The sidecar of an `.engine` file names the digest of that itself."""
    if path.is_dir():
        path /= "checkpoint.pth"  # as the original code's are opened
    settings = path.with_name("variant.yml")
    return [path, settings] if path.suffix in (".pth", ".pt") and settings.is_file() else [path]


def _stamp(name: str) -> tuple[tuple[int, ...], ...] | None:
    """Changes when one of a model's files is written again; None of what is not there."""
    path = download.cached(name) if download.is_name(name) else Path(name)
    try:
        found = [path.stat() for path in _files(path)] if path is not None else None
    except OSError:
        return None
    return None if found is None else tuple((about.st_size, about.st_mtime_ns, about.st_ino) for about in found)
