"""Lanes on the CPU: everything but streams, pinned memory and graphs, which need a GPU (test_engine_gpu.py)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_cuda import install
from helpers import tiny_config, tiny_model

import segfast
from segfast.errors import BadOption, NotSupported
from segfast.kernels import merge_layout
from segfast.machine.exhaustion import out_of_memory
from segfast.runtimes import pytorch
from segfast.runtimes.batches import batches, largest_batch
from segfast.runtimes.lanes import Lanes
from segfast.runtimes.pytorch import private


def windows(count, size=(8, 12), dtype=np.uint8, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3)).astype(dtype))


def mean_network(given):
    """Logits [n, 2, h, w] that tell which window they come from."""
    x = given.float().mean(-1)
    return torch.stack([x, -x], 1)


def expected(parts):
    return mean_network(torch.tensor(np.stack(parts))).numpy()


def lanes(network=mean_network, largest=4, **options):
    return Lanes(lambda: network, "cpu", (8, 12), largest, **options)


@pytest.mark.parametrize("decoder", ["linear", "mask"])
def test_logits_lie_as_the_decoder_gives_them(decoder):
    """The classes last, in whole sectors: the kernels of the end read them so, and nothing is transposed on the way."""
    model = private(tiny_model(decoder=decoder), "cpu", torch.float16)
    runtime_logits = pytorch.PyTorchRuntime(model, "cpu", None, "fp16").logits
    sizes = model.config.protocol.window
    given = runtime_logits(torch.zeros(2, *sizes, 3, dtype=torch.uint8))
    assert given.stride(1) == 1
    with Lanes(lambda: runtime_logits, "cpu", sizes, 4).lane() as lane:
        answer = lane.run(windows(3, sizes))
    lies = merge_layout.layout(answer)
    assert lies.last
    assert lies.vector == 8
    assert lane.fetch(lambda: answer).flags.c_contiguous


@pytest.mark.parametrize(
    ("count", "largest", "calls"),
    [(1, 16, [(1, 1)]), (3, 16, [(3, 4)]), (5, 16, [(4, 4), (1, 1)]), (6, 16, [(6, 8)]), (9, 16, [(8, 8), (1, 1)]),
     (11, 16, [(8, 8), (3, 4)]), (12, 16, [(12, 16)]), (33, 16, [(16, 16), (16, 16), (1, 1)]), (3, 1, [(1, 1)] * 3)],
)  # fmt: skip
def test_batches(count, largest, calls):
    assert list(batches(count, largest)) == calls


@pytest.mark.parametrize("largest", [1, 2, 8, 64])
def test_batches_hold_every_window_and_few_empty_places(largest):
    for count in range(1, 200):
        calls = list(batches(count, largest))
        assert sum(taken for taken, _ in calls) == count
        assert all(3 * batch <= 4 * taken <= 4 * batch and batch <= largest for taken, batch in calls)


def test_the_largest_batch_has_so_many_tokens():
    assert [largest_batch(n) for n in (256, 1024, 4096, 6400, 9216, 16384, 10**6)] == [64, 32, 8, 4, 2, 2, 1]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 23])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_logits_are_those_of_each_window(count, dtype):
    parts = windows(count, dtype=dtype)
    with lanes().lane() as lane:
        given = lane.run(parts)
    np.testing.assert_array_equal(lane.fetch(lambda: given), expected(parts))


def test_logits_are_in_memory_of_their_own():
    """A network that returns the same memory every time, as a graph does."""
    memory = torch.zeros(4, 2, 8, 12)

    def network(given):
        memory[: len(given)] = mean_network(given)
        return memory[: len(given)]

    first, second = windows(3), windows(3, seed=1)
    with lanes(network).lane() as lane:
        one = lane.run(first)
        kept = lane.fetch(lambda: one)
        other = lane.run(second)
    np.testing.assert_array_equal(one, expected(first))
    np.testing.assert_array_equal(kept, expected(first))
    np.testing.assert_array_equal(other, expected(second))


def test_mirrored_and_strided_windows_and_other_sizes():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)[:, ::-1]
    parts = [image[top : top + 9, 3:10] for top in (0, 7, 21)]
    with lanes().lane() as lane:
        np.testing.assert_array_equal(lane.run(parts), expected(parts))
        np.testing.assert_array_equal(lane.run(windows(2)), expected(windows(2)))


def test_lanes_are_bounded_and_callers_wait():
    inside, most, made = [], [], []
    lock = threading.Lock()

    def make():
        made.append(1)
        return mean_network

    pool = Lanes(make, "cpu", (8, 12), 4, limit=2)
    wrong = []

    def work(seed):
        for turn in range(10):
            parts = windows(3, seed=100 * seed + turn)
            with pool.lane() as lane:
                with lock:
                    inside.append(id(lane))
                    most.append(len(inside))
                    assert len(set(inside)) == len(inside)
                given = lane.run(parts)
                with lock:
                    inside.remove(id(lane))
            if not np.array_equal(lane.fetch(lambda given=given: given), expected(parts)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(most) == 160
    assert max(most) <= 2
    assert len(made) <= 2


def test_one_caller_after_the_other_uses_one_lane():
    made = []
    pool = Lanes(lambda: made.append(1) or mean_network, "cpu", (8, 12), 4)
    for _ in range(5):
        with pool.lane() as lane:
            lane.run(windows(1))
    assert made == [1]


def test_a_lane_that_cannot_be_made_leaves_its_place():
    def fail():
        raise OSError("broken")

    pool = Lanes(fail, "cpu", (8, 12), 4, limit=1)
    for _ in range(3):  # the second would wait for ever
        with pytest.raises(OSError, match="broken"), pool.lane():
            pass


def test_less_memory_means_smaller_batches():
    def network(given):
        if len(given) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return mean_network(given)

    pool = lanes(network, largest=8)
    with pool.lane() as lane:
        np.testing.assert_array_equal(lane.run(windows(7)), expected(windows(7)))
    assert pool.largest == 2
    assert pool.notes == ["at most 2 windows at once, for want of GPU memory"]


def test_no_memory_is_an_error_with_a_remedy_and_the_next_call_works():
    full = [True]

    def network(given):
        if full[0]:
            raise RuntimeError("CUDA error: out of memory")
        return mean_network(given)

    pool = lanes(network)
    with pytest.raises(NotSupported, match="memory for one window; close what else uses it"), pool.lane() as lane:
        lane.run(windows(4))

    def merge():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(NotSupported, match="an image of this size"):
        lane.fetch(merge)
    full[0] = False
    with pool.lane() as lane:
        np.testing.assert_array_equal(lane.run(windows(3)), expected(windows(3)))
    assert pool.largest == 4


def test_other_errors_are_not_taken_for_it():
    def network(given):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"), lanes(network).lane() as lane:
        lane.run(windows(1))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))


@pytest.fixture
def fake(monkeypatch):
    """Lanes that believe in a GPU."""
    return install(monkeypatch)


def test_graphs_are_captured_once_for_each_batch_and_dtype_of_the_window(fake):
    pool = Lanes(lambda: fake.network(mean_network), "cuda", (8, 12), 4)
    with pool.lane() as lane:
        for turn in range(3):
            for count, dtype in ((1, np.uint8), (3, np.uint8), (4, np.uint8), (11, np.uint8), (2, np.float32)):
                parts = windows(count, dtype=dtype, seed=turn)
                given = lane.run(parts)
                np.testing.assert_array_equal(lane.fetch(lambda given=given: given), expected(parts))
    assert fake.captures == 3  # of 1 and 4 bytes, 2 floats; eleven windows are 4 + 4 + 3 of 4
    assert fake.replays == 3 * (1 + 1 + 1 + 3 + 1)
    with pool.lane() as lane:
        small = windows(2, size=(5, 6))
        np.testing.assert_array_equal(lane.run(small), expected(small))
    assert fake.captures == 3  # another size: none


def test_replays_write_over_nothing_that_was_given(fake):
    pool = Lanes(lambda: fake.network(mean_network), "cuda", (8, 12), 4)
    sets = [windows(6, seed=seed) for seed in range(5)]
    with pool.lane() as lane:
        answers = [lane.run(parts) for parts in sets]
    for parts, answer in zip(sets, answers, strict=True):
        np.testing.assert_array_equal(answer, expected(parts))
    fetched = [lane.fetch(lambda answer=answer: answer) for answer in answers]
    with torch.inference_mode():
        for answer in answers:
            answer.zero_()
    for parts, array in zip(sets, fetched, strict=True):
        np.testing.assert_array_equal(array, expected(parts))


def test_a_busy_lane_is_left_alone_while_there_may_be_another(fake):
    made = []
    pool = Lanes(lambda: made.append(1) or mean_network, "cuda", (8, 12), 4, limit=2)
    seen = []
    for fake.busy in (False, False, True, True, True, True, False, False):
        with pool.lane() as lane:
            seen.append(lane)
    first, second = dict.fromkeys(seen)
    assert seen[:2] == [first, first]
    assert seen[2:6] == [second, first, second, first]  # in turns: each has the longest to finish
    assert seen[6] is seen[7]
    assert len(made) == 2


def test_staging_waits_for_the_copy_before_it_is_filled_again(fake):
    pool = Lanes(lambda: fake.network(mean_network), "cuda", (8, 12), 1)
    with pool.lane() as lane:
        lane.run(windows(5))
    assert fake.copies_waited == 5
    assert fake.pinned_bytes == 2  # two buffers, allocated once


def test_graphs_are_dropped_and_captured_again_when_memory_runs_out(fake):
    full = [False]

    def network(given):
        if full[0] and len(given) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return mean_network(given)

    pool = Lanes(lambda: fake.network(network), "cuda", (8, 12), 4)
    parts = windows(4)
    with pool.lane() as lane:
        lane.run(parts)
        full[0] = True
        np.testing.assert_array_equal(lane.run(windows(4, dtype=np.float32)), expected(parts))  # a new capture
        assert pool.largest == 1
        full[0] = False
        np.testing.assert_array_equal(lane.run(parts), expected(parts))
    assert fake.captures == 3


@pytest.mark.parametrize("streams", [1, 32])
def test_a_capture_takes_along_nothing_that_others_queue_on_its_stream(fake, streams):
    """PyTorch gives out the same streams again and again: lanes of two engines may have one."""
    fake.different_streams = streams
    capturing, go_on, queued = threading.Event(), threading.Event(), threading.Event()

    def slow(given):
        if fake.recording is not None:
            capturing.set()
            assert go_on.wait(30)
        return mean_network(given)

    def merge():
        queued.set()
        return torch.zeros(1)

    first, second = (Lanes(lambda: fake.network(slow), "cuda", (8, 12), 4) for _ in range(2))
    with first.lane() as lane, second.lane() as other, ThreadPoolExecutor(2) as pool:
        captured = pool.submit(lane.run, windows(1))
        assert capturing.wait(30)
        assert not lane.idle()
        assert other.idle() == (streams > 1)
        fetched = pool.submit(other.fetch, merge)
        assert queued.wait(0.5) == (streams > 1)
        go_on.set()
        np.testing.assert_array_equal(captured.result(30), expected(windows(1)))
        assert fetched.result(30).shape == (1,)
    assert lane.idle()


def test_the_engine_runs_on_lanes_as_it_runs_on_the_host(photo):
    """The CUDA engine's own path, on the CPU: lanes in place of the host's arrays."""
    expected = segfast.Engine(tiny_model(), device="cpu")
    engine = segfast.Engine(tiny_model(), device="cpu")
    engine._runtime._lanes = Lanes(lambda: engine._runtime.logits, "cpu", (64, 64), 4)
    wide = np.tile(photo, (3, 3, 1))
    for image, options in ((photo, {}), (wide, {}), (wide, {"stride": 40}), (photo, {"multiscale": True})):
        answer, wanted = engine.segment(image, **options), expected.segment(image, **options)
        np.testing.assert_allclose(answer.scores, wanted.scores, atol=2e-5)
        assert (answer.labels == wanted.labels).mean() > 0.999
    many = [answer.labels for answer in engine.segment_many([photo, wide, photo])]
    for image, labels in zip((photo, wide, photo), many, strict=True):
        np.testing.assert_array_equal(labels, engine.segment(image).labels)
    cut = np.stack([wide[:64, :64], wide[64:128, 64:128], wide[100:164, 50:114]])
    np.testing.assert_allclose(engine.run(cut), expected.run(cut), atol=1e-4)
    np.testing.assert_array_equal(engine.run(cut, labels=True), engine.run(cut, labels=True))
    assert (engine.run(cut, labels=True) == expected.run(cut, labels=True)).mean() > 0.999


def test_labels_of_windows_are_those_of_single_images():
    engine = segfast.Engine(tiny_model(), device="cpu")
    cut = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    for window, labels in zip(cut, engine.run(cut, labels=True), strict=True):
        np.testing.assert_array_equal(labels, engine.segment(window).labels)


def test_labels_of_windows_that_are_no_multiple_of_the_patch():
    protocol = replace(tiny_config().protocol, window=(60, 52), stride=(40, 40))
    for crop in (True, False):
        engine = segfast.Engine(tiny_model(protocol=replace(protocol, crop_padding=crop)), device="cpu")
        cut = np.random.default_rng(0).integers(0, 256, (2, 60, 52, 3), np.uint8)
        np.testing.assert_array_equal(engine.run(cut, labels=True)[1], engine.segment(cut[1]).labels)


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 5e-2), ("fp16", 5e-3)])
@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_half_precision_keeps_the_logits(precision, bound, decoder):
    """The bounds of the .onnx files: fp16's gate, and ten times as much for bf16's three bits less."""
    name = "seg-custom-mask-16" if decoder == "mask" else "seg-custom-16"
    model = tiny_model(decoder=decoder, name=name, scale=2.0)
    cut = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    exact = segfast.Engine(model, device="cpu").run(cut)
    half = segfast.Engine(model, device="cpu", precision=precision)
    rounded = half.run(cut).astype(np.float32)
    assert 0 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < bound
    assert f"PyTorch on cpu in {precision}" in repr(half)
    assert half.segment(cut[0]).labels.shape == (64, 64)


def test_a_model_is_left_as_it_is():
    model = tiny_model().train()
    weights = {name: (tensor, tensor.data_ptr()) for name, tensor in model.named_parameters()}
    for precision in (None, "fp32", "bf16"):
        segfast.Engine(model, device="cpu", precision=precision)
        assert model.training
        assert model.encoder.blocks[0].attn.training
        for name, tensor in model.named_parameters():
            assert tensor is weights[name][0]
            assert tensor.dtype == torch.float32
            assert tensor.requires_grad
            assert tensor.data_ptr() == weights[name][1]


def test_weights_are_shared_where_nothing_changes_them():
    model = tiny_model()
    own = private(model, "cpu", torch.float32)
    half = private(model, "cpu", torch.bfloat16)
    assert own.encoder.cls_token.data_ptr() == model.encoder.cls_token.data_ptr()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert own.config is model.config
    engine = segfast.Engine(model, device="cpu")
    cut = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    before = engine.run(cut)
    with torch.no_grad():
        model.encoder.cls_token.add_(5.0)
    assert not np.allclose(engine.run(cut), before)
    with torch.no_grad():
        model.encoder.cls_token.sub_(5.0)
    model.set_attention(lambda q, k, v: torch.full_like(q, torch.nan))  # of the model, not of the Engine
    np.testing.assert_allclose(engine.run(cut), before, atol=1e-4)


def overflowing():
    """A tiny model whose activations reach beyond fp16's 65504."""
    model = tiny_model(decoder="linear", name="seg-custom-16")
    with torch.no_grad():
        model.encoder.blocks[0].mlp.fc2.bias.fill_(60000.0)
        model.encoder.blocks[1].mlp.fc2.bias.fill_(60000.0)
    return model


def test_fp16_that_overflows_is_refused_or_replaced_loudly(monkeypatch):
    model = overflowing()
    with pytest.raises(BadOption, match="overflows in fp16; use precision='bf16'"):
        segfast.Engine(model, device="cpu", precision="fp16")
    monkeypatch.setattr(pytorch.choice, "checkpoint_precision", lambda device: "fp16")
    engine = segfast.Engine(model, device="cpu")
    assert "PyTorch on cpu in bf16; bf16, because activations overflow in fp16" in repr(engine)
    assert np.isfinite(engine.run(np.zeros((1, 64, 64, 3), np.uint8))).all()
    assert "PyTorch on cpu in fp16)" in repr(segfast.Engine(tiny_model(), device="cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision must be one of"),
        ({"precision": torch.float16}, "precision must be one of"),
        ({"attention": "fast"}, "attention must be one of"),
        ({"attention": "triton"}, "NVIDIA GPUs only"),
        ({"attention": "cudnn"}, "NVIDIA GPUs only"),
        ({"attention": "flash"}, "NVIDIA GPUs only"),
    ],
)
def test_choices_that_cannot_be(options, message):
    with pytest.raises(BadOption, match=message):
        segfast.Engine(tiny_model(), device="cpu", **options)


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"attention": "sdpa"}])
def test_files_have_made_their_choice(tiny_onnx, options):
    with pytest.raises(BadOption, match=r"\.onnx file.*checkpoint"):
        segfast.Engine(tiny_onnx, device="cpu", **options)


def test_attention_of_a_cpu_is_sdpa(photo):
    engine = segfast.Engine(tiny_model(), device="cpu", attention="sdpa")
    assert "attention by sdpa" in repr(engine)
    expected = segfast.Engine(tiny_model(), device="cpu").segment(photo)
    np.testing.assert_allclose(engine.segment(photo).scores, expected.scores, atol=1e-5)
