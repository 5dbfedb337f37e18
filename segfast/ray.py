"""Pictures by the million: an Engine in every actor of a Ray Data pipeline.

    import ray
    from segfast.ray import SegmentBatch

    pictures = ray.data.read_binary_files("s3://bucket/pictures", include_paths=True)
    found = pictures.map_batches(
        SegmentBatch, fn_constructor_args=("seg-b-mask-16-512-fp16.onnx",), batch_size=16, num_cpus=1, concurrency=1
    )
    found.write_parquet("labels")

`python -m segfast.batch` does the usual case: pictures in, label PNGs and a manifest out. docs/scale.md has both.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from segfast.dependencies.imports import need
from segfast.encodings import to_png
from segfast.engine import Engine
from segfast.errors import BadImage, BadOption, SegfastError
from segfast.image import read_image
from segfast.pictures import runs
from segfast.segmentation import Segmentation

if TYPE_CHECKING:
    import pyarrow

# Columns that a picture may be in, of which the first that is there is taken; pixels are left out of the answer.
COLUMNS = ("image", "bytes", "path")
LABELS = ("png", "rle", "none")


class SegmentBatch:
    """A callable class for `ds.map_batches`: one Engine an actor.

    A batch has its pictures in a column `image` (uint8 arrays [H, W, 3]), `bytes` (the content of files) or `path`
    (files, or addresses that fsspec opens). Its other columns are kept, and to them come

    | column | type | of a good picture | of a bad one |
    |---|---|---|---|
    | `height`, `width` | int32 | pixels | null |
    | `labels` (`labels="png"`) | binary | PNG with a palette | null |
    | `label_runs`, `run_lengths` (`labels="rle"`) | list of int32 | the runs of equal labels, row by row | null |
    | `shares` | map of string to float | share of every class present, largest first | null |
    | `error` | string | null | why there are no labels |

    A column that has such a name already is replaced.

    Give an actor one CPU fewer than there are: without one, Ray's readers stand still, and with them everything.
    `threads` of the network may be all the same.

    Args:
        path: of the model, as of `Engine`; every node finds it there.
        labels: `png`, `rle` or `none`.
        readers: threads that read and decode ahead.
        options: of `Engine`, such as `device="cuda"` or `threads`.

    Raises:
        BadOption: `labels` is unknown.
        As `Engine`.
    """

    def __init__(self, path: str, *, labels: str = "png", readers: int = 2, **options: Any):
        need("ray", "pyarrow", "fsspec")
        if labels not in LABELS:
            raise BadOption(f"labels must be one of {', '.join(LABELS)}; got {labels!r}")
        self._labels, self._readers = labels, readers
        self._engine = Engine(path, **options)
        self._engine.warm_up()

    def __call__(self, batch: Mapping[str, Any]) -> pyarrow.Table:
        """The answers of a batch: a mapping of columns, as `batch_format="numpy"` (the default) gives.

        Raises:
            BadOption: it is another format, or has no column of COLUMNS.
        """
        import pyarrow

        column = next((name for name in COLUMNS if isinstance(batch, Mapping) and name in batch), None)
        if column is None:
            names = f"columns {', '.join(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
            raise BadOption(
                f"a batch needs a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}, and batch_format='numpy'; it has {names}"
            )
        kept = [name for name in batch if name not in COLUMNS or name == "path"]
        columns = {name: _column(batch[name]) for name in kept}
        return pyarrow.table(columns | table(list(self.answers(batch[column])), self._labels))

    def answers(self, pictures: Sequence[Any]) -> Iterator[Segmentation | SegfastError]:
        """The labels of every picture, in order, or its error; pictures are read ahead by `readers` threads."""
        errors: deque[SegfastError | None] = deque()

        def good() -> Iterator[Any]:
            for read in _ahead(pictures, self._readers):
                errors.append(read if isinstance(read, SegfastError) else None)
                if not isinstance(read, SegfastError):
                    yield read

        for answer in self._engine.segment_many(good(), errors="yield"):
            while (error := errors.popleft()) is not None:
                yield error
            yield answer
        yield from (error for error in errors if error is not None)


def _column(values: Sequence[Any]) -> pyarrow.Array:
    """A column that is kept; arrays in it stay Ray's tensors."""
    import pyarrow

    if any(getattr(value, "ndim", 0) > 1 for value in values):
        from ray.data.extensions import ArrowTensorArray

        return ArrowTensorArray.from_numpy(values)
    return pyarrow.array(list(values))


def table(answers: Sequence[Segmentation | SegfastError], labels: str) -> dict[str, pyarrow.Array]:
    """The columns of answers."""
    import pyarrow

    good = [answer if isinstance(answer, Segmentation) else None for answer in answers]
    columns = {
        "height": pyarrow.array([None if one is None else one.labels.shape[0] for one in good], pyarrow.int32()),
        "width": pyarrow.array([None if one is None else one.labels.shape[1] for one in good], pyarrow.int32()),
    }
    if labels == "png":
        columns["labels"] = pyarrow.array([None if one is None else to_png(one) for one in good], pyarrow.binary())
    if labels == "rle":
        found = [None if one is None else runs.encode(one.labels) for one in good]
        lists = pyarrow.list_(pyarrow.int32())
        columns["label_runs"] = pyarrow.array([one and one.labels for one in found], lists)
        columns["run_lengths"] = pyarrow.array([one and one.lengths for one in found], lists)
    shares = pyarrow.map_(pyarrow.string(), pyarrow.float32())
    columns["shares"] = pyarrow.array([None if one is None else list(one.areas.items()) for one in good], shares)
    messages = [None if isinstance(answer, Segmentation) else str(answer) for answer in answers]
    return columns | {"error": pyarrow.array(messages, pyarrow.string())}


def _ahead(pictures: Sequence[Any], readers: int) -> Iterator[Any]:
    """Every picture read, in order; so many threads are at most two pictures each ahead."""
    with ThreadPoolExecutor(readers, "segfast-reader") as pool:
        waiting: deque[Any] = deque()
        try:
            for picture in pictures:
                waiting.append(pool.submit(read, picture))
                if len(waiting) > 2 * readers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read(picture: Any) -> Any:
    """The pixels of a picture, or the error that says why there are none."""
    try:
        if isinstance(picture, bytes):
            picture = io.BytesIO(picture)  # content, which might look like a path
        elif isinstance(picture, str) and "://" in picture:
            picture = io.BytesIO(_fetch(picture))
        return read_image(picture)
    except SegfastError as error:
        return error


def _fetch(address: str) -> bytes:
    """What lies at an address."""
    import fsspec

    try:
        with fsspec.open(address, "rb") as file:
            content: bytes = file.read()
            return content
    except Exception as error:  # each file system has errors of its own
        raise BadImage(
            f"{address} cannot be fetched ({type(error).__name__}: {error}); check it, and run again"
        ) from error
