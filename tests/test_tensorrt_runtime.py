"""Engines of TensorRT and TensorRT-RTX where they run, against the fp32 engine of the CPU; and, on CPUs, our side of a call."""

import gc
import threading
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny_model
from test_engine_gpu import picture, random_model, relative_error, same_labels

import segfast
from segfast.artifacts.plan import sidecar_path
from segfast.artifacts.sidecar import read_plan, to_text
from segfast.dependencies import tensorrt as trt
from segfast.errors import BadModel, NotSupported
from segfast.export import build_engine, export_onnx
from segfast.machine import devices, nvidia
from segfast.runtimes.lanes import Lanes
from segfast.runtimes.tensorrt_calls import Network

ERROR = 5e-3  # of half-precision logits, the ratio of the norms


# Our side of a call, without a library: the network is the sum over the pixels ------------------------------------------


class Summing:
    """What `Network` asks of a runtime, on the CPU: it sums each window, and remembers what it was given."""

    def __init__(self, smallest):
        self.smallest, self.made, self.calls = smallest, [], []

    def context(self, batch):
        self.made.append(batch)
        return SimpleNamespace(batch=batch, update_device_memory_size_for_shapes=lambda: 1000 * batch)

    def answer(self, batch):
        return torch.full((batch, 1), -1.0)

    def execute(self, context, scratch, windows, answer):
        assert windows.dtype == torch.uint8
        assert windows.is_contiguous()
        assert len(windows) == len(answer) == context.batch
        assert scratch.numel() == 1000 * context.batch
        self.calls.append(len(windows))
        answer[:, 0] = windows.double().sum((1, 2, 3))


def ran(smallest, largest, windows):
    runtime = Summing(smallest)
    with Lanes(lambda: Network(runtime), "cpu", (8, 6), largest).lane() as lane:
        answer = lane.run(windows)
        again = lane.run(windows)
    np.testing.assert_array_equal(answer, again)
    assert sorted(runtime.made) == sorted(set(runtime.calls))  # one context for each batch, made once
    return answer[:, 0].numpy(), runtime.calls


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 30])
@pytest.mark.parametrize(("smallest", "largest"), [(1, 8), (4, 8), (8, 8), (1, 1), (1, 6), (3, 5)])
def test_batches_outside_the_profile_are_split_or_filled(smallest, largest, count):
    windows = [np.random.default_rng(i).integers(0, 256, (8, 6, 3), np.uint8) for i in range(count)]
    answer, calls = ran(smallest, largest, windows)
    np.testing.assert_array_equal(answer, [window.sum() for window in windows])
    assert all(smallest <= batch <= largest for batch in calls)


def test_resized_windows_are_rounded():
    windows = [np.full((8, 6, 3), value, np.float32) for value in (0.4, 254.7, 255.0, 300.0, -5.0, 1.5)]
    answer, _ = ran(1, 8, windows)
    np.testing.assert_array_equal(answer / 144, [0, 255, 255, 255, 0, 2])


# On a GPU -------------------------------------------------------------------------------------------------------------


def here():
    """Which compilers build for the GPU that is here, and run."""
    if not devices.nvidia_gpus() or not torch.cuda.is_available():
        return []
    from segfast.export.targets import CARDS

    fits = {"tensorrt": True, "rtx": nvidia.capability("cuda:0") in CARDS}
    return [kind for kind in trt.COMPILERS if find_spec(trt.COMPILERS[kind].module) and fits[kind]]


GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not here(), reason="needs an NVIDIA GPU, and TensorRT or TensorRT-RTX for it"),
]


def on_gpu(function):
    for mark in GPU:
        function = mark(function)
    return function


@pytest.fixture(scope="module")
def model():
    return tiny_model(scale=2.0)


@pytest.fixture(scope="module")
def exact(model):
    return segfast.Engine(model, device="cpu")


@pytest.fixture(scope="module", params=here() or ["no GPU"])
def built(request, model, tmp_path_factory):
    """An engine file of the tiny model, and how it was built."""
    folder = tmp_path_factory.mktemp(request.param)
    export_onnx(model, folder / "tiny.onnx")
    return folder / "tiny.engine", build_engine(folder / "tiny.onnx", folder / "tiny.engine", compiler=request.param)


@on_gpu
def test_a_build_on_a_gpu_is_verified(built):
    path, report = built
    assert report.verification.failure is None
    assert report.verification.inspection.wide == ()
    assert report.verification.comparison.relative_error < ERROR
    assert "attention: " in str(report)
    plan = read_plan(path)
    assert plan.verified
    assert plan.driver == nvidia.driver_version()
    assert nvidia.capability("cuda:0") in plan.options.targets


@on_gpu
def test_an_unverified_engine_is_verified_when_it_is_opened(built):
    path, _ = built
    sidecar_path(path).write_text(to_text(replace(read_plan(path), verified=False)), encoding="utf-8", newline="\n")
    assert "verified now: relative error" in repr(segfast.Engine(path))
    assert read_plan(path).verified
    assert "verified now" not in repr(segfast.Engine(path))


@on_gpu
@pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
def test_logits_are_those_of_the_fp32_model(built, exact, count):
    engine = segfast.Engine(built[0])
    windows = np.stack([picture(64, 64, seed) for seed in range(count)])
    for _ in range(2):  # captured, then replayed
        assert relative_error(engine.run(windows), exact.run(windows)) < ERROR


@on_gpu
@pytest.mark.parametrize("size", [(64, 64), (60, 90), (200, 330), (1, 1)])
@pytest.mark.parametrize("multiscale", [False, True])
def test_labels_are_those_of_the_fp32_model(built, exact, size, multiscale):
    image = picture(*size)
    same_labels(
        segfast.Engine(built[0]).segment(image, multiscale=multiscale), exact.segment(image, multiscale=multiscale)
    )


@on_gpu
@pytest.mark.parametrize("output", ["logits", "labels"])
@pytest.mark.parametrize("name", ["seg-ti-mask-16", "seg-s-32", "seg-b-mask-16", "seg-ti-8"])
@pytest.mark.parametrize("kind", here() or ["no GPU"])
def test_parity_of_the_family(tmp_path, kind, name, output):
    model = random_model(name)
    export_onnx(model, tmp_path / "x.onnx", output=output)
    report = build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", compiler=kind)
    print(report)
    image = picture(512, 512)
    same_labels(
        segfast.Engine(tmp_path / "x.engine").segment(image), segfast.Engine(model, device="cpu").segment(image)
    )


@on_gpu
def test_sixteen_threads_get_what_serial_calls_give(built):
    engine = segfast.Engine(built[0])
    images = [picture(64 + 9 * i, 70 + 30 * (i % 5), i) for i in range(16)]
    serial = [engine.segment(image).labels for image in images]
    fresh, wrong = segfast.Engine(built[0]), []

    def work(index):
        for turn in range(12):
            i = (index + turn) % 16
            if not np.array_equal(fresh.segment(images[i]).labels, serial[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong
    for image, answer in zip(images, fresh.segment_many(images), strict=True):
        same_labels(answer, engine.segment(image))  # in batches of other sizes


@on_gpu
def test_answers_never_change_under_later_calls(built):
    engine = segfast.Engine(built[0])
    windows = np.stack([picture(64, 64, seed) for seed in range(4)])
    logits, answer = engine.run(windows), engine.segment(windows[0])
    kept, labels = logits.copy(), answer.labels.copy()
    for seed in range(20):
        engine.run(np.stack([picture(64, 64, seed)] * 4))
        engine.segment(255 - picture(64, 64, seed))
    np.testing.assert_array_equal(logits, kept)
    np.testing.assert_array_equal(answer.labels, labels)


@on_gpu
def test_memory_is_flat_over_a_thousand_calls(built):
    engine = segfast.Engine(built[0])
    images = [picture(120 + 40 * i, 150, i) for i in range(4)]

    def used():
        gc.collect()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free

    for image in images * 5:
        engine.segment(image)
    before = used()
    for call in range(1000):
        engine.segment(images[call % 4])
    assert used() - before < 16 << 20


@on_gpu
def test_memory_that_runs_out_is_said_and_the_next_call_works(built):
    engine = segfast.Engine(built[0])
    image = picture(64, 64)
    expected = engine.segment(image).labels
    fresh = segfast.Engine(built[0])
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit)
    try:
        with pytest.raises(NotSupported, match="not enough free memory"):
            fresh.run(np.stack([picture(64, 64)] * 8))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_array_equal(fresh.segment(image).labels, expected)


@on_gpu
def test_an_engine_without_sidecar_needs_trust(built, tmp_path):
    path = tmp_path / "foreign.engine"
    path.write_bytes(built[0].read_bytes())
    with pytest.raises(BadModel, match="trusted=True"):
        segfast.Engine(path)
    engine = segfast.Engine(path, trusted=True)
    assert "no sidecar" in repr(engine)
    image = picture(64, 64)
    np.testing.assert_array_equal(engine.segment(image).labels, segfast.Engine(built[0]).segment(image).labels)
    assert not sidecar_path(path).exists()
