import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from helpers import REPOSITORY
from PIL import Image

import segfast
from segfast.artifacts.onnx import read_artifact


def run(*arguments, cwd, check=True):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert not check or ended.returncode == 0, ended.stderr
    return ended


def test_export_without_weights_says_they_are_random(tmp_path):
    ended = run(
        "segfast.export", "--model", "seg-ti-mask-32", "--fp16", "--size", "64x96", "--classes", 5, cwd=tmp_path
    )
    assert "random weights: for timing only" in ended.stdout
    for words in ("relative error", "of the labels equal", "largest activation", "OpenVINO", "gate 0.005"):
        assert words in ended.stdout
    assert "export seg-ti-mask-32" in ended.stderr  # the progress bar
    (path,) = tmp_path.iterdir()
    assert path.name == "seg-ti-mask-32-64x96-fp16.onnx"
    artifact = read_artifact(path)
    assert artifact.config.num_classes == 5
    assert artifact.config.random_weights
    assert artifact.config.grid == (2, 3)


def test_random_exports_are_the_same_everywhere_and_by_either_way_to_a_patch(tmp_path):
    for folder, model in {"a": ["seg-ti-32"], "b": ["seg-ti-16", "--patch", 32]}.items():
        run("segfast", "export", "--model", *model, "--fp32", "--size", 64, "--out", folder, cwd=tmp_path)
    a, b = (onnx.load(tmp_path / folder / "seg-ti-32-64-fp32.onnx") for folder in ("a", "b"))
    assert a == b


def test_export_of_a_checkpoint(tmp_path, tiny_checkpoint):
    (tmp_path / "names.txt").write_text("\n".join("abcdefg") + "\n\n")
    common = ("segfast.export", "--weights", tiny_checkpoint)
    run(
        *common,
        "--fp32",
        "--output",
        "labels",
        "--opset",
        20,
        "--classes",
        "names.txt",
        "--out",
        "deep/er",
        cwd=tmp_path,
    )
    artifact = read_artifact(tmp_path / "deep" / "er" / "seg-custom-mask-16-64-fp32-labels.onnx")
    assert (artifact.output, artifact.precision) == ("labels", "fp32")
    assert artifact.config.classes == tuple("abcdefg")
    for contradiction, words in (
        (("--model", "seg-ti-16"), "leave --model out"),
        (("--classes", 3), "leave --classes out"),
    ):
        ended = run(*common, *contradiction, cwd=tmp_path, check=False)
        assert ended.returncode == 2
        assert words in ended.stderr


def test_random_weights_do_not_replace_a_trained_file_unasked(tmp_path, tiny_onnx):
    path = tmp_path / "seg-ti-32-64-fp32.onnx"
    shutil.copy(tiny_onnx, path)
    arguments = ("segfast.export", "--model", "seg-ti-32", "--fp32", "--size", 64)
    ended = run(*arguments, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert "holds trained weights" in ended.stderr
    assert path.read_bytes() == tiny_onnx.read_bytes()
    assert (
        "it replaced a file of that name: seg-custom-mask-16, 7 classes"
        in run(*arguments, "--force", cwd=tmp_path).stdout
    )


def test_segment_writes_labels_and_overlays(tmp_path, tiny_onnx):
    ended = run(
        "segfast.segment", tiny_onnx, REPOSITORY / "examples" / "cat.jpg", "-o", "out", "--device", "cpu", cwd=tmp_path
    )
    assert "1 of 1 pictures written" in ended.stdout
    assert "OpenVINO on cpu in fp32" in ended.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cat-labels.png", "cat-overlay.png"]
    with (
        Image.open(tmp_path / "out" / "cat-labels.png") as labels,
        Image.open(tmp_path / "out" / "cat-overlay.png") as overlay,
    ):
        assert labels.size == (451, 300)
        assert np.asarray(labels).max() < 7
        assert overlay.width > 451


def test_segment_resizes_first_where_it_is_told(tmp_path, tiny_onnx):
    cat = REPOSITORY / "examples" / "cat.jpg"
    run("segfast.segment", tiny_onnx, cat, "-o", "out", "--fit", "96x64", "--device", "cpu", cwd=tmp_path)
    engine = segfast.Engine(tiny_onnx, device="cpu")
    found = np.asarray(Image.open(tmp_path / "out" / "cat-labels.png"))
    assert np.array_equal(found, engine.segment(cat, fit=(96, 64)).labels)
    assert not np.array_equal(found, engine.segment(cat).labels)
    refused = run("segfast.segment", tiny_onnx, cat, "-o", "no", "--fit", "big", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "'big' is no size; write 2048x512 (long x short side), none or model" in refused.stderr


def test_segment_takes_folders_and_lists_the_bad(tmp_path, tiny_onnx, photo):
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    Image.fromarray(photo).save(folder / "a.png")
    Image.fromarray(photo).save(folder.parent / "a.png")
    Image.fromarray(photo).save(folder.parent / "a.jpg")
    (folder / "bad.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("not meant")
    ended = run(
        "segfast", "segment", tiny_onnx, "photos", "none.png", "-o", "out", "--stride", 32, cwd=tmp_path, check=False
    )
    assert ended.returncode == 1
    assert "3 of 5 pictures written" in ended.stdout
    assert "failed: photos/deep/bad.jpg" in ended.stderr
    assert "failed: none.png: there is no file" in ended.stderr
    assert "segment: 100%" in ended.stderr
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert written == [
        "a.jpg-labels.png",
        "a.jpg-overlay.png",
        "a.png-labels.png",
        "a.png-overlay.png",
        "deep/a-labels.png",
        "deep/a-overlay.png",
    ]


def test_an_empty_folder_is_an_error(tmp_path, tiny_onnx):
    (tmp_path / "empty").mkdir()
    ended = run("segfast.segment", tiny_onnx, "empty", "-o", "out", cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert "no pictures in the folder empty" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_one_picture_whose_output_cannot_be_named_does_not_end_the_run(tmp_path, tiny_onnx, photo):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    names = (
        "a",
        "n" * 245,
        "taken",
        "\udcffname",
        "z",
    )  # 245 and "-labels.png" is a name, with "-overlay.png" it is none
    for name in names:
        Image.fromarray(photo).save(folder / f"{name}.png")
    (folder / "b.heic").touch()
    (out / "taken-labels.png").mkdir(parents=True)
    ended = run("segfast.segment", tiny_onnx, "photos", "-o", "out", cwd=tmp_path, check=False)
    assert ended.returncode == 1
    assert "3 of 5 pictures written" in ended.stdout
    assert "left out 1: 1 .heic (convert them to JPEG" in ended.stdout
    assert "the name is too long; choose a shorter one" in ended.stderr
    assert "taken-labels.png: it is a folder; name a file" in ended.stderr
    written = sorted(path.name for path in out.rglob("*") if path.is_file())
    assert written == sorted(
        f"{name}-{what}.png" for name in ("a", "z", "\udcffname") for what in ("labels", "overlay")
    )


@pytest.mark.parametrize("command", ["export", "segment"])
def test_help_is_quick_and_shows_the_commands(tmp_path, command):
    ended = run("segfast", command, "--help", cwd=tmp_path)
    assert f"python -m segfast.{command}" in ended.stdout
    assert command in run("segfast", "--help", cwd=tmp_path).stdout
    assert run("segfast", "--version", cwd=tmp_path).stdout == "segfast 0.1.0\n"
