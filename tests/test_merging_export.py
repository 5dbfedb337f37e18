"""Merged tokens in exported files: the same in every runtime, checked before they are published; and in training."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from helpers import REPOSITORY, tiny_config, tiny_model

import segfast
from segfast.artifacts.golden import Comparison, photo
from segfast.artifacts.onnx import read_artifact
from segfast.errors import BadOption, ExportFailed
from segfast.evaluation.evaluate import evaluate
from segfast.export import __main__ as command
from segfast.export import export_onnx, merge_check, onnx_file
from segfast.export.graph import at_size
from segfast.token_merge import Merge
from segfast.train import Running, recipe, train
from segfast.train.build import build_model
from segfast.train.resume import _differences

ROPE = {"rope": True, "position_mode": "bicubic", "registers": 2, "layer_scale": True}


def merged(size=(80, 64), **changes):
    return tiny_model(image_size=size, protocol=replace(tiny_config().protocol, window=size, stride=size), **changes)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model of 5×4 patches with a merge, and its fp32 file."""
    model = merged().merge_tokens(0.5, 1)
    path = tmp_path_factory.mktemp("merged") / "m.onnx"
    return model, path, export_onnx(model, path, precision="fp32")


def test_a_file_merges_as_its_model_does_in_every_runtime_and_batch(exported):
    model, path, report = exported
    assert report.checks[0].relative_error < 1e-5
    assert "(2 of 2 merged cells are those of fp32)" in str(report)
    assert read_artifact(path).config.merge == Merge(0.5, 1)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 80, 64, 3), np.uint8)
    expected = segfast.Engine(model, device="cpu").run(pictures)
    plain = segfast.Engine(merged(), device="cpu").run(pictures)
    for runtime in ("onnxruntime", "openvino"):
        found = segfast.Engine(path, runtime=runtime, device="cpu").run(pictures)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(plain - expected).max() > 0.1


def test_the_graph_is_of_standard_operators(exported):
    graph = onnx.load(exported[1]).graph
    kinds = [node.op_type for node in graph.node]
    assert {node.domain for node in graph.node} == {""}
    assert kinds.count("TopK") == 1
    assert not {"GatherElements", "Loop", "If", "NonZero", "Sin", "Cos"} & set(kinds)


def test_labels_and_rotations_in_fp16(tmp_path):
    """DINOv3: the centres of cells are constants, the cells a choice of each picture."""
    report = export_onnx(merged(**ROPE).merge_tokens(0.5, 1), tmp_path / "m.onnx", output="labels")
    assert report.checks[0].relative_error < report.gate
    assert not {"Sin", "Cos"} & {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}


def test_a_file_that_merges_other_cells_is_refused(exported, monkeypatch):
    model, path, _ = exported
    answer, order = merge_check.run(path, photo((80, 64)))
    monkeypatch.setattr(merge_check, "run", lambda *_: (answer, order[:, ::-1].copy()))
    with pytest.raises(ExportFailed, match=r"merges cells that are not the most alike .*nothing was written"):
        merge_check.agreement(path, at_size(model, (80, 64)), "logits")


def test_cells_that_are_nearly_as_alike_pass():
    apart = np.array([0.1, 0.2, 0.3, 0.3001, 0.9], np.float32)
    near, far = (merge_check._judged(apart, np.array([order]), 3) for order in ([1, 0, 3, 2, 4], [0, 1, 4, 2, 3]))
    assert (near.equal, far.equal) == (2, 2)
    assert 0 < near.excess < 1e-3 < merge_check.EXCESS < far.excess


def test_windows_too_small_to_merge_are_refused(tmp_path):
    with pytest.raises(BadOption, match="1×2 patches has no two cells"):
        export_onnx(merged().merge_tokens(0.5, 1), tmp_path / "m.onnx", size=(16, 32))
    assert not list(tmp_path.iterdir())


def test_tensorrt_rtx_builds_it(exported):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    from segfast.artifacts.plan import Options
    from segfast.export import builder
    from segfast.export.graph import Deployed
    from segfast.export.tracing import trace

    fixed = at_size(merged(**ROPE).merge_tokens(0.5, 1), (80, 64))
    program = trace(Deployed(fixed, "logits", torch.float16), (80, 64), 18)
    content = program.model_proto.SerializeToString()
    built = builder.build_plan(content, (80, 64), Options("rtx", ("sm89",), (1, 1, 4)))
    assert bytes(built.plan[:4]) == b"vtrt"
    assert len(built.nodes.attention) == 4


def test_an_engine_that_merges_is_judged_by_its_labels():
    """Near the threshold rounding decides which cells are merged, and logits differ by more than their gate."""
    swapped = Comparison(relative_error=0.03, labels=0.99, wrong=1)
    assert (swapped.passed, swapped.alike, Comparison(0.03, 0.9, 3).alike) == (False, True, False)


# The command ----------------------------------------------------------------------------------------------------------


def options(**given):
    plain = {"model": None, "patch": None, "weights": None, "classes": None, "size": None, "merge": None}
    return SimpleNamespace(**plain | given)


def test_the_command_sets_replaces_and_removes_a_merge(tmp_path):
    path = tmp_path / "m.safetensors"
    merged().merge_tokens(0.5, 1).save(path)
    found = {
        text: command._model(options(weights=str(path), merge=text and command._merge(text))).config.merge
        for text in (None, "0.25@1", "none")
    }
    assert found == {None: Merge(0.5, 1), "0.25@1": Merge(0.25, 1), "none": None}
    assert onnx_file.file_name("seg-b-mask-16", (512, 512), "fp16", "logits", Merge(0.25, 1)) == (
        "seg-b-mask-16-512-fp16-merge25at1.onnx"
    )


def test_impossible_merges_on_the_command_line(tmp_path):
    line = [sys.executable, "-m", "segfast.export", "--model", "seg-ti-32", "--size", "64", "--merge", "0.5@1"]
    done = subprocess.run([*line, "--out", tmp_path], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert "2×2 patches has no two cells" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# Training -------------------------------------------------------------------------------------------------------------

TINY = {"width": 64, "depth": 2, "batch": 2, "save_every": 2, "evaluate_every": 0, "merge": "0.5@1"}


def test_trained_with_merged_tokens_stopped_and_gone_on_with(tmp_path):
    running = Running(device="cpu", workers=0, threads=1, tensorboard=False)
    train(recipe("shapes", iterations=2, **TINY), None, tmp_path, running)
    done = train(recipe("shapes", iterations=4, **TINY), None, tmp_path, running)
    assert (done.iteration, done.finished) == (4, True)
    model = segfast.load_model(tmp_path / "best.safetensors")
    assert model.config.merge == Merge(0.5, 1)
    with pytest.raises(BadOption, match=r"other settings: merge is '0\.25@1', there '0\.5@1'"):
        train(recipe("shapes", iterations=6, **TINY | {"merge": "0.25@1"}), None, tmp_path, running)
    report = evaluate(
        segfast.Engine(model, device="cpu"), segfast.datasets.open_dataset("shapes", None, "val").take(range(2))
    )
    assert report.seconds > 0

    other = recipe("shapes", model=None, checkpoint=str(tmp_path / "best.safetensors"))
    dataset = segfast.datasets.open_dataset("shapes", None, "train")
    assert build_model(other, dataset)[0].config.merge == Merge(0.5, 1)  # the checkpoint's
    assert build_model(replace(other, merge="0.25@1"), dataset)[0].config.merge == Merge(0.25, 1)


def test_a_run_of_before_merges_nothing(tmp_path):
    plain, asked = (
        {"recipe": json.loads(json.dumps(vars(recipe("shapes", merge=merge)))), "data": {}} for merge in (None, "0.5@1")
    )
    old = {"recipe": {name: value for name, value in plain["recipe"].items() if name != "merge"}, "data": {}}
    assert _differences(old, plain) == []
    assert _differences(old, asked) == ["merge is '0.5@1', there it was not set"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("half", "FRACTION@BLOCK"), ("1@1", "below 1; got 1"), ("0.5@2", "from 1 to 1"), ("0.5@0", "counts from 1")],
)
def test_merges_that_cannot_be_trained(text, message):
    with pytest.raises(BadOption, match=message):
        build_model(recipe("shapes", **TINY | {"merge": text}), segfast.datasets.open_dataset("shapes", None, "train"))
