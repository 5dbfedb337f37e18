"""Many windows in OpenVINO: a pair on every core, and the labels of one at a time."""

import numpy as np
import pytest

import segfast
from segfast.artifacts.golden import PHOTOS, photo
from segfast.errors import NotSupported
from segfast.kernels.stopping import Stopped

# Smaller than the window in one side, its size, and of several windows: floats and bytes, odd and even counts.
SIZES = [(40, 90), (64, 64), (64, 150), (100, 120), (64, 64), (170, 64), (64, 64)]


@pytest.fixture
def mixed():
    return [photo(SIZES[i % len(SIZES)], PHOTOS[i % len(PHOTOS)]) for i in range(19)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_labels_are_those_of_one_at_a_time(tiny_onnx, mixed, threads):
    engine = segfast.Engine(tiny_onnx, runtime="openvino", threads=threads)
    single = [engine.segment(image).labels for image in mixed]
    assert engine._runtime._pool is None, "nothing is compiled for many before many come"
    many = [answer.labels for answer in engine.segment_many(mixed)]
    assert engine._runtime._pool is not None
    assert engine._runtime.group == 2 * threads
    assert all(np.array_equal(one, other) for one, other in zip(single, many, strict=True))


def test_windows_of_one_image_run_on_all_cores_too(tiny_onnx):
    engine, image = segfast.Engine(tiny_onnx, runtime="openvino", threads=2), photo((200, 230))
    before = engine.segment(image[:64, :200]).scores
    many = segfast.Engine(tiny_onnx, runtime="openvino", threads=2)
    many.warm_up()
    np.testing.assert_array_equal(many.segment(image[:64, :200]).scores, before)
    assert engine.prepare(image).window_count >= 8
    expected = np.concatenate([engine.run(window[None]) for window in windows_of(engine, image)])
    np.testing.assert_array_equal(many.run(windows_of(engine, image)), expected)


def windows_of(engine, image):
    (view,) = engine.prepare(image)
    return np.stack(view.windows())


def test_streams_end_at_eight(tiny_onnx):
    engine = segfast.Engine(tiny_onnx, runtime="openvino", threads=64)
    assert engine._runtime.streams == 8
    assert engine._runtime.group == 16


@pytest.mark.parametrize(("error", "raised"), [(RuntimeError("no"), NotSupported), (Stopped(), Stopped)])
def test_a_failure_in_one_stream_is_that_of_the_call(tiny_onnx, monkeypatch, error, raised):
    engine = segfast.Engine(tiny_onnx, runtime="openvino", threads=2)
    engine.warm_up()
    calls = []

    def fail(windows):
        calls.append(len(windows))
        raise error

    monkeypatch.setattr(engine._runtime, "run", fail)
    with pytest.raises(raised):
        engine.run(np.zeros((12, 64, 64, 3), np.uint8))
    assert set(calls) == {2}
