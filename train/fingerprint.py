"""What a dataset's files hold, as one number: whether pictures or masks are those of the run before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from segfast.datasets.base import Dataset
from segfast.datasets.pairs import PairsDataset

# Of larger files the beginning, the middle and the end are read: a change of compressed pixels shifts what follows.
WHOLE, PART = 1 << 18, 1 << 16
_THREADS = 8


def fingerprint(dataset: Dataset) -> str | None:
    """SHA-256 of the keys, sizes and contents of a dataset's files; None for one that has none.

    Files keep it where they are copied or touched, so that a run may go on with a copy elsewhere.
    """
    if not isinstance(dataset, PairsDataset):
        return None
    total = hashlib.sha256()
    with ThreadPoolExecutor(_THREADS, "segfast-fingerprint") as pool:
        for digest in pool.map(_digest, *zip(*_files(dataset), strict=True)):
            total.update(digest)
    return total.hexdigest()


def _files(dataset: PairsDataset) -> Iterator[tuple[str, Path]]:
    for pair in dataset.pairs:
        for name in (pair.image, pair.mask):
            if name is not None:
                yield f"{pair.key}\0{pair.table}", dataset.root / name


def _digest(key: str, path: Path) -> bytes:
    found = hashlib.sha256(key.encode("utf-8", "surrogateescape"))
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            found.update(size.to_bytes(8, "little"))
            for start in (0,) if size <= WHOLE else (0, (size - PART) // 2, size - PART):
                file.seek(start)
                found.update(file.read(WHOLE if size <= WHOLE else PART))
    except OSError:
        found.update(b"unreadable")  # the check of the data has the words for it
    return found.digest()
