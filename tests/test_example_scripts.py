"""The scripts of examples/ do what their first lines say."""

import csv
import importlib.util

import numpy as np
import pytest
import torch
import trees
from helpers import REPOSITORY, tiny_model
from PIL import Image

import segfast

EXAMPLES = REPOSITORY / "examples"
SCRIPTS = ("segment_folder", "train_your_own", "export_and_verify", "scores_and_doubt", "serve_arrays")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script with arguments; what it prints."""

    def call(name, *arguments):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
        module.main()
        return capsys.readouterr()

    return call


def test_segment_a_folder(run, tiny_onnx, tmp_path):
    for name in ("a.jpg", "deeper/b.png"):
        trees.picture(tmp_path / "photos" / name)
    (tmp_path / "photos" / "damaged.png").write_bytes(b"no picture")
    said = run("segment_folder", tiny_onnx, tmp_path / "photos", tmp_path / "areas.csv")
    assert "skipped" in said.err
    assert "damaged.png" in said.err
    with open(tmp_path / "areas.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["picture", *(f"thing {index}" for index in range(7))]
    assert [row[0].rpartition("photos/")[2] for row in rows[1:]] == ["a.jpg", "deeper/b.png"]
    assert [sum(map(float, row[1:])) for row in rows[1:]] == pytest.approx([1, 1], abs=1e-3)
    areas = segfast.Engine(tiny_onnx, device="cpu").segment(tmp_path / "photos" / "a.jpg").areas
    assert float(rows[1][1]) == pytest.approx(areas.get("thing 0", 0), abs=1e-4)


def test_train_on_ones_own_data(run, tmp_path):
    for split in ("train", "val"):
        for number in range(2):
            trees.picture(tmp_path / "mine" / "images" / split / f"{number}.jpg", number)
            trees.mask(tmp_path / "mine" / "masks" / split / f"{number}.png", trees.values(2, number))
    (tmp_path / "mine" / "classes.txt").write_text("sky\nground\n")
    options = ("--model", "seg-ti-16", "--encoder", "none", "--iterations", 1, "--crop", 32)
    said = run("train_your_own", tmp_path / "mine", tmp_path / "run", *options).out
    assert "sky: IoU 0." in said
    assert segfast.load_model(tmp_path / "run" / "best.safetensors").config.classes == ("sky", "ground")


def test_export_and_verify(run, tmp_path):
    """A model of one mind: the margins of random weights are so small that half precision would flip labels."""
    sure = tiny_model(decoder="linear")
    with torch.no_grad():
        sure.decoder.head.bias[3] += 1000
    sure.save(tmp_path / "sure.safetensors")
    with pytest.raises(SystemExit) as ended:
        run("export_and_verify", tmp_path / "sure.safetensors", tmp_path / "out.onnx", EXAMPLES / "coffee.jpg")
    assert ended.value.code == 0
    assert set(segfast.Engine(tmp_path / "out.onnx", device="cpu").segment(EXAMPLES / "cat.jpg").areas) == {"thing 3"}


def test_labels_that_differ_are_told(run, tiny_checkpoint, tmp_path, monkeypatch):
    """An export of other weights in the place of the right one."""
    from segfast import export

    right = export.export_onnx
    monkeypatch.setattr(export, "export_onnx", lambda model, *rest, **more: right(tiny_model(seed=1), *rest, **more))
    with pytest.raises(SystemExit) as ended:
        run("export_and_verify", tiny_checkpoint, tmp_path / "out.onnx", EXAMPLES / "coffee.jpg")
    assert ended.value.code == 1


def test_read_scores_and_doubt(run, tiny_onnx, tmp_path):
    said = run("scores_and_doubt", tiny_onnx, EXAMPLES / "cat.jpg", tmp_path / "doubt.png").out
    answer = segfast.Engine(tiny_onnx, device="cpu").segment(EXAMPLES / "cat.jpg")
    best = answer.scores.max(0)
    assert f"{(best < 0.9).mean():.1%} of the picture" in said
    drawn = np.asarray(Image.open(tmp_path / "doubt.png"))
    np.testing.assert_array_equal(drawn, (answer.image * ((best - 1 / 7) / (6 / 7))[..., None]).astype(np.uint8))


def test_serve_from_arrays(run, tiny_onnx, tmp_path):
    Image.fromarray(np.zeros((70, 80), np.uint8)).save(tmp_path / "grey.png")
    said = run("serve_arrays", tiny_onnx, EXAMPLES / "cat.jpg", tmp_path / "grey.png").out.splitlines()
    areas = segfast.Engine(tiny_onnx, device="cpu").segment(EXAMPLES / "cat.jpg").areas
    assert said[0] == f"{EXAMPLES / 'cat.jpg'} {areas}"
    assert len(said) == 2


def test_a_bad_request_is_answered(tiny_onnx):
    spec = importlib.util.spec_from_file_location("serve_arrays", EXAMPLES / "serve_arrays.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "error" in module.Service(tiny_onnx).answer(np.zeros((4, 4), np.float32))


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_short_and_listed(name):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 65
    assert f"{name}.py" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
