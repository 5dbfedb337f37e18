"""The folder in which downloads, compiled models and locks are kept between processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from segfast.errors import CannotWrite


def cache_directory() -> Path:
    """$SEGFAST_CACHE, else `segfast` in the user's cache directory.

    Raises:
        CannotWrite: this user has no home directory.
    """
    if chosen := os.environ.get("SEGFAST_CACHE"):
        return Path(chosen)
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "segfast"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "segfast"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segfast"
    except RuntimeError:  # no HOME, and the system does not know the user
        raise CannotWrite("there is no home directory for a cache; set SEGFAST_CACHE to a folder") from None


def size(path: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue  # removed meanwhile
    return total


def writable(path: Path) -> bool:
    """Whether a folder, given by its absolute path, can be written to, or made."""
    nearest = next((parent for parent in (path, *path.parents) if os.path.lexists(parent)), Path(path.anchor))
    return os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)
