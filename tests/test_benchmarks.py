"""What the benchmarks count with: rounds in turns, the check of labels, exponents, the file of results."""

import json
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny_model

pytest.importorskip("onnxruntime", reason="the benchmarks' peers need ONNX Runtime")
pytest.importorskip("onnxscript", reason="the benchmarks export")

from benchmarks import apart, columns, memory, test_kernels_gpu, test_paper, test_scaling
from benchmarks.artifacts import Artifacts
from benchmarks.footprint import footprint
from benchmarks.gpu import attention, ends
from benchmarks.gpu.clock import Clock
from benchmarks.labels import REGRET, agreements
from benchmarks.measuring import measure
from benchmarks.paper import IMAGES_PER_SECOND
from benchmarks.recording import file_name, surroundings, write
from benchmarks.report.reading import read
from benchmarks.rounds import in_turns
from segfast.config import family_config
from segfast.evaluation.agreement import label_agreement
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
    assert called == ["a", "b"] * 8  # one round of warm-up
    assert all(0 < one["seconds"] <= one["median"] for one in times.values())


def test_wrong_labels_are_refused():
    pixels = np.random.default_rng(0).standard_normal((5, 8, 9)).astype(np.float32)
    best = pixels.argmax(0).astype(np.uint8)
    assert label_agreement(best, pixels) == (1, 0)
    assert label_agreement((best + 1) % 5, pixels).regret > 1
    assert label_agreement(np.full_like(best, 5), pixels).regret == float("inf")
    flipped = best.copy()
    flipped[0, 0] = pixels[:, 0, 0].argmin()
    found = label_agreement(flipped, pixels)
    assert found.regret > REGRET["bf16"]  # one wrong pixel of 72 shows
    assert found.equal == 71 / 72


@pytest.mark.parametrize("power", [1.0, 1.7, 2.0])
def test_exponents_are_slopes(power):
    assert test_scaling.exponent([(n, 3e-5 * n**power) for n in (65, 257, 1025)]) == pytest.approx(power)


def test_rows_say_what_was_found_and_missed(tmp_path):
    config = family_config(variant("seg-s-32"), 150, 512, weights="random")
    seconds = {
        "eager-fp32": 0.8,
        "stock-openvino-fp32": 0.3,
        "stock-openvino-bf16": 0.15,
        "segfast-openvino-fp32": 0.2,
        "segfast-openvino-bf16": 0.1,
    }
    found = {name: {"seconds": s, "precision": name[-4:], "agreement": 1.0} for name, s in seconds.items()}
    found["segfast-tensorrt-fp16"] = {"precision": "fp16", "skipped": "not there"}
    about = {"section": "models", "id": "seg-s-32", "model": "seg-s-32", "size": 512, "batch": 1}
    row = about | test_paper.row_of(config, 1, found, {"fp32_flops": 1e12, "bf16_flops": 2e12})
    assert row["ratio"] == pytest.approx(8)
    assert row["stock_ratio"] == pytest.approx({"fp32": 1.5, "bf16": 1.5})
    assert row["share_of_peak"] == pytest.approx(row["flops"] / 0.1 / 2e12)
    assert [(one["wanted"], one["met"]) for one in row["targets"]] == [(2.0, False), (2.0, False), (4.0, True)]
    write(tmp_path / "r.json", {**surroundings("cpu"), "rows": [row]})
    results = read(tmp_path / "r.json")
    assert results.models[0].paper_speeds == (1032.0,)
    assert results.device["memory_bytes"] == json.loads((tmp_path / "r.json").read_text())["device"]["memory_bytes"]


def test_the_papers_models_exist():
    assert set(IMAGES_PER_SECOND) <= set(VARIANTS)
    assert set(test_paper.MODELS) <= set(VARIANTS)
    assert set(test_paper.EAGER) | set(test_paper.STOCK) | set(test_paper.PEAK) <= set(test_paper.MODELS)
    assert {name for name, _ in test_paper.cases("cuda")} >= {"seg-s-8", "seg-b-mask-8", "seg-l-8"}


def tiny_case(tmp_path, batch, network=None):
    model = tiny_model()
    size = model.config.protocol.window[0]
    case = columns.Case.of(model, size, "cpu", batch, Artifacts(tmp_path))
    return case if network is None else columns.Case(model, size, "cpu", batch, None, network)


def two_images(case):
    """A batch of a case's, every other image the same."""
    images = np.random.default_rng(0).integers(0, 256, (2, case.size, case.size, 3), np.uint8)
    return images[np.arange(case.batch) % 2]


@pytest.mark.parametrize("batch", [1, 3])
def test_every_column_gives_the_labels_of_the_reference(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # Inductor takes minutes
    case = tiny_case(tmp_path, batch)
    images = two_images(case)
    made = columns.make(columns.peers(case, compiled=True) | columns.ours(case), images)
    assert {name for name, column in made.items() if isinstance(column, str)} <= {
        name for name in made if name.endswith("bf16")
    }
    checked = agreements({name: c for name, c in made.items() if not isinstance(c, str)}, case, images)
    assert min(one["agreement"] for one in checked.values() if one["precision"] == "fp32") > 0.999


def test_a_wrong_column_is_not_timed(tmp_path):
    case = tiny_case(tmp_path, 1)
    images = np.zeros((1, case.size, case.size, 3), np.uint8)
    with pytest.raises(AssertionError, match="wrong-fp32"):
        agreements({"segfast-wrong-fp32": lambda images: columns.eager(case)(images) + 1}, case, images)
    makers = {
        "stock-wrong-fp32": lambda: lambda images: columns.eager(case)(images) + 1,
        "missing-fp32": lambda: {}["no such thing"],
        "eager-fp32": lambda: columns.eager(case),
    }
    rounds = Rounds()
    found = measure(rounds, makers, case, images, {"beside": columns.eager(case)})
    assert list(found) == [*makers, "beside"]
    assert "labels are wrong" in found["stock-wrong-fp32"]["skipped"]
    assert found["missing-fp32"] == {"precision": "fp32", "skipped": "it fails: KeyError: 'no such thing'"}
    assert found["eager-fp32"]["agreement"] == 1
    assert found["beside"].keys() == {"seconds", "median", "images_per_second"}


def test_every_image_of_a_batch_is_looked_at(tmp_path):
    case = tiny_case(tmp_path, 3)
    images = two_images(case)

    def third(images):
        labels = columns.eager(case)(images)
        labels[2] = (labels[2] + 1) % 7
        return labels

    assert isinstance(agreements({"peer-fp32": third}, case, images)["peer-fp32"], str)
    for wrong in (third, lambda images: third(images)[:2]):
        with pytest.raises(AssertionError, match="segfast-fp32"):
            agreements({"segfast-fp32": wrong}, case, images)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stock_session_may_stay_on_the_device(tmp_path, precision):
    """On the CPU, whose memory is bound as a GPU's is."""
    import onnxruntime

    case = tiny_case(tmp_path, 3)
    session = onnxruntime.InferenceSession(columns.stock_file(case, precision), providers=["CPUExecutionProvider"])
    images = two_images(case)
    found = agreements({f"stock-{precision}": columns.on_device(session, case, precision)}, case, images)
    assert found[f"stock-{precision}"]["agreement"] > 0.99


def test_the_eager_batch_is_halved_until_it_fits(tmp_path):
    sizes = []

    def network(images):
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images

    call = columns.eager(tiny_case(tmp_path, 11, network))
    images = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), np.uint8)
    first, second = call(images), call(images)
    assert sizes == [11, 5, *[2] * 5, 1, *[2] * 5, 1]
    assert first.shape == (11, 4, 4)
    assert np.array_equal(first, second)


def test_columns_that_cannot_be_had_say_why():
    def missing():
        raise columns.Unavailable("no such thing here")

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    made = columns.make({"a": missing, "b": full, "c": lambda: abs, "d": lambda: lambda images: full()}, 1)
    held = "the device's memory does not hold it"
    assert made == {"a": "no such thing here", "b": held, "c": abs, "d": held}
    with pytest.raises(TypeError):
        columns.make({"segfast-x": lambda: abs}, "no number")


def test_artifacts_are_made_once_with_what_lies_beside_them(tmp_path):
    made = []

    def write(path):
        made.append(path)
        path.write_text("plan")
        path.with_name(path.name + ".json").write_text("sidecar")

    for _ in range(2):
        path = Artifacts(tmp_path)("x.engine", write)
        assert path.read_text() == "plan"
        assert path.with_name("x.engine.json").read_text() == "sidecar"
    assert len(made) == 1
    assert sorted(one.name for one in path.parent.iterdir()) == ["x.engine", "x.engine.json"]
    with pytest.raises(ZeroDivisionError):
        Artifacts(tmp_path)("y.onnx", lambda path: (path.write_text("half"), 1 / 0))
    assert len(list(path.parent.iterdir())) == 2
    Artifacts(tmp_path).clear()
    assert not path.exists()


@pytest.mark.skipif(memory.resident() is None, reason="memory is read from Linux' /proc")
def test_peak_memory_is_that_of_the_call():
    def call():
        return np.ones(50_000_000, np.uint8).sum()

    assert 45e6 < memory.peak(call) < 70e6
    assert memory.peak(lambda: None) < 20e6


@pytest.mark.parametrize("version", [1, 2])
def test_available_memory_is_at_most_a_container_s(tmp_path, monkeypatch, version):
    files = {"memory.max": 5000, "memory.current": 4000, "memory.stat": "anon 7\ninactive_file 300"}
    if version == 1:
        files = {
            "memory/memory.limit_in_bytes": 5000,
            "memory/memory.usage_in_bytes": 4000,
            "memory/memory.stat": "cache 7\ntotal_inactive_file 300",
        }
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 3 kB\n")
    monkeypatch.setattr(memory, "INFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    assert memory.available() == 1300
    (tmp_path / next(iter(files))).write_text("max\n" if version == 2 else "9223372036854771712\n")
    assert memory.available() == 3 * 1024
    monkeypatch.setattr(memory, "INFO", tmp_path / "none")
    assert memory.available() is None


def test_a_footprint_is_that_of_a_process_of_its_own(tmp_path):
    held = footprint("seg-ti-32", 64, "eager-fp32", "cpu", Artifacts(tmp_path))
    weights = 4 * 7e6
    assert held is None or weights < held < 10 * weights


def test_compiled_columns_of_a_gpu_share_their_process_with_no_engine(monkeypatch):
    """Their mode frees workspaces that other CUDA graphs of the process read."""
    monkeypatch.setattr(test_paper, "measure", lambda benchmark, makers, case, images: dict.fromkeys(makers))
    monkeypatch.setattr(test_paper.apart, "measured", lambda *given: {"given": given})
    case = SimpleNamespace(device="cuda", size=64, batch=2, artifact="folder")
    here = test_paper.measured(None, case, "seg-b-16")
    assert not [name for name in here if name.startswith("compile")]
    assert here["given"] == ("seg-b-16", 64, 2, "cuda", "folder")
    assert "given" not in test_paper.measured(None, case, "seg-b-mask-16")
    case.device = "cpu"
    assert "compile-fp32" in test_paper.measured(None, case, "seg-b-16")


def test_columns_of_a_process_of_their_own(tmp_path, monkeypatch):
    found = apart.measured("seg-ti-32", 64, 2, "cpu", Artifacts(tmp_path), ["eager-fp32"])
    assert found["eager-fp32"]["agreement"] == 1
    assert found["eager-fp32"]["images_per_second"] > 0
    monkeypatch.setattr(apart.sys, "executable", "false")
    found = apart.measured("seg-ti-32", 64, 2, "cpu", Artifacts(tmp_path))
    assert found["compile-fp16"] == {"precision": "fp16", "skipped": "it fails: code 1"}
    assert found.keys() == {"compile-fp32", "compile-fp16"}


@pytest.mark.parametrize("section", [attention.plan, ends.plan])
def test_rows_of_the_gpu_become_kernels(section):
    clock = Clock("cpu", time.monotonic() + 600, 1e12)
    row = next(iter(section(clock)))
    found = test_kernels_gpu.row_of(clock.attempt(row))
    assert found["peers"]
    assert found["ratio"] == pytest.approx(min(found["peers"].values()) / found["seconds"])
    late = test_kernels_gpu.row_of(Clock("cpu", time.monotonic()).attempt(row))
    assert late["id"] == found["id"]
    assert "left" in late["skipped"]


def test_files_of_results_are_named_after_the_machine():
    name = file_name(surroundings("cpu")["device"])
    assert name.endswith("-cores.json")
    assert name == name.lower()
