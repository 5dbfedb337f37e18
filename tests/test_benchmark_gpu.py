"""The command of the proof on a GPU, as far as it goes without one."""

import json
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest
from helpers import REPOSITORY

from segfast.devices import nvidia_gpus

torch = pytest.importorskip("torch")

from benchmarks.gpu import __main__ as command  # noqa: E402
from benchmarks.gpu import attention, ends  # noqa: E402
from benchmarks.gpu.clock import Clock, missed, target  # noqa: E402


def clock(seconds=60.0):
    return Clock("cpu", time.monotonic() + seconds)


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(nvidia_gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    ended = run("--out", str(tmp_path / "x.json"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: this needs an NVIDIA GPU")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_time_every_row_says_why_it_is_missing(tmp_path):
    ended = run("--rehearse", "--seconds", "1", "--out", str(tmp_path / "x.json"))
    assert ended.returncode == 1  # no test passed
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert json.loads(ended.stdout.splitlines()[-1]) == found
    assert "stopped after" in found["tests"]["reason"]
    assert {row["section"] for row in found["results"]} == {"attention", "ends", "models"}
    assert all("were left" in row["skipped"] for row in found["results"])
    assert found["skipped"] == len(found["results"])
    assert found["measured_peak"]["matrix_tflops"] > 0
    assert {"torch", "triton", "numpy"} <= found["versions"].keys()


def test_a_row_that_fails_does_not_stop_the_others():
    def broken():
        raise ValueError("wrong labels")

    assert clock().attempt(({"case": "a"}, broken)) == {"case": "a", "error": "ValueError: wrong labels"}
    assert clock().attempt(({"case": "a"}, lambda: {"ratio": 2})) == {"case": "a", "ratio": 2}
    assert "skipped" in clock(0).attempt(({"case": "a"}, broken))


def test_every_shape_of_attention_is_checked_and_timed():
    for about, measure in attention.plan(clock(), 1e12):
        row = measure()
        assert {"ours", "math"} <= row["microseconds"].keys(), row
        assert all(error < 1e-5 for error in row["relative_error"].values())
        assert about["N"] in (33, 16)


@pytest.mark.parametrize("backward", [False, True])
def test_wrong_attention_is_not_timed(monkeypatch, backward):
    right = attention.kernels.attention
    monkeypatch.setattr(attention.kernels, "attention", lambda q, k, v: 1.01 * right(q, k, v), raising=False)
    row = attention.measure(clock(), 1e12, 33, 1, 2, backward)
    assert "relative error" in row["not_timed"]["ours"]
    assert "ours" not in row["microseconds"]


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
    assert attention.table([row, large, lacking, {"skipped": "no time"}], 90, "H200") == [
        'Row(90, 64, 1025, 390.0, 350.0, 400.0, "H200, 16 × 12"),'
    ]


def test_counts_of_the_tests():
    report = ElementTree.fromstring(
        "<testsuites><testsuite><testcase classname='a' name='b'/><testcase classname='a' name='c'>"
        "<failure message='1 != 2'/></testcase><testcase classname='a' name='d'><skipped message='no GPU'/></testcase>"
        "<testcase classname='' name='tests.x'><error message='collection failure'/></testcase></testsuite></testsuites>"
    )
    counts = command._counts(report)
    assert (counts["passed"], counts["failed"], counts["skipped"]) == (1, 2, 1)
    assert counts["failures"][0] == {"test": "a::c", "message": "1 != 2"}
    assert counts["reasons"] == [{"test": "a::d", "reason": "no GPU"}]
