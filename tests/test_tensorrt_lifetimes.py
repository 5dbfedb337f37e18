"""Engine files against stand-ins of TensorRT's classes: who keeps whom alive, contexts of graphs, kept kernels."""

import gc
import hashlib
import stat
import threading
import weakref
from dataclasses import replace

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest
from fake_tensorrt import MAGIC, logits
from helpers import tiny_config
from test_plan import made, write

import segfast
from segfast import files
from segfast.artifacts.golden import Golden, photo
from segfast.artifacts.plan import Nodes, Options
from segfast.artifacts.sidecar import read_plan
from segfast.dependencies import tensorrt as trt
from segfast.errors import EngineMismatch
from segfast.export import builder
from segfast.runtimes.rtx_kernels import kernels_file


@pytest.fixture
def fake(monkeypatch):
    return fake_cuda.install(monkeypatch)


def pretend(monkeypatch, fake, kind, path, **options):
    """A library of ours, and an engine file for it."""
    library = fake_tensorrt.pretend(monkeypatch, fake, kind, **options)
    content = MAGIC[kind] + bytes(1000)
    answer = logits(photo((64, 64))[None])
    plan = made(
        path,
        options=Options(kind, ("sm89",), library.batch),
        version=library.__version__,
        device="a GPU",
        digest=hashlib.sha256(content).hexdigest(),
        nodes=Nodes((), ("matmul",)),
        golden=Golden.of("logits", answer),
    )
    write(plan, content)
    return library


@pytest.fixture(params=["tensorrt", "rtx"])
def library(request, monkeypatch, fake, tmp_path):
    return pretend(monkeypatch, fake, request.param, tmp_path / "x.engine")


@pytest.fixture
def rtx(monkeypatch, fake, tmp_path):
    return pretend(monkeypatch, fake, "rtx", tmp_path / "x.engine")


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8)


def test_an_engine_is_verified_when_it_is_opened(library, tmp_path):
    engine = segfast.Engine(tmp_path / "x.engine")
    assert "verified now: relative error" in repr(engine)
    assert read_plan(tmp_path / "x.engine").verified
    assert library.faults == []


def test_objects_go_in_the_order_the_library_asks_for(library, tmp_path):
    gc.collect()
    gc.disable()
    try:
        engine = segfast.Engine(tmp_path / "x.engine")
        engine.run(pictures(7))
        answer = engine.segment(pictures(1)[0])  # keeps its lane, and that all of the library
        program = weakref.ref(engine._runtime._program)
        del engine
        assert program() is not None
        assert answer.scores.shape == (7, 64, 64)
        del answer
        assert program() is None
    finally:
        gc.enable()
    assert library.faults == []


def test_a_plan_that_is_refused_leaves_nothing(library, fake, tmp_path):
    content = b"none of its plans"
    plan = read_plan(tmp_path / "x.engine")
    write(replace(plan, digest=hashlib.sha256(content).hexdigest()), content)
    with pytest.raises(EngineMismatch, match="magic tag does not match"):
        segfast.Engine(tmp_path / "x.engine")
    gc.collect()
    assert library.faults == []


def test_the_logger_of_the_first_engine_serves_all_that_follow(library, tmp_path):
    first, second = (segfast.Engine(tmp_path / "x.engine") for _ in range(2))
    del first
    gc.collect()
    second.run(pictures(2))
    content = b"none of its plans"
    write(replace(read_plan(tmp_path / "x.engine"), digest=hashlib.sha256(content).hexdigest()), content)
    with pytest.raises(EngineMismatch, match="magic tag does not match"):
        segfast.Engine(tmp_path / "x.engine")
    second.run(pictures(4))
    assert library.faults == []


def test_a_listener_hears_what_is_new(fake):
    library = fake_tensorrt.Library(fake, "rtx")
    first = trt.listen(library)
    first.log.log(library.Severity.WARNING, "so what")
    first.log.log(library.Severity.ERROR, " one \n")
    second = trt.listen(library)
    second.log.log(library.Severity.INTERNAL_ERROR, "two")
    assert (first.errors, second.errors) == (["one", "two"], ["two"])
    assert first.log is second.log
    first.clear()
    assert (first.errors, second.errors) == ([], ["two"])
    for number in range(2 * trt.HEARD):
        first.log.log(library.Severity.ERROR, str(number))
    assert first.errors == [str(number) for number in range(trt.HEARD, 2 * trt.HEARD)]


@pytest.mark.parametrize("batch", [(1, 2, 4), (2, 2, 6), (3, 4, 4), (1, 1, 1)])
@pytest.mark.parametrize("kind", ["tensorrt", "rtx"])
def test_every_graph_has_a_context_of_its_own(monkeypatch, fake, tmp_path, kind, batch):
    library = pretend(monkeypatch, fake, kind, tmp_path / "x.engine", batch=batch)
    engine = segfast.Engine(tmp_path / "x.engine")
    for turn in range(3):
        for count in (1, 2, 3, 4, 9):
            windows = pictures(count, seed=turn)
            np.testing.assert_array_equal(engine.run(windows), logits(windows))
            with engine._runtime.lane() as lane:  # resized windows: the same batches, in floats
                given = lane.run(list(windows.astype(np.float32) + 0.25))
            np.testing.assert_array_equal(lane.fetch(lambda given=given: given), logits(windows))
    assert library.faults == []
    assert fake.replays > fake.captures > 1


def test_nothing_is_made_after_warming_up(library, fake, tmp_path):
    engine = segfast.Engine(tmp_path / "x.engine")
    engine.warm_up()
    before, contexts, compiled = fake.captures, library.contexts, list(library.compiled)
    for size in ((64, 64), (30, 80), (64, 129)):
        for multiscale in (False, True):
            image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
            engine.segment(image, multiscale=multiscale)
    engine.run(pictures(11), labels=True)
    assert (fake.captures, library.contexts, library.compiled) == (before, contexts, compiled)
    assert library.faults == []
    assert fake.device_waits == 0


def test_a_broken_capture_takes_its_context_along(library, fake, tmp_path, monkeypatch):
    engine = segfast.Engine(tmp_path / "x.engine")
    network, broken = fake.network, []

    def disturbing(function):
        called = network(function)

        def call(given):
            if fake.recording is not None and len(broken) < 2:
                broken.append(True)
                fake.recording.broken = True
            return called(given)

        return call

    monkeypatch.setattr(fake, "network", disturbing)
    for turn in range(5):
        windows = pictures(4, seed=turn)
        np.testing.assert_array_equal(engine.run(windows), logits(windows))
    assert "2 captures of a CUDA graph broken" in repr(engine)
    assert library.faults == []


# Kernels of TensorRT-RTX, kept beside the plan --------------------------------------------------------------------------


def test_kernels_are_compiled_once(rtx, tmp_path):
    path = tmp_path / "x.engine"
    engine = segfast.Engine(path)
    engine.warm_up()
    assert sorted(rtx.compiled) == [1, 2, 4]  # though there are many contexts of each batch
    assert kernels_file(path).is_file()
    rtx.compiled.clear()
    again = segfast.Engine(path)
    again.warm_up()
    again.run(pictures(9))
    assert rtx.compiled == []
    assert "kernels" not in repr(again)
    assert rtx.faults == []


def test_kernels_are_kept_without_warming_up(rtx, tmp_path):
    segfast.Engine(tmp_path / "x.engine").run(pictures(2))
    first = kernels_file(tmp_path / "x.engine").read_bytes()
    segfast.Engine(tmp_path / "x.engine").run(pictures(4))
    assert kernels_file(tmp_path / "x.engine").read_bytes() != first
    rtx.compiled.clear()
    segfast.Engine(tmp_path / "x.engine").run(pictures(7))
    assert rtx.compiled == []


@pytest.mark.parametrize("what", ["empty", "cut", "flipped", "foreign", "another plan", "another GPU", "a folder"])
def test_kernels_that_are_of_no_use_are_dropped_with_a_note(rtx, tmp_path, what):
    path = tmp_path / "x.engine"
    segfast.Engine(path).warm_up()
    file = kernels_file(path)
    whole = file.read_bytes()
    if what == "another GPU":
        rtx.gpu = "another GPU"
    elif what == "another plan":
        content = MAGIC["rtx"] + bytes(2000)
        write(replace(read_plan(path), digest=hashlib.sha256(content).hexdigest()), content)
    elif what == "a folder":
        file.unlink()
        file.mkdir()
    else:
        changed = {"empty": b"", "cut": whole[:-1], "flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "foreign": b"[]"}
        file.write_bytes(changed[what])
    rtx.compiled.clear()
    engine = segfast.Engine(path)
    assert "x.engine.kernels" in repr(engine)
    assert "compiled again" in repr(engine)
    engine.warm_up()
    np.testing.assert_array_equal(engine.run(pictures(3)), logits(pictures(3)))
    assert sorted(rtx.compiled) == [1, 2, 4]
    rtx.compiled.clear()
    after = segfast.Engine(path)
    after.warm_up()
    assert ("compiled again" in repr(after)) == (what == "a folder")
    assert rtx.compiled == ([] if what != "a folder" else sorted([1, 2, 4], reverse=True))
    assert rtx.faults == []


def test_kernels_that_cannot_be_written_are_noted_once(rtx, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    engine = segfast.Engine(tmp_path / "x.engine")
    monkeypatch.setattr(files.os, "fsync", full)
    engine.run(pictures(1))
    engine.run(pictures(4))
    assert repr(engine).count("cannot be kept") == 1
    assert "the disk is full" in repr(engine)
    np.testing.assert_array_equal(engine.run(pictures(2)), logits(pictures(2)))
    assert not list(tmp_path.glob("*kernels*"))


def test_a_library_without_runtime_caches_is_noted(rtx, tmp_path):
    rtx.takes_caches = False
    engine = segfast.Engine(tmp_path / "x.engine")
    np.testing.assert_array_equal(engine.run(pictures(2)), logits(pictures(2)))
    assert "kernels are compiled at every start" in repr(engine)


def test_a_plan_that_is_not_published_yet_leaves_no_kernels(rtx, tmp_path):
    from segfast.runtimes.tensorrt import TensorRTRuntime

    plan = read_plan(tmp_path / "x.engine")
    assert TensorRTRuntime(plan, plan.path, plan.read(), "cuda:0").verification(plan).failure is None
    assert not kernels_file(plan.path).exists()


def test_kept_kernels_are_readable_as_the_plan_is(rtx, tmp_path):
    segfast.Engine(tmp_path / "x.engine").warm_up()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x.engine", kernels_file(tmp_path / "x.engine"))]
    assert modes[0] == modes[1]


# Building -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timings", [None, b"earlier", b"another GPU's"])
def test_a_build_holds_what_the_compiler_still_needs(fake, timings):
    library = fake_tensorrt.Library(fake, "tensorrt")
    built = builder._build(library, b"onnx", (64, 64), Options("tensorrt", ("sm89",)), timings, threading.Event())
    assert bytes(built.plan) == MAGIC["tensorrt"]
    assert built.timings == b"timings"
    assert built.nodes.half == ("matmul",)
    assert bool(built.notes) == (timings == b"another GPU's")
    del built
    assert library.faults == []


def test_the_classes_of_the_tiny_model_are_those_of_the_stand_in():
    assert tiny_config().num_classes == 7
