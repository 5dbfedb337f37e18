"""What the benchmarks count with: rounds in turns, the check of labels, exponents, the file of results."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the benchmarks' peers need ONNX Runtime")
pytest.importorskip("onnxscript", reason="the benchmarks export")

from benchmarks import test_paper, test_scaling
from benchmarks.paper import IMAGES_PER_SECOND
from benchmarks.recording import surroundings, write
from benchmarks.report.reading import read
from benchmarks.rounds import in_turns, lack
from segfast.config import family_config
from segfast.variants import VARIANTS, variant


class Rounds:
    """pytest-benchmark's fixture, as far as it is used."""

    def pedantic(self, function, rounds, warmup_rounds):
        self.rounds = rounds
        for _ in range(rounds):
            function()


def test_functions_take_turns():
    called, rounds = [], Rounds()
    times = in_turns(rounds, {"a": lambda: called.append("a"), "b": lambda: called.append("b")})
    assert rounds.rounds == 7
    assert called == ["a", "b"] * 8     # one round of warm-up
    assert all(0 < one["low"] <= one["seconds"] for one in times.values())


def test_wrong_labels_are_refused():
    pixels = np.random.default_rng(0).standard_normal((5, 8, 9)).astype(np.float32)
    best = pixels.argmax(0).astype(np.uint8)
    assert lack(best, pixels) == 0
    assert lack((best + 1) % 5, pixels) > 1
    flipped = best.copy()
    flipped[0, 0] = pixels[:, 0, 0].argmin()
    assert lack(flipped, pixels) > test_paper.LACK["bf16"]      # one wrong pixel of 72 shows


@pytest.mark.parametrize("power", [1.0, 1.7, 2.0])
def test_exponents_are_slopes(power):
    assert test_scaling.exponent([(n, 3e-5 * n**power) for n in (65, 257, 1025)]) == pytest.approx(power)


def test_rows_say_what_was_found_and_missed(tmp_path):
    config = family_config(variant("seg-s-32"), 150, 512, weights="random")
    seconds = {"eager-fp32": 0.8, "stock-openvino-fp32": 0.3, "stock-openvino-bf16": 0.15, "segfast-openvino-fp32": 0.2,
               "segfast-openvino-bf16": 0.1}  # fmt: skip
    found = {name: {"seconds": s, "precision": name[-4:], "agreement": 1.0} for name, s in seconds.items()}
    row = test_paper.row_of("seg-s-32", config, found, {"fp32_flops": 1e12, "bf16_flops": 2e12})
    assert row["ratio"] == pytest.approx(8)
    assert row["stock_ratio"] == pytest.approx({"fp32": 1.5, "bf16": 1.5})
    assert row["share_of_peak"] == pytest.approx(row["flops"] / 0.1 / 2e12)
    assert [(one["wanted"], one["met"]) for one in row["targets"]] == [(2.0, False), (2.0, False), (4.0, True)]
    write(tmp_path / "r.json", {**surroundings(), "rows": [row]})
    results = read(tmp_path / "r.json")
    assert results.models[0].paper_speeds == (1032.0,)
    assert results.device["memory_bytes"] == json.loads((tmp_path / "r.json").read_text())["device"]["memory_bytes"]


def test_the_papers_models_exist():
    assert set(IMAGES_PER_SECOND) <= set(VARIANTS)
    assert set(test_paper.MODELS) <= set(VARIANTS)
    assert set(test_paper.EAGER) | set(test_paper.STOCK) | set(test_paper.PEAK) <= set(test_paper.MODELS)
