"""What a run has done: parquet files below `segfast-manifest/`, one for every chunk of pictures, written after their labels.

A part is named by its pictures, so that a chunk that is done again, after its actor was killed, replaces its own.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segfast.errors import BadOption
from segfast.scale.sources import Picture
from segfast.scale.store import Store

if TYPE_CHECKING:
    import pyarrow

FOLDER = "segfast-manifest"
RUN = "segfast-run.json"


def check_run(store: Store, settings: dict[str, object]) -> None:
    """See that what lies there already was written by the same model and options, and say whose it is if nothing does.

    Raises:
        BadOption: it was not.
    """
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    found = store.read(RUN)
    if found is None:
        store.write(RUN, text.encode())
    elif found.decode(errors="replace") != text:
        raise BadOption(
            f"the labels there are of another model or other options, as {RUN} says; choose another destination"
        )


def write_part(store: Store, chunk: Sequence[Picture], rows: pyarrow.Table) -> None:
    """Say that a chunk is done."""
    store.write(f"{FOLDER}/{title(chunk)}.parquet", _content(rows))


def title(chunk: Sequence[Picture]) -> str:
    """What the files of a chunk are called, by its pictures."""
    digest = hashlib.sha256("\0".join(picture.name for picture in chunk).encode(errors="surrogateescape"))
    return digest.hexdigest()[:24]


def done(store: Store) -> set[str]:
    """The names of pictures that have labels. Rows of others are dropped: those are tried again."""
    import pyarrow.compute
    import pyarrow.parquet

    names: set[str] = set()
    for part in store.names(FOLDER):
        if not part.endswith(".parquet"):
            if part.startswith(f"{FOLDER}/_"):
                store.remove(part)  # of a chunk that a run had begun when it was ended
            continue
        rows = pyarrow.parquet.read_table(io.BytesIO(store.read(part) or b""))
        good = rows.filter(pyarrow.compute.is_null(rows["error"]))
        if len(good) < len(rows):
            store.write(part, _content(good)) if len(good) else store.remove(part)
        names.update(good["name"].to_pylist())
    return names


def _content(rows: pyarrow.Table) -> bytes:
    """A parquet file."""
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(rows, file)
    return file.getvalue()
