"""CUDA graphs against a torch.cuda that refuses what the real one refuses: captures that are broken, collections, ends."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_cuda import install, pretend
from helpers import tiny_config, tiny_model
from launches import Launches
from test_device import expected, mean_network, windows

import segfast
from segfast.errors import BadOption, NotSupported
from segfast.kernels import attend, attention_table, attention_warm_up, merge
from segfast.runtimes import graphs, patch_logits
from segfast.runtimes.batches import all_batches, batches
from segfast.runtimes.graphs import TRIES, no_collection
from segfast.runtimes.lanes import Lanes

BROKEN = "1 capture of a CUDA graph broken by other work in this process (CUDA error: operation failed due to a previous error"


@pytest.fixture
def fake(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def no_automatic_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def run(pool, parts):
    with pool.lane() as lane:
        given = lane.run(parts)
    return lane.fetch(lambda: given)


class Disturbed:
    """A network in whose first captures another thread waits for the device, as users' code may."""

    def __init__(self, fake, times):
        self.fake, self.times, self.raised = fake, times, 0

    def __call__(self, given):
        if self.fake.recording is not None and self.times > 0:
            self.times -= 1
            thread = threading.Thread(target=self.disturb)
            thread.start()
            thread.join()
        return mean_network(given)

    def disturb(self):
        try:
            self.fake.cuda.synchronize()
        except RuntimeError:
            self.raised += 1


@pytest.mark.parametrize("old", [False, True])
def test_a_call_whose_capture_was_broken_runs_without_and_is_captured_later(fake, old):
    fake.old = old
    network = Disturbed(fake, times=1)
    pool = Lanes(lambda: fake.network(network), "cuda", (8, 12), 4)
    for seed in range(3):
        parts = windows(4, seed=seed)
        np.testing.assert_array_equal(run(pool, parts), expected(parts))
    assert network.raised == 1
    assert (fake.captures, fake.replays) == (2, 2)  # broken; captured and replayed; replayed
    assert pool.notes[0].startswith(BROKEN)
    assert "without one" not in pool.notes[0]
    assert not fake.pools


def test_captures_that_are_always_broken_are_given_up(fake):
    pool = Lanes(lambda: fake.network(Disturbed(fake, times=100)), "cuda", (8, 12), 4)
    for seed in range(TRIES + 4):
        parts = windows(4, seed=seed)
        np.testing.assert_array_equal(run(pool, parts), expected(parts))
    assert (fake.captures, fake.replays) == (TRIES, 0)
    assert pool.notes[0].startswith(f"{TRIES} captures of a CUDA graph broken")
    assert pool.notes[0].endswith("so that batches of 4 run without one")


def test_an_error_of_the_network_itself_is_no_broken_capture(fake):
    def network(given):
        raise RuntimeError("shapes do not match")

    pool = Lanes(lambda: fake.network(network), "cuda", (8, 12), 4)
    with pytest.raises(RuntimeError, match="shapes"):
        run(pool, windows(1))
    assert fake.captures == 0
    assert pool.notes == []


@pytest.mark.parametrize("largest", [1, 2, 3, 6, 8, 12, 64])
def test_all_batches_are_those_that_may_come(largest):
    assert set(all_batches(largest)) == {batch for count in range(1, 300) for _, batch in batches(count, largest)}


@pytest.mark.parametrize("disturbed", [0, TRIES - 1])
def test_nothing_is_captured_after_warming_up(fake, disturbed):
    network = Disturbed(fake, disturbed)
    pool = Lanes(lambda: fake.network(network), "cuda", (8, 12), 6)
    pool.warm_up()
    before = fake.captures
    assert before == 2 * 2 * len(all_batches(6)) + disturbed  # of two lanes, bytes and floats
    with pool.lane() as lane, pool.lane() as other:
        for count in (1, 2, 3, 5, 6, 7, 11, 40):
            for dtype in (np.uint8, np.float32):
                for one in (lane, other):
                    parts = windows(count, dtype=dtype, seed=count)
                    given = one.run(parts)
                    np.testing.assert_array_equal(one.fetch(lambda given=given: given), expected(parts))
    pool.warm_up()
    assert fake.captures == before
    assert fake.device_waits == disturbed  # those of the others


def test_warming_up_where_memory_is_short_captures_what_fits(fake):
    def network(given):
        if len(given) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return mean_network(given)

    pool = Lanes(lambda: fake.network(network), "cuda", (8, 12), 8)
    pool.warm_up()
    before = fake.captures
    assert pool.notes == ["at most 2 windows at once, for want of GPU memory"]
    with pool.lane() as lane, pool.lane() as other:
        for count, dtype in ((1, np.uint8), (2, np.float32), (9, np.float32), (9, np.uint8)):
            lane.run(windows(count, dtype=dtype))
            other.run(windows(count, dtype=dtype))
    assert fake.captures == before
    assert fake.device_waits == 0


def test_many_threads_warm_up_while_others_run(fake):
    pool = Lanes(lambda: fake.network(mean_network), "cuda", (8, 12), 2)
    # One capture at a time in all of the process: what the fake insists on.
    with ThreadPoolExecutor(8) as threads:
        warm = [threads.submit(pool.warm_up) for _ in range(4)]
        answers = [threads.submit(run, pool, windows(3, seed=seed)) for seed in range(4)]
        for future in warm:
            future.result(60)
        for seed, future in enumerate(answers):
            np.testing.assert_array_equal(future.result(60), expected(windows(3, seed=seed)))


def test_memory_that_runs_out_is_given_back_without_waiting_for_the_device(fake):
    def network(given):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    pool = Lanes(lambda: fake.network(network), "cuda", (8, 12), 2)
    with pytest.raises(NotSupported):
        run(pool, windows(1))
    assert fake.device_waits == 0


def test_waiting_for_the_device_leaves_the_core_to_others(fake):
    pool = Lanes(lambda: fake.network(mean_network), "cuda", (8, 12), 2)
    run(pool, windows(2))
    assert fake.blocking
    assert all(fake.blocking)


def test_no_collection_begins_in_a_capture(fake):
    def littering(given):
        for _ in range(2000):
            cycle = []
            cycle.append(cycle)
        return mean_network(given)

    threshold = gc.get_threshold()
    gc.set_threshold(100)
    try:
        pool = Lanes(lambda: fake.network(littering), "cuda", (8, 12), 2)
        run(pool, windows(2))
    finally:
        gc.set_threshold(*threshold)
    assert (fake.captures, fake.replays) == (1, 1)
    assert pool.notes == []
    assert gc.isenabled()


def test_pauses_of_the_collector_nest_in_any_number_of_threads():
    inside, go_on = threading.Barrier(3), threading.Event()

    def pause():
        with no_collection(), no_collection():
            inside.wait(30)
            go_on.wait(30)

    with ThreadPoolExecutor(2) as threads:
        paused = [threads.submit(pause) for _ in range(2)]
        inside.wait(30)
        assert not gc.isenabled()
        with no_collection():
            pass
        assert not gc.isenabled()
        go_on.set()
        for future in paused:
            future.result(30)
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off(no_automatic_collection):
    with no_collection():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_lanes_die_with_the_last_who_holds_them(fake, no_automatic_collection):
    pool = Lanes(lambda: fake.network(mean_network), "cuda", (8, 12), 2)
    with pool.lane() as lane:
        given = lane.run(windows(2))
    dead = weakref.ref(pool), weakref.ref(lane)
    del pool
    assert dead[0]() is None
    np.testing.assert_array_equal(lane.fetch(lambda: given), expected(windows(2)))  # an answer that was kept
    waited = fake.copies_waited
    del lane
    assert dead[1]() is None
    assert fake.copies_waited == waited + 1  # until the device is done with what goes


# The PyTorch engine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def believing(monkeypatch):
    return pretend(monkeypatch)


def engine_on_a_gpu(**options):
    return segfast.Engine(tiny_model(), device="cuda", precision="fp32", **options)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_engine_dies_at_once(believing, photo, no_automatic_collection, device):
    engine = segfast.Engine(tiny_model(), device=device, precision="fp32")
    answer = engine.segment(photo)
    list(engine.segment_many([photo, photo]))
    network = engine._runtime.logits
    dead = [weakref.ref(x) for x in (engine, engine._runtime, network, network.model)]
    del engine, network, answer
    until = time.monotonic() + 10  # threads of segment_many may still be ending
    while any(x() is not None for x in dead) and time.monotonic() < until:
        time.sleep(0.01)
    assert [x() for x in dead] == [None] * 4


def test_nothing_is_captured_or_compiled_for_images_of_any_size_after_warming_up(believing, monkeypatch):
    """The kernels' launches are recorded, not run: the labels are what memory held."""
    monkeypatch.setattr(merge, "_stays", lambda tensor: True)
    launches, engine = Launches(monkeypatch), engine_on_a_gpu()
    quick = believing.network(lambda given: given[:, ::16, ::16].permute(0, 3, 1, 2).float())  # three classes
    engine._runtime._lanes = Lanes(lambda: quick, "cuda", (64, 64), 2)
    engine.warm_up()
    before, compiled, random = believing.captures, set(launches.compiled), np.random.default_rng(0)
    for _ in range(400):
        engine.segment(random.integers(0, 256, (*random.integers(2, 160, 2), 3), np.uint8))
    for _ in range(10):
        engine.segment(random.integers(0, 256, (*random.integers(1, 120, 2), 3), np.uint8), multiscale=True)
    for count in range(1, 9):
        engine.run(random.integers(0, 256, (count, 64, 64, 3), np.uint8), labels=True)
    assert believing.captures == before
    assert launches.count > 400
    assert launches.compiled == compiled
    assert believing.device_waits == 0
    assert "captur" not in repr(engine)


def test_our_attention_is_compiled_for_any_length_where_it_may_run(believing, monkeypatch):
    asked = []
    monkeypatch.setattr(attention_warm_up, "warm_up", lambda *args: asked.append(args))
    monkeypatch.setattr(Lanes, "warm_up", lambda self: None)
    engine_on_a_gpu()._runtime.warm_up((64, 64))  # PyTorch's, as long as the table has no rows
    assert asked == []
    engine_on_a_gpu(attention="triton")._runtime.warm_up((64, 64))
    monkeypatch.setattr(attention_table, "ROWS", (None,))
    engine_on_a_gpu()._runtime.warm_up((64, 64))
    assert asked == [(1, 64, torch.float32, "cuda")] * 2


def test_trying_a_new_engine_stands_apart_from_captures(believing, monkeypatch):
    """A pinned attention is pinned for the whole process: no capture, and no other call, may be under way."""
    from segfast.runtimes.pytorch import PyTorchRuntime

    alone, attempt = [], PyTorchRuntime._try
    monkeypatch.setattr(PyTorchRuntime, "_try", lambda *args: alone.append(graphs.launching.locked()) or attempt(*args))
    engine_on_a_gpu(attention="sdpa")
    assert alone == [True]


def test_a_cudnn_that_is_wrong_is_refused_by_name(believing, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91500)
    with pytest.raises(
        BadOption, match=r"attention='cudnn' cannot run.*cuDNN 91500 gives wrong answers for 17 tokens.*leave it out"
    ):
        engine_on_a_gpu(attention="cudnn")
    protocol = replace(tiny_config().protocol, small_windows=True)
    with pytest.raises(BadOption, match=r"images of some sizes.*leave it out, or use 'flash'"):
        segfast.Engine(tiny_model(protocol=protocol), device="cuda", attention="cudnn")
    assert "cudnn" not in repr(engine_on_a_gpu())


@pytest.mark.parametrize(
    ("version", "tokens", "right"),
    [
        (91500, 1025, False),
        (91500, 1024, True),
        (91501, 1025, True),
        (8902, 4097, False),
        (8902, 4096, True),
        (None, 1025, True),
    ],
)
def test_which_cudnn_is_right(monkeypatch, version, tokens, right):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    assert attend.cudnn_is_right(tokens) == right
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention_table, "ROWS", (None,))
    monkeypatch.setattr(attention_table, "fastest", lambda *_: "cudnn")
    x = SimpleNamespace(
        is_cuda=True, element_size=lambda: 2, device=None, shape=(1, tokens, 12, 64), requires_grad=False
    )
    assert attend.choose(x) == ("cudnn" if right else "sdpa")
    with patch_logits.sdpa_kernel(patch_logits._PLANLESS):
        assert attend.choose(x) == "sdpa"


def test_the_attention_that_really_runs_is_named(believing, monkeypatch):
    monkeypatch.setattr(
        torch, "_fused_sdp_choice", lambda q, k, v: {17: 3, 23: 3}[q.shape[2]]
    )  # of classes and patches, too
    assert "attention by sdpa (cudnn)" in repr(engine_on_a_gpu())
    assert "attention by sdpa (cudnn)" in repr(engine_on_a_gpu(attention="sdpa"))
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda q, k, v: {17: 1, 23: 0}[q.shape[2]])
    assert "attention by sdpa (flash) at 17 tokens, sdpa (math) at 23 tokens" in repr(engine_on_a_gpu())
    monkeypatch.setattr(patch_logits, "choose", lambda q: "triton")
    assert "attention by triton" in repr(engine_on_a_gpu())

    def gone(*_):
        raise AttributeError("no such function")

    monkeypatch.setattr(torch, "_fused_sdp_choice", gone)
    assert "attention by sdpa)" in repr(engine_on_a_gpu(attention="sdpa"))


def test_rare_sizes_run_without_plans_of_their_own(believing):
    """cuDNN would plan each anew for each thread; graphs keep those of the window's."""
    engine, cudnn = engine_on_a_gpu(), []
    network = engine._runtime.logits
    network._free = True  # as it is for a model on a GPU
    network.model.set_attention(lambda q, k, v: cudnn.append(torch.backends.cuda.cudnn_sdp_enabled()) or q)
    for size in ((64, 64), (48, 64)):
        network(torch.zeros(1, *size, 3, dtype=torch.uint8))
    assert dict.fromkeys(cudnn) == {True: None, False: None}
    assert torch.backends.cuda.cudnn_sdp_enabled()
