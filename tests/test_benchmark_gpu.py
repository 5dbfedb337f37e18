"""The rows of the proof on a GPU, as far as they go without one; their processes are test_benchmark_gpu_run.py's."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import tiny_model

torch = pytest.importorskip("torch")

import segfast  # noqa: E402
from benchmarks.gpu import attention, compiled, ends, machine, models, plans, profiles, results, serving, suite  # noqa: E402
from benchmarks.gpu.budget import missed, target  # noqa: E402
from benchmarks.gpu.clock import Clock  # noqa: E402
from segfast.errors import MissingRuntime  # noqa: E402
from segfast.runtimes.lanes import LANES, Lanes  # noqa: E402


def clock(seconds=60.0, kind=Clock):
    return kind("cpu", time.monotonic() + seconds, 1e12)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def engine(model):
    return segfast.Engine(model, device="cpu")


def images(count, more=8):
    return [np.random.default_rng(i).integers(0, 256, (64 + more * i, 64, 3), np.uint8) for i in range(count)]


def test_a_row_that_fails_does_not_stop_the_others():
    def broken():
        raise ValueError("wrong labels")

    assert clock().attempt(({"case": "a"}, broken)) == {"case": "a", "error": "ValueError: wrong labels"}
    assert clock().attempt(({"case": "a"}, lambda: {"ratio": 2})) == {"case": "a", "ratio": 2}
    assert "skipped" in clock(0).attempt(({"case": "a"}, broken))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), {"skipped": "onnx is not installed"}),
        (MissingRuntime("TensorRT is not installed"), {"skipped": "TensorRT is not installed"}),
        (ModuleNotFoundError("no segfast.x", name="segfast.x"), {"error": "ModuleNotFoundError: no segfast.x"}),
        (ImportError("cannot import name 'x'", name="onnx"), {"error": "ImportError: cannot import name 'x'"}),
    ],
)
def test_what_is_not_installed_is_no_error_but_our_own_faults_are(error, told):
    def raising():
        raise error

    assert clock().attempt(({}, raising)) == told


def test_a_lost_device_is_seen_and_hides_no_error(monkeypatch):
    """After some errors every call raises, that which frees memory too."""

    def lost(*given):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def row():
        torch.cuda.synchronize()

    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lost)
    gpu = Clock("cuda", time.monotonic() + 60)
    assert "illegal memory access" in gpu.attempt(({"case": "a"}, row))["error"]
    assert not gpu.alive()
    assert clock().alive()


def test_every_shape_of_attention_is_checked_and_timed():
    for about, measure in attention.plan(clock()):
        row = measure()
        assert {"ours", "math"} <= row["microseconds"].keys(), row
        assert all(error < 1e-5 for error in row["relative_error"].values())
        assert about["N"] in (33, 16)


@pytest.mark.parametrize("backward", [False, True])
def test_wrong_attention_is_not_timed(monkeypatch, backward):
    right = attention.kernels.attention
    monkeypatch.setattr(attention.kernels, "attention", lambda q, k, v: 1.01 * right(q, k, v), raising=False)
    row = attention.measure(clock(), 33, 1, 2, backward)
    assert "relative error" in row["not_timed"]["ours"]
    assert "ours" not in row["microseconds"]
    assert "relative error" in row["error"]


class Recorder(Clock):
    """A clock that notes what would be captured, and whether the work was queued where captures are."""

    queued, graphs = 0, []

    @contextmanager
    def queue(self):
        Recorder.queued += 1
        yield
        Recorder.queued -= 1

    def prepare(self, function, graphs=False):
        assert self.queued
        Recorder.graphs.append(graphs)
        return super().prepare(function, graphs)


@pytest.mark.parametrize("backward", [False, True])
def test_both_passes_are_timed_as_graphs_on_the_stream_of_their_forward(monkeypatch, backward):
    right = attention.kernels.attention

    def attend(q, k, v):
        assert Recorder.queued
        return right(q, k, v)

    monkeypatch.setattr(attention.kernels, "attention", attend, raising=False)
    monkeypatch.setattr(Recorder, "graphs", [])
    row = attention.measure(clock(kind=Recorder), 33, 1, 2, backward)
    assert "ours" in row["microseconds"]
    assert Recorder.graphs == [True] * len(row["microseconds"])


def test_peers_of_long_sequences_do_without_all_scores():
    assert "math" in attention.peers(4097)
    assert "math" not in attention.peers(9217)
    assert "not installed" in attention.measure(clock(), 16, 1, 1, False)["not_timed"]["flash3"]


def test_wrong_labels_are_not_timed(monkeypatch):
    monkeypatch.setattr(ends, "upsample_argmax", lambda x, size: torch.zeros(len(x), *size, dtype=torch.uint8))
    with pytest.raises(AssertionError, match="labels differ"):
        ends._upsampled(clock(), 1, 4, 64, "smooth")


def test_targets():
    fast, slow = {"ours": 1e-3, "cudnn": 1.2e-3, "flash": 2e-3}, {"ours": 2e-3, "cudnn": 1.2e-3, "flash": 2e-3}
    assert not missed({"targets": attention._targets(fast, 10**9, 9217, 4, False)})
    assert missed({"targets": attention._targets(slow, 10**9, 9217, 4, False)})
    backward = attention._targets(slow, 10**9, 9217, 4, True)
    assert [(one["wanted"], one["met"]) for one in backward] == [(1.0, True), (0.8, False)]
    assert missed({"targets": attention._targets({"cudnn": 1e-3}, 10**9, 4097, 8, False)})  # ours was wrong
    assert target("microseconds", 15, 14.0, at_most=True)["met"]
    assert not target("microseconds", 15, 15.1, at_most=True)["met"]


def test_rows_of_the_attention_table():
    row = {"pass": "forward", "N": 1025, "B": 1, "H": 12, "tflops": {"ours": 300.0, "cudnn": 290.0, "flash": 250.0}}
    large = row | {"B": 16, "tflops": {"ours": 400.0, "cudnn": 390.0, "flash": 350.0}}
    lacking = row | {"N": 4097, "tflops": {"ours": 400.0}}
    assert results.table([row, large, lacking, {"skipped": "no time"}], 90, "H200") == [
        'Row(90, 64, 1025, 390.0, 350.0, 400.0, "H200, 16 × 12"),'
    ]


def test_counts_of_the_tests():
    report = ElementTree.fromstring(
        "<testsuites><testsuite><testcase classname='a' name='b'/><testcase classname='a' name='c'>"
        "<failure message='1 != 2'/></testcase><testcase classname='a' name='d'><skipped message='no GPU'/></testcase>"
        "<testcase classname='' name='tests.x'><error message='collection failure'/></testcase><testcase time='0.0'/></testsuite></testsuites>"
    )
    counts = suite.counts(report)
    assert (counts["passed"], counts["failed"], counts["skipped_tests"]) == (1, 2, 1)
    assert counts["failures"][0] == {"test": "a::c", "message": "1 != 2"}
    assert counts["reasons"] == [{"test": "a::d", "reason": "no GPU"}]


@pytest.mark.parametrize("section", [compiled, profiles, plans, serving])
def test_every_row_of_a_section_can_be_rehearsed(section, model, engine, monkeypatch):
    if section is not compiled:
        monkeypatch.setattr(section, "made", lambda clock, name: (model, engine, np.stack(images(4, 0))), raising=False)
    rows = [clock().attempt(row) for row in section.plan(clock())]
    assert rows
    assert not [row for row in rows if "error" in row or "skipped" in row]


def test_what_the_machine_lacks_is_said(monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name in ("tensorrt", "pytest") else "there")
    monkeypatch.setattr(machine, "tool", lambda: None)
    assert machine.missing() == {"missing": ["tensorrt", "pytest"], "compute_sanitizer": None}


# Lanes ----------------------------------------------------------------------------------------------------------------


def test_warming_up_leaves_nothing_for_the_timed_run():
    """A graph is captured by each lane; the calls of one thread alone would find the first one free again and again."""
    made = []

    def network():
        made.append(calls := [])
        return lambda windows: calls.append(len(windows)) or windows.float().mean((1, 2, 3))[:, None]

    engine = SimpleNamespace(_runtime=Lanes(network, "cpu", (8, 6), 4))
    models.warm(engine, np.zeros((4, 8, 6, 3), np.uint8))
    assert made == [[4]] * LANES


def test_models_are_warm_before_they_are_timed(monkeypatch):
    done, warm, rate = [], models.warm, models._rate
    monkeypatch.setattr(models, "warm", lambda engine, windows: done.append(len(windows)) or warm(engine, windows))
    monkeypatch.setattr(
        models, "_rate", lambda clock, call, threads: done.append("timed") or rate(clock, call, threads)
    )
    (row,) = [clock().attempt(row) for row in models.plan(clock())]
    assert row["images_per_second"] > 0
    assert row["targets"] == []
    assert done[:3] == [2, 1, "timed"]


# Serving and turns ----------------------------------------------------------------------------------------------------


def test_the_storm_counts_wrong_answers_and_failures(engine):
    some = images(2)
    right = [engine.segment(image).labels for image in some]
    disturbed = threading.Event()
    found = serving.storm(engine, some, right, disturbed.set, 3, 0.2)
    assert disturbed.is_set()
    assert found["calls"] >= 3
    assert found["disturbances"] >= 1
    assert (found["wrong"], found["failures"]) == (0, [])
    wrong = serving.storm(engine, some, [right[0], 1 - right[1]], lambda: 1 / 0, 2, 0.2)
    assert wrong["wrong"] >= 1
    assert wrong["failures"] == ["ZeroDivisionError: division by zero"]


def test_turns_of_two_dtypes_count_answers_that_change(engine, monkeypatch):
    window = images(1)[0]
    assert plans.turns(engine, window, 6)["wrong"] == 0
    calls, run = [], plans._run

    def drifting(engine, window):
        calls.append(window.dtype)
        return run(engine, window) + (len(calls) > 6)

    monkeypatch.setattr(plans, "_run", drifting)
    row = plans.turns(engine, window, 6)
    assert row["wrong"] == 2
    assert "2 of 6 answers changed" in row["error"]
    assert calls[:4] == [np.uint8, np.float32] * 2
