"""What a dataset's files hold, as one number: whether pictures or masks are those of the run before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from segfast.datasets.base import Dataset
from segfast.datasets.coco import CocoDataset
from segfast.datasets.pairs import PairsDataset

# Of larger files the beginning, the middle and the end are read: a change of compressed pixels shifts what follows.
WHOLE, PART = 1 << 18, 1 << 16
_THREADS = 8


def fingerprint(dataset: Dataset) -> str | None:
    """SHA-256 of a dataset's keys, of the sizes and contents of its files, and of what its labels are made by; None for
    one that has no files.

    Files keep it where they are copied or touched, so that a run may go on with a copy elsewhere.
    """
    if not isinstance(dataset, (PairsDataset, CocoDataset)):
        return None
    total = hashlib.sha256(_truth(dataset).encode("utf-8", "surrogateescape"))
    with ThreadPoolExecutor(_THREADS, "segfast-fingerprint") as pool:
        for digest in pool.map(_digest, *zip(*_files(dataset), strict=True)):
            total.update(digest)
    return total.hexdigest()


def _truth(dataset: PairsDataset | CocoDataset) -> str:
    """What labels are made by, besides masks: values and colours of the class list and of --map, or COCO's regions."""
    if isinstance(dataset, CocoDataset):
        regions = [(one.key, one.size, one.regions) for one in dataset.samples]
        return json.dumps([dataset.table, regions], sort_keys=True, default=str)
    return "" if dataset.decoding is None else json.dumps([dataset.decoding.values, dataset.decoding.colours])


def _files(dataset: PairsDataset | CocoDataset) -> Iterator[tuple[str, Path]]:
    if isinstance(dataset, CocoDataset):
        for sample in dataset.samples:
            yield sample.key, dataset.root / (sample.image or "")
        return
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
