"""The work of an actor: the labels of a chunk's pictures, then its part of the manifest."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow

from segfast.encodings import to_png
from segfast.errors import CannotWrite, SegfastError
from segfast.pictures.selection import LABELS
from segfast.ray import SegmentBatch, table
from segfast.scale import manifest
from segfast.scale.attempts import Attempts
from segfast.scale.sources import Picture
from segfast.scale.store import Store
from segfast.segmentation import Segmentation


class ChunkWriter:
    """What segments, and the store to which its labels go.

    Args:
        run: whose deaths count, as of `Attempts`.
    """

    def __init__(self, segment: SegmentBatch, store: Store, run: str):
        self._segment, self._store, self._run = segment, store, run

    def write(self, chunk: list[Picture]) -> list[str]:
        """Write what becomes of a chunk; `NAME: why` of the pictures that have no labels.

        Raises:
            As `Store.write`.
        """
        attempts, parts, failed = Attempts(self._store, self._run, manifest.title(chunk)), [], []
        for picture, answer in zip(chunk, self._answers(chunk, attempts), strict=True):
            outcome = self._write(picture, answer)
            bad = isinstance(outcome, SegfastError)
            failed += [f"{picture.name}: {outcome}"] if bad else []
            head = (picture.address, picture.name, None if bad else f"{picture.name}{LABELS}")
            named = zip(("source", "name", "labels"), head, strict=True)
            columns = {name: pyarrow.array([value], pyarrow.string()) for name, value in named}
            parts.append(pyarrow.table(columns | table([outcome], "none")))
        manifest.write_part(self._store, chunk, pyarrow.concat_tables(parts))
        attempts.end()
        return failed

    def _answers(self, chunk: list[Picture], attempts: Attempts) -> Iterator[Segmentation | SegfastError]:
        """What becomes of every picture; one by one where actors died at the chunk, so that it is known at which."""
        if not attempts.careful:
            yield from self._segment.answers([picture.address for picture in chunk])
            return
        for picture in chunk:
            refusal = attempts.at(picture.name)
            yield from [refusal] if refusal else self._segment.answers([picture.address])

    def _write(self, picture: Picture, answer: Segmentation | SegfastError) -> Segmentation | SegfastError:
        """The answer, once its labels are written; a name that cannot be written is the picture's error."""
        try:
            if isinstance(answer, Segmentation):
                self._store.write(f"{picture.name}{LABELS}", to_png(answer))
        except CannotWrite as error:
            if not error.own:
                raise
            return error
        return answer
