"""Several stages at once: while one image is in the network, the next is read and the last is merged.

A thread of its own advances the source, and is done with an item (copied, decoded) before it asks for the
next: a source may fill one buffer again and again, close its file, or delete it. It asks only where there
is a place for what comes. What is finished waits for nothing, so that a source may wait for an answer.
"""

from __future__ import annotations

import atexit
import contextvars
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import pairwise
from queue import Empty, SimpleQueue
from threading import Event, Thread, current_thread
from typing import Any, NamedTuple

from segfast.errors import SegfastError
from segfast.inference.border import border
from segfast.inference.room import Room
from segfast.kernels.stopping import Stopped, check, stoppable


class Stage(NamedTuple):
    """What a thread of its own does to the items, up to `group` of them at a time.

    Attributes:
        run: the results of a list of items, in order; a SegfastError if it cannot.
    """

    run: Callable[[list[Any]], list[Any]]
    group: int = 1


def one_by_one(function: Callable[[Any], Any]) -> Stage:
    """A stage that takes every item for itself."""
    return Stage(lambda items: [function(item) for item in items])


# Seconds that closing waits for the source. One that blocks for longer is left to itself: its thread ends, and a
# generator is closed, when it next gives something. No thread of a pipeline keeps the interpreter from ending.
GRACE = 0.5
# Seconds between two looks for signals while waiting: one that another thread received does not end the wait itself,
# and on Windows none does.
POLL = 0.2
_NOTHING = object()


def answers(
    items: Iterable[Any], stages: Sequence[Stage], strict: bool, room: Room | None = None
) -> Generator[Any, None, None]:
    """Every item through all stages, in order; each stage has a thread of its own.

    The first stage, if it takes items one by one, has done its work before the source is advanced. Groups
    of a sequence are filled; those of any other source are what is at hand. An error of the source is
    raised after the answers of all that it gave.

    Args:
        strict: raise an item's SegfastError in its turn; otherwise yield it in its place.
        room: for what is held at once, besides the places between the stages; a new one. Where it is full, groups of a
            sequence are what is at hand too.
    """
    line = _Line(items, stages, Room() if room is None else room)
    try:
        with border("starting the threads"):
            line.start()
        yield from line.results(strict)
    finally:
        line.stop()


class _End(NamedTuple):
    """After the last item: the error that there are no more for, if it is one."""

    error: BaseException | None = None


class _Channel:
    """From one thread to the next, in order; at most so many items as it has places.

    Of simple queues, whose operations are whole: a signal comes before one of them or after it.
    """

    def __init__(self, places: int):
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(places):
            self._places.put(None)

    def reserve(self) -> None:
        """Wait for a place; `put` fills it."""
        self._places.get()
        check()

    def put(self, item: Any) -> None:
        """Hand on an item, or an _End, which needs no place."""
        self._items.put(item)

    def take(self, most: int = 1, fill: Callable[[], bool] = lambda: True) -> tuple[list[Any], _End | None]:
        """Wait for the next item, and take up to `most` that are there; or wait for all of them, while `fill` says so."""
        taken: list[Any] = []
        while len(taken) < most:
            wait = not taken or fill()
            try:
                item = self._items.get(wait, POLL)
            except Empty:
                if wait:
                    continue
                break
            if isinstance(item, _End):
                return taken, item
            taken.append(item)
            self._places.put(None)
        return taken, None

    def wake_giver(self) -> None:
        """Let who waits for a place look whether the work was called off."""
        self._places.put(None)

    def wake_taker(self) -> None:
        """Let who waits for an item look whether the work was called off."""
        self._items.put(_End())


class _Line:
    """The threads of one pipeline: the source's, and one for each stage that it does not do itself."""

    def __init__(self, items: Iterable[Any], stages: Sequence[Stage], room: Room):
        read, rest = (stages[0], stages[1:]) if stages[0].group == 1 else (None, stages)
        self._stopped, self._room = Event(), room
        sizes = [1, *(stage.group for stage in rest), 1]
        # A group fits in at once, so that its stage goes on, and so does the next one.
        self._channels = [_Channel(max(pair)) for pair in pairwise(sizes)]
        sequence = isinstance(items, Sequence)
        context = contextvars.copy_context()  # the source's code finds the caller's
        self._threads = [_thread(0, context.run, self._read, items, read)] + [
            _thread(i, self._work, stage, *ends, sequence)
            for i, (stage, ends) in enumerate(zip(rest, pairwise(self._channels), strict=True), 1)
        ]

    def start(self) -> None:
        """Start all threads."""
        atexit.register(self.stop)  # or they would meet an interpreter that is going
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Call the work off, and wait until the threads have ended; for the source at most GRACE."""
        atexit.unregister(self.stop)
        self._stopped.set()
        for channel in self._channels:
            channel.wake_giver()
        for channel in self._channels[:-1]:
            channel.wake_taker()
        for thread in reversed(self._threads):
            if thread.ident is not None and thread is not current_thread():
                thread.join(GRACE if thread is self._threads[0] else None)

    def results(self, strict: bool) -> Iterator[Any]:
        """What the last stage gives; then the error that ended it early, if one did."""
        while True:
            taken, end = self._channels[-1].take()
            if taken and strict and isinstance(taken[0], SegfastError):
                raise taken.pop()
            if taken:
                self._room.let_go()
                yield taken.pop()  # held here no longer than by who gets it
            if end is not None:
                try:
                    if end.error is not None:
                        raise end.error
                    return
                finally:
                    del end  # its traceback leads here: a cycle would keep it

    def _read(self, items: Iterable[Any], read: Stage | None) -> None:
        """The source's thread."""
        source: Iterator[Any] | None = None
        sink = self._channels[0]
        try:
            with stoppable(self._stopped):
                source = iter(items)
                while _pull(source, read, sink, self._room):
                    while self._room.full:
                        self._stopped.wait(POLL)
                        check()
            sink.put(_End())
        except Stopped:
            pass
        except BaseException as error:
            sink.put(_End(error))
        finally:
            if isinstance(source, Generator):
                source.close()

    def _work(self, stage: Stage, source: _Channel, sink: _Channel, sequence: bool) -> None:
        """A stage's thread."""

        def fill() -> bool:
            return sequence and not self._room.full

        try:
            with stoppable(self._stopped):
                while (end := _pass_on(stage, source, sink, fill)) is None:
                    pass
            sink.put(end)
        except Stopped:
            pass
        except BaseException as error:
            sink.put(_End(error))


def _thread(number: int, function: Callable[..., Any], *arguments: Any) -> Thread:
    return Thread(target=function, args=arguments, name=f"segfast-stage-{number}", daemon=True)


# One step each, whose items are gone when it returns: a thread that waits holds none.


def _pull(source: Iterator[Any], read: Stage | None, sink: _Channel, room: Room) -> bool:
    """One item from the source, read, where there is a place for it; whether there was one."""
    sink.reserve()
    item = next(source, _NOTHING)
    check()
    if item is _NOTHING:
        return False
    item = _attempt(read, [item])[0] if read is not None else item
    room.add(item)  # before its answer can be taken
    sink.put(item)
    return True


def _pass_on(stage: Stage, source: _Channel, sink: _Channel, fill: Callable[[], bool]) -> _End | None:
    """One group through a stage; the end, if that has come."""
    group, end = source.take(stage.group, fill)
    check()
    for result in _attempt(stage, group) if group else []:
        sink.reserve()
        sink.put(result)
    return end


def _attempt(stage: Stage, group: list[Any]) -> list[Any]:
    """A stage's results for a group; an item's error travels on as a value in its place."""
    good = [item for item in group if not isinstance(item, SegfastError)]
    try:
        results = iter(stage.run(good) if good else [])
    except SegfastError as error:
        if len(good) > 1:  # whose error is it?
            return [result for item in group for result in _attempt(stage, [item])]
        results = iter([error])
    return [item if isinstance(item, SegfastError) else next(results) for item in group]
