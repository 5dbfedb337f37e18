"""Files in which a system tells of itself: none of them has to be there."""

from __future__ import annotations

from pathlib import Path


def read(path: Path) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""
