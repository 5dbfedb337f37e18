"""int8 files: what is in them, what they lose, and that what loses too much is not published."""

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from helpers import tiny_model
from PIL import Image

import segfast
from segfast.artifacts.onnx import read_artifact
from segfast.datasets import open_dataset
from segfast.dependencies import imports
from segfast.errors import BadData, BadModel, BadOption, CannotWrite, ExportFailed, MissingRuntime
from segfast.export import Calibration, export_onnx, int8, int8_file, int8_loss, int8_ranges
from segfast.export.__main__ import main
from segfast.export.calibration import _windows, see
from segfast.export.graph import Deployed, at_size
from segfast.export.int8 import fewest, traced
from segfast.export.int8_graph import to_int8
from segfast.export.tracing import trace
from segfast.runtimes.onnxruntime import ONNXRuntime

pytest.importorskip("nncf", reason="NNCF, of the extra [int8], is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve pictures of soft shapes, larger than a window."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(12):
        coarse = random.integers(0, 256, (6, 7, 3), np.uint8)
        Image.fromarray(coarse).resize((112, 96), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _cheaply():
    """One strength of smoothing is tried, and what NNCF found of a network is not asked for twice."""
    found = {}

    def remembered(network, nodes, windows, alpha, step):
        key = len(windows), alpha, windows.tobytes(), network.read_bytes()
        if key not in found:
            found[key] = int8_ranges.ranges(network, nodes, windows, alpha, step)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "ALPHAS", (0.75,))
        patch.setattr(int8, "ranges", remembered)
        yield


def on_its_way(model, folder):
    """A model traced for int8; what it becomes is asked of `quantised`."""
    fixed = at_size(model, (64, 64))
    program = trace(Deployed(fixed, "logits", torch.float32), (64, 64), 18)
    given = {"size": (64, 64), "output": "logits", "digest": ""}
    network = traced(program.model, fixed, fixed.config.to_json(precision="fp32", **given), folder / "fp32.onnx")
    return network, fixed.config.to_json(precision="int8", **given)


def quantised(prepared, calibration):
    """The ranges of the Linears that became int8, and the report."""
    return int8.Quantiser(*prepared, calibration, Path(calibration.pictures) / "out").run()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, photos):
    """An int8 file of a small model, and the report."""
    path = tmp_path_factory.mktemp("int8") / "m.onnx"
    return path, export_onnx(tiny_model(), path, precision="int8", calibration=Calibration(photos, max_loss=5))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same model on its way to int8."""
    return on_its_way(tiny_model(), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def outlying(tmp_path_factory):
    """A model with outliers in its first block, on its way to int8."""
    return on_its_way(with_outliers(tiny_model()), tmp_path_factory.mktemp("outlying"))


def with_outliers(model, factor=300.0):
    """The same function, with channels of the normalised activations that dwarf all others.

    As in DINOv2: LayerNorm's factors grow, and the next Linear's columns shrink by as much.
    """
    with torch.no_grad():
        for block in model.encoder.blocks[:1]:
            for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                norm.weight[:4] *= factor
                norm.bias[:4] *= factor
                linear.weight[:, :4] /= factor
    return model


def test_linears_are_int8_and_nothing_else(exported):
    path, report = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    maker = {name: node for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    whole = [node for node in products if maker[node.input[0]].op_type == "DequantizeLinear"]
    assert len(whole) == report.quantised.linears == report.quantised.all == 4 * 4 + 1
    for node in whole:
        weights = maker[node.input[1]]
        assert weights.op_type == "DequantizeLinear"
        matrix, scales, zeros = (stored[name] for name in weights.input)
        assert matrix.dtype == zeros.dtype == np.int8
        assert scales.shape == zeros.shape == (matrix.shape[1],)
        quantised = maker[maker[node.input[0]].input[0]]
        assert quantised.op_type == "QuantizeLinear"
        assert stored[quantised.input[2]] == 0  # which TensorRT demands, as of the weights
        assert not zeros.any()
        assert abs(matrix).max() == 127
    # Attention, the patch embedding and the mask decoder's end are as they were.
    others = [node for node in model.graph.node if node.op_type in ("MatMul", "Conv") and node not in whole]
    assert len(others) == 2 * 4 + 3 + 1
    assert all(maker.get(name, node).op_type != "DequantizeLinear" for node in others for name in node.input)


def test_weights_that_became_int8_are_gone(exported, plain):
    path, _ = exported
    assert path.stat().st_size < 0.6 * plain[0].path.stat().st_size
    graph = onnx.load(path).graph
    assert {tensor.name for tensor in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_both_runtimes_run_it_and_say_so(exported, photos):
    path, report = exported
    artifact = read_artifact(path)
    assert artifact.precision == "int8"
    windows = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    answers = []
    for runtime, name in (
        ("openvino", "OpenVINO on cpu in int8 over "),
        ("onnxruntime", "ONNX Runtime on cpu in int8 over fp32"),
    ):
        engine = segfast.Engine(path, runtime=runtime, device="cpu")
        assert engine.runtime.startswith(name)
        answers.append(engine.run(windows))
        assert engine.segment(photos / "0.png").labels.shape == (96, 112)
    assert answers[0].shape == (3, 7, 4, 4)
    assert np.linalg.norm(answers[0] - answers[1]) < 0.1 * np.linalg.norm(answers[1])
    assert [check.runtime.split(" on ")[0] for check in report.checks] == ["ONNX Runtime", "OpenVINO"]
    assert all(check.relative_error < 0.3 for check in report.checks)


def test_labels_files_give_the_labels_of_the_logits(exported, photos, tmp_path):
    path, _ = exported
    calibration = Calibration(photos, max_loss=5)
    export_onnx(tiny_model(), tmp_path / "m.onnx", precision="int8", output="labels", calibration=calibration)
    windows = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    logits, labels = (segfast.Engine(file, runtime="onnxruntime", device="cpu") for file in (path, tmp_path / "m.onnx"))
    assert labels.output == "labels"
    assert (logits.run(windows, labels=True) == labels.run(windows)).mean() > 0.99


def test_outliers_ruin_plain_int8_and_are_smoothed(outlying, photos, monkeypatch):
    monkeypatch.setattr(int8, "ALPHAS", (None,))
    _, ruined = quantised(outlying, Calibration(photos, max_loss=100))
    assert ruined.lost > 10
    monkeypatch.setattr(int8, "ALPHAS", (None, 0.75))  # of which the search takes the better
    _, smoothed = quantised(outlying, Calibration(photos, max_loss=100))
    assert smoothed.alpha == 0.75
    assert smoothed.lost < 0.3 * ruined.lost


def test_what_loses_too_much_goes_back_the_worst_first(outlying, photos, monkeypatch):
    monkeypatch.setattr(int8, "ALPHAS", (None,))
    found, told = quantised(outlying, Calibration(photos, max_loss=5))
    assert told.back
    assert set(told.back) <= {"encoder.blocks.0.attn", "encoder.blocks.0.mlp"}
    assert told.lost <= 5
    assert told.linears == told.all - 2 * len(told.back) == len(found)
    assert f"in higher precision, where int8 costs most: {told.back[0]}" in str(told)


def test_what_cannot_be_mended_is_refused_and_named(outlying, photos, monkeypatch):
    monkeypatch.setattr(int8, "ALPHAS", (None,))
    monkeypatch.setattr(int8, "BACK", 0.12)  # one group of nine
    with pytest.raises(ExportFailed, match=r"int8 loses \d+\.\d\d points of the labels") as caught:
        quantised(outlying, Calibration(photos, max_loss=0))
    assert "with the worst 1 of 9 groups in higher precision (encoder.blocks.0." in str(caught.value)
    assert "nothing was written" in str(caught.value)


def test_random_weights_are_told_and_not_refused(outlying, photos, monkeypatch):
    monkeypatch.setattr(int8, "ALPHAS", (None,))
    network, metadata = outlying
    path = network.path.with_name("random.onnx")
    model = onnx.load(network.path)
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "provenance": {"weights": "random"}})
    onnx.save(model, path)
    _, told = quantised((replace(network, path=path), metadata), Calibration(photos, max_loss=0))
    assert told.lost > 0
    assert told.back == ()
    assert "random weights: the loss is told and refuses nothing" in str(told)


def test_masks_measure_points_of_miou(plain, photos, tmp_path):
    folder = tmp_path / "data"
    teacher = segfast.Engine(plain[0].path, device="cpu")
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for picture in sorted(photos.iterdir()):
            shutil.copy(picture, folder / "images" / split)
            labels = teacher.segment(picture, stride=32).labels  # as it is evaluated
            Image.fromarray(labels.astype(np.uint8)).save(folder / "masks" / split / picture.name)
    (folder / "classes.txt").write_text("".join(f"thing {index}\n" for index in range(7)))
    data = open_dataset("folder", folder, "val")
    # Of a dataset's folder the training pictures calibrate, the masks never do.
    _, told = quantised(plain, Calibration(folder, data, max_loss=50))
    assert "points of mIoU on folder val, 12 pictures (fp32: 100.00)" in str(told)
    assert 0 < told.lost <= 50
    wrong = replace(data, classes=data.classes[:-1], palette=data.palette[:-1])
    with pytest.raises(BadModel, match="classes"):
        quantised(plain, Calibration(folder, wrong))
    # Where fp32 itself reaches no more than may be lost, a ruined file would pass.
    with pytest.raises(BadData, match=r"fp32 itself reaches 100\.00 points .* no more than the 100 "):
        quantised(plain, Calibration(folder, data, max_loss=100))


def test_a_cpu_without_int8_computes_the_same_and_says_so(exported, monkeypatch):
    path, _ = exported
    monkeypatch.setattr("segfast.machine.cpu.instructions", lambda: {"avx2": True, "avx512_vnni": False})
    engine = segfast.Engine(path, runtime="openvino", device="cpu")
    assert "int8" not in engine.runtime
    assert "this CPU has no instructions for int8" in repr(engine)
    windows = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), np.uint8)
    other = ONNXRuntime(read_artifact(path), "cpu", None)
    expected = other.run(windows)
    options = other._session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    assert np.linalg.norm(engine.run(windows) - expected) < 0.1 * np.linalg.norm(expected)


def test_files_that_pass_leave_nothing_in_the_cache(exported, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGFAST_CACHE", str(tmp_path / "cache"))
    with int8.passing_file() as path:
        shutil.copy(exported[0], path)
        segfast.Engine(path, runtime="openvino", device="cpu")
    assert not list(tmp_path.rglob("*.blob"))
    segfast.Engine(exported[0], runtime="openvino", device="cpu")
    assert list(tmp_path.rglob("*.blob"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "there are no pictures in the folder"),
        (lambda folder: (folder / "notes.txt").write_text("no picture"), r"left out 1: 1 \.txt"),
        (lambda folder: (folder / "a.png").write_bytes(b"no picture"), "calibrate int8"),
        (lambda folder: Image.new("RGB", (96, 96)).save(folder / "black.png"), "of one colour"),
        (lambda folder: Image.effect_noise((20, 20), 50).save(folder / "tiny.png"), "too small for these windows"),
        (lambda folder: Image.effect_noise((64, 64), 50).save(folder / "one.png"), "too few"),
    ],
)
def test_folders_that_calibrate_nothing_are_refused(plain, tmp_path, make, words):
    make(tmp_path)
    engine = segfast.Engine(plain[0].path, device="cpu")
    with pytest.raises(BadOption, match=words):
        see(Calibration(tmp_path), engine, tmp_path / "out")


def test_few_pictures_and_bad_ones_are_told(plain, photos, tmp_path):
    for picture in sorted(photos.iterdir())[:2]:
        shutil.copy(picture, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    engine = segfast.Engine(plain[0].path, device="cpu")
    seen = see(Calibration(tmp_path, windows=6), engine, tmp_path / "out")
    assert len(seen.fitted) + len(seen.held) == 4  # two windows of each
    assert seen.notes[0] == "calibrated with 4 windows only; 16 or more are surer"
    assert "a picture was left out" in seen.notes[1]
    many = see(Calibration(photos), engine, tmp_path / "out")
    assert len(many.fitted) + len(many.held) == 32
    assert (len(many.held), many.notes) == (8, ())
    # Windows of a picture overlap: those of a quarter of the pictures are held out, whole.
    own = [{window.tobytes() for window in _windows(photo, engine)} for photo in sorted(photos.iterdir())]
    held = {window.tobytes() for window in many.held}
    assert sum(bool(held & windows) for windows in own) == 3
    assert not any(window.tobytes() in set().union(*(w for w in own if held & w)) for window in many.fitted)
    again = see(Calibration(photos), engine, tmp_path / "out")
    assert np.array_equal(many.fitted, again.fitted)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"precision": "int8"}, "--calibrate DIR"),
        ({"precision": "fp16", "calibration": Calibration(".")}, "is for int8, not for fp16"),
        ({"precision": "int8", "calibration": Calibration("nowhere")}, "nowhere is none"),
        ({"precision": "int8", "calibration": Calibration(".", max_loss=-1)}, "--max-loss"),
        ({"precision": "int8", "calibration": Calibration(".", max_loss=float("nan"))}, "--max-loss"),
        ({"precision": "int8", "calibration": Calibration(".", windows=1)}, "2 to 4096 windows"),
        ({"precision": "int8", "calibration": Calibration(".", windows=2.5)}, "2 to 4096 windows"),
    ],
)
def test_options_are_checked_before_any_work(tmp_path, given, words):
    with pytest.raises(BadOption, match=words):
        export_onnx(tiny_model(), tmp_path / "m.onnx", **given)


def test_without_nncf_the_remedy_is_told(monkeypatch, photos, tmp_path):
    monkeypatch.setattr(imports, "find_spec", lambda name: None if name == "nncf" else find_spec(name))
    with pytest.raises(MissingRuntime, match=r"nncf.*\[int8\]"):
        export_onnx(tiny_model(), tmp_path / "m.onnx", precision="int8", calibration=Calibration(photos))


def test_what_other_threads_print_is_not_swallowed(plain, photos, capsys):
    windows = np.stack([np.asarray(Image.open(photo))[:64, :64] for photo in sorted(photos.iterdir())[:2]])
    found = int8_ranges.ranges(plain[0].path, plain[0].nodes, windows, None, lambda: print("window"))
    assert capsys.readouterr().out == "window\n" * 2
    assert set(found) == set(plain[0].nodes)


class Broken:
    """An Engine whose logits are no numbers."""

    def __init__(self, *_, **__):
        pass

    def run(self, windows):
        return np.full((len(windows), 7, 4, 4), np.nan, np.float32)


def test_logits_that_are_no_numbers_lose_everything(plain, photos, monkeypatch):
    engine = segfast.Engine(plain[0].path, device="cpu")
    windows = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    disagreement, error = int8_loss.Disagreement(engine, windows), int8_loss.Error(windows, engine.run(windows))
    assert disagreement.of(plain[0].path) == error.of(plain[0].path) == 0
    monkeypatch.setattr(int8_loss, "Engine", Broken)
    assert disagreement.of(plain[0].path) == 100
    assert error.of(plain[0].path) == np.inf


def test_nothing_is_left_of_what_is_interrupted(photos, tmp_path, monkeypatch):
    def stopped(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(int8.Quantiser, "__init__", lambda self, *_: None)
    monkeypatch.setattr(int8.Quantiser, "run", stopped)
    monkeypatch.setattr(int8_file, "trace", lambda *_: SimpleNamespace(model=None))
    monkeypatch.setattr(int8_file, "traced", lambda *given: given[-1].write_bytes(b"half"))
    with pytest.raises(KeyboardInterrupt):
        export_onnx(tiny_model(), tmp_path / "m.onnx", precision="int8", calibration=Calibration(photos))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_of_the_scratch_files_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(CannotWrite, match="nowhere"), int8.scratch():
        pass


@pytest.mark.parametrize(
    ("first", "limit", "count"), [(1, 8, 1), (3, 8, 3), (8, 8, 8), (5, 12, 5), (9, 8, None), (1, 0, None)]
)
def test_the_fewest_that_hold(first, limit, count):
    asked = []
    assert fewest(lambda number: asked.append(number) or number >= first, limit) == count
    assert len(asked) <= 8


def test_rounding_of_weights():
    weights = np.array([[1.0, -0.5, 0.0], [-127.0, 0.25, 0.0]], np.float32)
    whole, scales = to_int8(weights)
    assert whole.tolist() == [[1, -127, 0], [-127, 64, 0]]
    np.testing.assert_allclose(scales[:2], [1, 0.5 / 127], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--int8"], "--calibrate DIR"),
        (["--fp32", "--calibrate", "."], "--calibrate goes with --int8"),
        (["--int8", "--calibrate", "nowhere"], "nowhere is none"),
    ],
)
def test_the_command_says_what_is_missing(monkeypatch, arguments, words):
    monkeypatch.setattr(sys, "argv", ["segfast.export", "--model", "seg-ti-mask-16", *arguments])
    with pytest.raises(BadOption, match=words):
        main()
