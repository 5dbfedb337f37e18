"""What `segment_many` promises to where its images come from: live sources, reused buffers, errors, interruptions."""

import contextvars
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref

import numba  # noqa: F401 (without which there are no loops to test)
import numpy as np
import pytest
import torch
from helpers import REPOSITORY
from PIL import Image

import segfast
from segfast.errors import BadImage, NotSupported
from segfast.inference import pipeline
from segfast.kernels import cpu, stopping
from segfast.runtimes import HostRuntime

STAGES = [
    pipeline.one_by_one(lambda i: i + 1),
    pipeline.Stage(lambda group: [10 * i for i in group], 2),
    pipeline.one_by_one(lambda i: -i),
]


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return segfast.Engine(tiny_onnx, device="cpu")


def pictures(count):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (64, 70, 3), np.uint8) for _ in range(count)]


def one_array(images, folder):
    buffer = np.empty((64, 70, 3), np.uint8)
    for image in images:
        buffer[:] = image
        yield buffer
    buffer[:] = 0


def one_tensor(images, folder):
    for buffer in one_array(images, folder):
        yield torch.from_numpy(buffer)


def one_picture(images, folder):
    buffer = Image.new("RGB", (70, 64))
    for image in images:
        buffer.paste(Image.fromarray(image))
        yield buffer
    buffer.paste(0, (0, 0, *buffer.size))


def one_file(images, folder):
    path = folder / "frame.png"
    for image in images:
        Image.fromarray(image).save(path)
        yield path
        path.unlink()


def one_open_picture(images, folder):
    for path in one_file(images, folder):
        with Image.open(path) as picture:
            yield picture


@pytest.mark.parametrize("source", [one_array, one_tensor, one_picture, one_file, one_open_picture])
def test_a_source_has_its_buffer_back_when_it_goes_on(engine, tmp_path, source):
    images = pictures(9)
    answers = list(engine.segment_many(source(images, tmp_path)))
    assert len(answers) == 9
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(answer.image, image)
        np.testing.assert_array_equal(answer.labels, engine.segment(image).labels)


def test_a_source_may_wait_for_each_answer(engine):
    answered = queue.Queue()

    def source():
        for image in images:
            yield image
            answered.get(timeout=30)

    images, count = pictures(4), 0
    for image, answer in zip(images, engine.segment_many(source()), strict=True):
        np.testing.assert_array_equal(answer.image, image)
        answered.put(count := count + 1)
    assert count == 4


@pytest.mark.parametrize("strict", [True, False])
def test_an_error_of_the_source_comes_after_its_answers(strict):
    def source():
        yield from range(5)
        raise EOFError("no more")

    results, given = pipeline.answers(source(), STAGES, strict), []
    with pytest.raises(EOFError, match="no more"):
        given.extend(iter(results.__next__, None))
    assert given == [-10, -20, -30, -40, -50]
    assert next(results, None) is None


def test_an_error_of_ours_ends_a_source_too():
    """The source is over: there is no place of an item to give its error in."""

    def source():
        yield 0
        raise BadImage("of the source")

    results = pipeline.answers(source(), STAGES, strict=False)
    assert next(results) == -10
    with pytest.raises(BadImage, match="of the source"):
        next(results)


def test_one_thread_advances_the_source_in_the_callers_context():
    name, seen = contextvars.ContextVar("name"), set()
    name.set("caller")

    def source():
        for i in range(9):
            seen.add((threading.get_ident(), name.get()))
            yield i
        seen.add((threading.get_ident(), name.get()))

    assert len(list(pipeline.answers(source(), STAGES, strict=True))) == 9
    ((thread, told),) = seen
    assert thread != threading.get_ident()
    assert told == "caller"


def test_closing_closes_the_source_in_its_own_thread():
    ended = []

    def source():
        try:
            while True:
                yield len(ended)
        finally:
            ended.append(threading.current_thread().name)

    held = source()
    results = pipeline.answers(held, STAGES, strict=True)
    next(results)
    results.close()
    assert ended == ["segfast-stage-0"]
    assert next(held, None) is None


def test_closing_does_not_wait_for_a_source_that_blocks():
    go_on, ended = threading.Event(), threading.Event()

    def source():
        try:
            yield 1
            go_on.wait(30)
            yield 2
        finally:
            ended.set()

    results = pipeline.answers(source(), STAGES, strict=True)
    assert next(results) == -20
    results.close()
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(30)


def test_a_system_without_threads_is_said_and_those_begun_end(monkeypatch):
    start = threading.Thread.start

    def fail(thread):
        if thread.name.endswith("-2"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(NotSupported, match=r"starting the threads failed .*can't start new thread"):
        list(pipeline.answers(range(9), STAGES, strict=True))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segfast-stage")]


def test_a_pipeline_that_waits_holds_nothing():
    class Item:
        pass

    asked, go_on, kept = threading.Event(), threading.Event(), []

    def source():
        item = Item()
        kept.append(weakref.ref(item))
        yield item
        del item
        asked.set()
        go_on.wait(30)

    stages = [pipeline.one_by_one(lambda item: item), pipeline.Stage(list, 2), pipeline.one_by_one(lambda item: item)]
    results = pipeline.answers(source(), stages, strict=True)
    next(results)
    assert asked.wait(30)
    for _ in range(100):  # the last stage's thread is on its way back to its queue
        if kept[0]() is None:
            break
        time.sleep(0.01)
    assert kept[0]() is None
    go_on.set()
    results.close()


PROGRAMS = {
    "Ctrl-C while the source blocks": """
        threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
        try:
            list(pipeline.answers(source(), [pipeline.one_by_one(abs)], True))
        except KeyboardInterrupt:
            print("interrupted")
    """,
    "exit while the source blocks": """
        results = pipeline.answers(source(), [pipeline.one_by_one(abs)] * 2, True)
        print("interrupted" if next(results) == 1 else "")
    """,
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("case", PROGRAMS)
def test_a_process_ends_although_its_source_blocks(case):
    program = (
        "import signal, threading\n"
        "from segfast.inference import pipeline\n"
        "def source():\n    yield -1\n    threading.Event().wait()\n"
        + "\n".join(line[8:] for line in PROGRAMS[case].splitlines())
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "interrupted", "")


class Slow(HostRuntime):
    """A network that says when it runs, and takes a while."""

    name, device, precision, notes, batch = "slow", "cpu", "fp32", (), 1

    def __init__(self, signals=()):
        self.running, self.calls, self.signals = threading.Event(), 0, signals

    def run(self, windows):
        self.running.set()
        self.calls += 1
        if self.calls in self.signals:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return np.zeros((len(windows), 7, 4, 4), np.float32)


@pytest.mark.parametrize("multiscale", [False, True])
def test_closing_stops_the_network_between_windows(tiny_onnx, multiscale):
    """One image of 49 windows, or 12 views of it: the thread would be at it for seconds."""
    engine = segfast.Engine(tiny_onnx, device="cpu")
    engine._runtime = slow = Slow()
    images = [np.zeros((64, 64, 3), np.uint8), np.zeros((352, 352, 3), np.uint8)]
    answers = engine.segment_many(images, multiscale=multiscale)
    engine._runtime.running.clear()
    first = threading.Thread(target=next, args=(answers,))
    first.start()
    assert slow.running.wait(30)
    first.join(30)
    while slow.calls < (15 if multiscale else 2):
        time.sleep(0.005)
    answers.close()
    before = slow.calls
    assert before < (100 if multiscale else 40)
    time.sleep(0.2)
    assert slow.calls == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segfast-stage")]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("many", [False, True])
def test_ctrl_c_is_looked_at_between_windows(tiny_onnx, many):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    engine._runtime = slow = Slow(signals=[5])
    image = np.zeros((160, 160, 3), np.uint8)
    with pytest.raises(KeyboardInterrupt):
        list(engine.segment_many([image] * 3, multiscale=True) if many else [engine.segment(image, multiscale=True)])
    assert slow.calls in (5, 6)


def test_merging_stops_between_bands_of_rows():
    flag, done = threading.Event(), []

    def task():
        done.append(1)
        flag.set()

    with stopping.stoppable(flag), pytest.raises(stopping.Stopped):
        cpu.run([task] * 9, threads=1)
    assert len(done) == 1
    cpu.run([task] * 9, threads=1)  # outside of the block nothing is called off
    assert len(done) == 10
