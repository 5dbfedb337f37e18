"""What processes die of: Ray starts the actor again, for ever, so that somebody must see it, and end that.

A process that gets ready leaves a mark until it is; a run at which too many stay is ended.

While a chunk is at work, a file beside its part of the manifest counts how often it was begun. Where that is too often, its
pictures are taken one by one, and the file says at which. Its name begins with `_`, so that no reader takes it for a part.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from segfast.errors import NotSupported
from segfast.scale.manifest import FOLDER
from segfast.scale.store import Store

# Deaths at a chunk until its pictures are taken one by one, and then at a picture until it is left.
MOST = 2


class Attempts:
    """How often a run has begun a chunk, and its pictures; this one is counted.

    Args:
        run: whose deaths count; those of others may have been ended by their users.
        title: of the chunk.
    """

    def __init__(self, store: Store, run: str, title: str):
        self._store, self._name = store, f"{FOLDER}/_{title}.json"
        content = store.read(self._name)
        found = json.loads(content) if content else {}
        mine = found.get("run") == run
        self._begun: int = found["begun"] + 1 if mine else 1
        self._deaths: dict[str, int] = found["pictures"] if mine else {}
        self._run, self._last = run, ""
        self._save()

    @property
    def careful(self) -> bool:
        """Whether pictures are to be taken one by one."""
        return self._begun > MOST

    def at(self, name: str) -> NotSupported | None:
        """Go on to a picture, the one before having ended well; or why it is left."""
        self._deaths.pop(self._last, None)
        if self._deaths.get(name, 0) >= MOST:
            self._last = ""
            return NotSupported(f"the process died {MOST} times over it; see whether memory holds it, or leave it out")
        self._last = name
        self._deaths[name] = self._deaths.get(name, 0) + 1
        self._save()
        return None

    def end(self) -> None:
        """The chunk is done."""
        self._store.remove(self._name)

    def _save(self) -> None:
        found = {"run": self._run, "begun": self._begun, "pictures": self._deaths}
        self._store.write(self._name, json.dumps(found).encode())


@contextmanager
def starting(store: Store, run: str, most: int) -> Iterator[None]:
    """A block that gets an actor ready, and tells by a mark where its process dies in it.

    Raises:
        NotSupported: so many have since the last that came up.
    """
    prefix = f"{FOLDER}/_start-{run}-"
    marks = [name for name in store.names(FOLDER) if name.startswith(prefix)]
    try:
        if len(marks) >= most:
            raise NotSupported(
                f"{most} processes died as they opened the model; see whether memory holds it, and whether "
                "segfast.segment can open it there"
            )
        marks.append(f"{prefix}{secrets.token_hex(4)}")
        store.write(marks[-1], b"")
        yield
    finally:
        for name in marks:
            store.remove(name)
