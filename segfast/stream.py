"""Requests of many clients as one endless `segment_many`: whatever waits shares batches, and the stages overlap.

    from segfast.stream import Stream

    stream = Stream(segfast.Engine("seg-b-mask-16-512-fp16.onnx"), places=32)
    labels = stream.submit("photo.jpg").result().labels  # from any thread; asyncio.wrap_future for coroutines

`python -m segfast.serve` is built on it; docs/serving.md shows a server of one's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from time import sleep

from segfast.engine import Engine
from segfast.pictures.inputs import ImageLike
from segfast.segmentation import Segmentation

Answer = Future[Segmentation]
POLL = 0.2  # seconds between two looks of a source that waits: whether its run is over


class Stream:
    """A queue of bounded length, and a thread that answers it in order.

    Args:
        places: how many pictures wait at most; the Engine holds a few more (as of `Engine.segment_many`).
    """

    def __init__(self, engine: Engine, places: int):
        self._engine = engine
        self._queue: Queue[tuple[ImageLike, Answer] | None] = Queue(places)
        self._closed, self._door = False, Lock()
        self._thread = Thread(target=self._serve, name="segfast-stream", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        return self._queue.qsize()

    @property
    def full(self) -> bool:
        """Whether the next picture would be refused."""
        return self._closed or self._queue.full()

    def submit(self, picture: ImageLike) -> Answer:
        """The answer to come for whatever `Engine.segment` takes, or its error. Cancelled before its turn, it costs nothing.

        Raises:
            queue.Full: too many wait already, or it is closed.
        """
        answer: Answer = Future()
        with self._door:  # nothing gets in behind the last
            if self._closed:
                raise Full
            self._queue.put_nowait((picture, answer))
        return answer

    def close(self) -> None:
        """Answer what waits, then end."""
        with self._door:
            self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while not self._closed or self.waiting:
            self._run()

    def _run(self) -> None:
        """One `segment_many`, which ends where the queue does, or with a fault of the program."""
        given: deque[Answer] = deque()  # in the order of the answers
        over = Event()
        source = self._pictures(given, over)
        try:
            for found in self._engine.segment_many(source, errors="yield"):
                answer = given.popleft()
                answer.set_result(found) if isinstance(found, Segmentation) else answer.set_exception(found)
        except Exception as error:
            # Those it met have it for their answer, and others go on.
            over.set()
            _close(source)
            for answer in given:
                answer.set_exception(error)

    def _pictures(self, given: deque[Answer], over: Event) -> Generator[ImageLike, None, None]:
        while not over.is_set():
            try:
                waiting = self._queue.get(timeout=POLL)
            except Empty:
                continue
            if waiting is None:
                return
            picture, answer = waiting
            if answer.set_running_or_notify_cancel():
                given.append(answer)
                yield picture


def _close(source: Generator[ImageLike, None, None]) -> None:
    """See that a source takes nothing more, which would be lost to the next run."""
    while True:
        try:
            return source.close()
        except ValueError:  # a thread of the Engine is in it, and leaves soon
            sleep(POLL)
