"""What a run segments, and the names of its outputs, which depend on nothing but each picture's own."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from segfast.errors import BadOption
from segfast.pictures.formats import SUFFIXES
from segfast.pictures.selection import LABELS, find_pictures

LISTS = (".txt", ".parquet")


class Picture(NamedTuple):
    """One picture of a run.

    Attributes:
        address: a path, or a URL of fsspec.
        name: relative, by which its outputs are called.
    """

    address: str
    name: str


class Source(NamedTuple):
    """The pictures of a run, and in words what else was there."""

    pictures: list[Picture]
    left_out: str


def find(source: str, out: str, column: str = "path") -> Source:
    """The pictures of a folder, pattern, list of addresses (.txt, .parquet), or prefix of an object store.

    Args:
        column: of a parquet file that holds the addresses.

    Raises:
        BadOption: there are none, or the source cannot be read.
    """
    if source.endswith(LISTS):
        addresses = _from_parquet(source, column) if source.endswith(".parquet") else _from_text(source)
        found = Source([_listed(address) for address in dict.fromkeys(addresses)], "")
    elif "://" in source:
        found = _from_store(source, out)
    else:
        selection = find_pictures([source], Path(out))
        pictures = [Picture(str(path.absolute()), name.as_posix()) for path, name in selection.pictures]
        found = Source(_unwritten(pictures), selection.report())
    if not found.pictures:
        raise BadOption(f"there are no pictures in {source}; {found.left_out or 'name another'}")
    names = Counter(picture.name for picture in found.pictures)
    if twice := [name for name, count in names.items() if count > 1]:
        raise BadOption(f"{source} has several pictures of the name {twice[0]}; run each store for itself")
    return found


def _listed(address: str) -> Picture:
    """A picture of a list, named by its whole address: of no other picture, and never outside of the destination."""
    if "://" in address:
        return Picture(address, _inside(address.partition("://")[2]))
    path = Path(os.path.abspath(address))
    return Picture(str(path), path.relative_to(path.anchor).as_posix())


def _inside(key: str) -> str:
    """A key as a relative path that stays below where it begins: a store's keys may have `..` among them."""
    return posixpath.normpath(f"/{key}").lstrip("/")


def _unwritten(pictures: list[Picture]) -> list[Picture]:
    """All but the labels that an earlier run wrote beside their pictures."""
    names = {picture.name for picture in pictures}
    return [one for one in pictures if not (one.name.endswith(LABELS) and one.name.removesuffix(LABELS) in names)]


def _from_text(source: str) -> list[str]:
    """One address a line."""
    with _reading(source):
        lines = _open(source).decode("utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _from_parquet(source: str, column: str) -> Iterable[str]:
    import io

    import pyarrow.parquet

    with _reading(source):
        file = pyarrow.parquet.ParquetFile(io.BytesIO(_open(source)))
        if column not in file.schema_arrow.names:
            names = ", ".join(file.schema_arrow.names)
            raise BadOption(f"{source} has no column {column!r}; name one of {names} with --column")
        values = file.read([column])[column].to_pylist()
    if wrong := next((value for value in values if value is not None and not isinstance(value, str)), None):
        raise BadOption(f"column {column!r} of {source} holds {type(wrong).__name__}, not addresses; name another")
    return [value for value in values if value]


def _from_store(source: str, out: str) -> Source:
    """The pictures below a prefix, named by their path below it; what lies below `out` is the run's own."""
    import fsspec

    with _reading(source):
        system, root = fsspec.url_to_fs(source)
        found = sorted(system.find(root))
    scheme, root, own = source.partition("://")[0], root.rstrip("/"), f"{out.rstrip('/')}/"
    within = own.startswith(f"{source.rstrip('/')}/") and own.rstrip("/") != source.rstrip("/")
    pictures, left_out = [], Counter[str]()
    for path in found:
        suffix, address = posixpath.splitext(path)[1].lower(), f"{scheme}://{path.lstrip('/')}"
        if within and address.startswith(own):
            left_out[f"below {out}, where this run writes"] += 1
        elif suffix in SUFFIXES:
            pictures.append(Picture(address, _inside(path.removeprefix(root)) or _inside(path)))
        else:
            left_out[suffix or "without an ending"] += 1
    words = ", ".join(f"{count} {suffix}" for suffix, count in left_out.most_common(8))
    return Source(_unwritten(pictures), f"left out {left_out.total()}: {words}" if left_out else "")


def _open(source: str) -> bytes:
    import fsspec

    with fsspec.open(source, "rb") as file:
        content: bytes = file.read()
        return content


class _reading:
    """A block whose errors become the one error that a source cannot be read."""

    def __init__(self, source: str):
        self._source = source

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, BadOption):
            reason = f"{type(error).__name__}: {error}"
            raise BadOption(f"{self._source} cannot be read ({reason}); check the address, and your rights") from error


def chunks(pictures: list[Picture], size: int) -> Iterator[list[Picture]]:
    """Lists of `size` pictures, the last perhaps shorter."""
    yield from (pictures[start : start + size] for start in range(0, len(pictures), size))
