"""The three stages of an Engine: prepare, infer, merge."""

import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_config, tiny_model

import segfast
from segfast.errors import BadImage, BadOption, NotSupported
from segfast.inference import limits
from segfast.inference.requests import lay_out
from segfast.kernels import loops, merge
from segfast.kernels.merge import Windows, merge_windows
from segfast.machine import memory
from segfast.runtimes import HostRuntime, select
from segfast.runtimes.lanes import Lanes

SIZES = [(64, 64), (30, 40), (100, 150)]
OPTIONS = [{}, {"multiscale": True}, {"stride": 16}, {"fit": (120, 90)}]


def pictures(*sizes):
    return [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]


@pytest.fixture(params=["openvino", "onnxruntime", "pytorch", "lanes"])
def engine(request, tiny_onnx, tiny_checkpoint):
    if request.param == "lanes":
        return on_lanes(segfast.Engine(tiny_checkpoint, device="cpu"))
    path = tiny_checkpoint if request.param == "pytorch" else tiny_onnx
    return segfast.Engine(path, runtime=request.param, device="cpu")


def on_lanes(engine):
    """An engine whose runtime has a GPU's lanes, on the CPU."""
    runtime = engine._runtime
    network = runtime.logits
    runtime._lanes = Lanes(lambda: network, "cpu", engine.protocol.window, 4)
    return engine


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_stages_are_segment(engine, options):
    images = pictures(*SIZES)
    requests = [engine.prepare(image, **options) for image in images]
    for image, result in zip(images, engine.infer(requests), strict=True):
        answer, expected = engine.merge(result), engine.segment(image, **options)
        np.testing.assert_array_equal(answer.labels, expected.labels)
        np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)
        np.testing.assert_array_equal(answer.image, image)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_request_runs_again_on_any_thread(engine, options):
    (image,) = pictures((70, 90))
    request, answers = engine.prepare(image, **options), []
    image[:] = 0  # the caller's buffer is his own again

    def run():
        answers.append(engine.merge(engine.infer([request])[0]).labels)

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    run()
    assert len(answers) == 3
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_results_stay_what_they_are(engine):
    one, other = (engine.prepare(image) for image in pictures((64, 64), (64, 64)))
    (result,) = engine.infer([one])
    before = result.lane.fetch(lambda: result.views[0].logits).copy()
    for _ in range(3):
        engine.infer([other, other, other])
    np.testing.assert_array_equal(result.lane.fetch(lambda: result.views[0].logits), before)
    first, second = engine.merge(result), engine.merge(result)  # as often as one likes
    np.testing.assert_array_equal(first.labels, second.labels)
    assert not np.array_equal(first.labels, engine.merge(engine.infer([other])[0]).labels)


def test_views_of_both_kinds_in_one_call(engine):
    image, other = pictures((64, 64), (40, 90))
    requests = [engine.prepare(image), engine.prepare(other, multiscale=True)]
    assert [len(request) for request in requests] == [1, 12]
    assert requests[1].window_count == sum(len(view.origins) for view in requests[1]) > 12
    answers = [engine.merge(result).labels for result in engine.infer(requests)]
    np.testing.assert_array_equal(answers[0], engine.segment(image).labels)
    np.testing.assert_array_equal(answers[1], engine.segment(other, multiscale=True).labels)


def test_labels_files_have_the_stages_too(tiny_labels_onnx):
    engine = segfast.Engine(tiny_labels_onnx, device="cpu")
    images = pictures((64, 64), (64, 64))
    assert engine.infer([]) == []
    results = engine.infer([engine.prepare(image) for image in images])
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(engine.merge(result).labels, engine.segment(image).labels)
    with pytest.raises(NotSupported, match="exactly 64×64"):
        engine.prepare(pictures((64, 65))[0])


def test_what_belongs_to_another_engine_is_refused(tiny_onnx):
    engine, other = (segfast.Engine(tiny_onnx, device="cpu") for _ in range(2))
    request = engine.prepare(pictures((64, 64))[0])
    assert engine.infer([]) == []
    with pytest.raises(BadOption, match="what this Engine's prepare gave; got another's request"):
        other.infer([request])
    with pytest.raises(BadOption, match="what this Engine's infer gave; got another's result"):
        other.merge(engine.infer([request])[0])
    for wrong in (request.pixels, None, "a.png"):
        with pytest.raises(BadOption, match="infer takes what"):
            engine.infer([wrong])
        with pytest.raises(BadOption, match="merge takes what"):
            engine.merge(wrong)
    with pytest.raises(BadOption, match=r"engine\.infer\(\[request\]\)"):
        engine.infer(request)


def test_requests_come_from_any_iterable_and_in_any_number(engine):
    images = pictures(*[(64, 64)] * 5, (40, 70))
    results = engine.infer(engine.prepare(image) for image in images)
    assert len(results) == 6
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(engine.merge(result).labels, engine.segment(image).labels)


def test_what_a_caller_does_to_an_answer_stays_with_it(tiny_onnx, tiny_labels_onnx):
    for path in (tiny_onnx, tiny_labels_onnx):
        engine, (image,) = segfast.Engine(path, device="cpu"), pictures((64, 64))
        request = engine.prepare(image)
        (result,) = engine.infer([request])
        answer, expected = engine.merge(result), engine.segment(image)
        with pytest.raises(ValueError, match="read-only"):
            answer.image[:] = 0
        answer.labels[:] = 0
        np.testing.assert_array_equal(engine.merge(result).labels, expected.labels)
        np.testing.assert_array_equal(request.pixels, image)
        expected.image[:] = 0  # its own


def test_layouts_that_engines_share_cannot_be_changed(tiny_onnx):
    engine, (image,) = segfast.Engine(tiny_onnx, device="cpu"), pictures((100, 150))
    request = engine.prepare(image)
    hash(lay_out((100, 150), False, engine.protocol, None, engine._network))
    assert all(isinstance(view.origins, tuple) for view in [*request, *engine.infer([request])[0].views])


def test_requests_and_results_stay_in_their_process(tiny_onnx):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    request = engine.prepare(pictures((64, 64))[0])
    with pytest.raises(NotSupported, match="send the image"):
        pickle.dumps(request)
    with pytest.raises(NotSupported, match="send the Segmentation"):
        pickle.dumps(engine.infer([request])[0])
    assert pickle.loads(pickle.dumps(engine.segment(request.pixels))).labels.shape == (64, 64)


def test_a_protocol_of_lists(tiny_model_of_lists):
    (image,) = pictures((70, 90))
    engine = segfast.Engine(tiny_model_of_lists, device="cpu")
    same = segfast.Engine(tiny_model(), device="cpu")
    np.testing.assert_array_equal(engine.segment(image).labels, same.segment(image).labels)
    np.testing.assert_array_equal(
        engine.segment(image, multiscale=np.bool_(True)).labels, same.segment(image, multiscale=True).labels
    )


@pytest.fixture
def tiny_model_of_lists():
    model = tiny_model()
    protocol = replace(model.config.protocol, mean=[0.5] * 3, std=[0.5] * 3)
    model.config = replace(model.config, protocol=protocol)
    return model


def test_errors_of_preparing(tiny_onnx):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    (image,) = pictures((64, 64))
    with pytest.raises(BadImage, match="no file"):
        engine.prepare("none.jpg")
    with pytest.raises(BadOption, match="stride"):
        engine.prepare(image, stride=0)
    with pytest.raises(BadOption, match="fit"):
        engine.prepare(image, fit=(1, 2))


def test_memory_is_looked_at_every_time(tiny_onnx, monkeypatch):
    """Layouts are remembered, what is free is not."""
    engine, (image,) = segfast.Engine(tiny_onnx, device="cpu"), pictures((300, 400))
    monkeypatch.setattr(limits, "SMALL", 0)
    before = lay_out.cache_info().hits
    for free in (1 << 40, 1 << 10, 1 << 40):
        monkeypatch.setattr(memory, "available", lambda free=free: free)
        if free == 1 << 10:
            with pytest.raises(NotSupported, match="GB of memory"):
                engine.prepare(image)
        else:
            assert len(engine.prepare(image)) == 1
    assert lay_out.cache_info().hits == before + 2  # of three


def test_what_was_laid_out_here_is_not_checked_again(tiny_onnx, monkeypatch):
    engine, (image,) = segfast.Engine(tiny_onnx, device="cpu"), pictures((100, 90))
    expected = engine.segment(image, multiscale=True).labels

    def check(*arguments):
        raise AssertionError("checked")

    monkeypatch.setattr(merge, "_views", check)
    np.testing.assert_array_equal(engine.segment(image, multiscale=True).labels, expected)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "strided", "tensor", "bf16"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_unchecked_merge_is_the_checked_one(kind, count):
    logits = np.random.default_rng(0).normal(size=(4, 5, 6, 6)).astype(np.float32)
    given = {
        "fp32": logits,
        "fp16": logits.astype(np.float16),
        "strided": np.ascontiguousarray(logits.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "tensor": torch.from_numpy(logits).half(),
        "bf16": torch.from_numpy(logits).bfloat16(),
    }[kind]
    origins = [(y, x) for y in (0, 32) for x in (0, 40)]
    views = [Windows(given, origins, (96, 96), (96, 96), (128, 136), mirrored) for mirrored in (False, True)[:count]]
    expected = merge_windows(views, (120, 140))
    np.testing.assert_array_equal(merge.merge_laid_out(views, (120, 140)), expected)
    np.testing.assert_array_equal(merge.merge_laid_out(views, (120, 140), 1), expected)


class OnAGpu(HostRuntime):
    """As ONNX Runtime is on one: the network runs there, the logits come back."""

    name, device, precision, batch, notes = "ONNX Runtime", "cuda", "fp16", 8, []

    def run(self, windows):
        return np.zeros((len(windows), 7, 4, 4), np.float32)


def test_logits_that_come_back_are_the_hosts(monkeypatch):
    config = tiny_config()
    opened = select.Opened(OnAGpu(), config, config.protocol, "logits", [])
    monkeypatch.setattr(select, "open_model", lambda path, options: opened)
    monkeypatch.setattr(loops, "_failed", ["numba is missing"])
    monkeypatch.setattr(loops, "load", lambda name: None)
    engine = segfast.Engine("model.onnx", device="cpu")
    assert "windows merged in NumPy" in repr(engine)
    (image,) = pictures((300, 400))
    took = []
    monkeypatch.setattr(limits.Need, "check", lambda need: took.append(need.bytes))
    windows = engine.prepare(image).window_count
    assert took[0] > windows * 7 * 4 * 4 * 4 + image.nbytes
