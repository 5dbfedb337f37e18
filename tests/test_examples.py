"""The example without segfast gives the Engine's labels: docs/onnx.md says all that another language needs."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from helpers import REPOSITORY, tiny_model
from PIL import Image

from segfast import Engine
from segfast.export import export_onnx
from segfast.protocol import Protocol

SCRIPT = REPOSITORY / "examples" / "onnx_only.py"
HALF = (0.5,) * 3
MODELS = {
    "mask, fp16": ({}, "fp16"),
    "linear, fp32": ({"decoder": "linear"}, "fp32"),
    "a window that is no multiple of the patch": (
        {"protocol": Protocol(HALF, HALF, (56, 72), (40, 56)), "image_size": (48, 64)},
        "fp32",
    ),
    "MMSegmentation's protocol": (
        {"protocol": Protocol(HALF, HALF, (56, 56), (24, 24), small_windows=True, crop_padding=False)},
        "fp32",
    ),
    "over 256 classes": ({"num_classes": 300}, "fp32"),
    "an encoder of format 2, patch 14": (
        {"protocol": Protocol(HALF, HALF, (56, 64), (40, 56)), "image_size": (56, 70), "patch": 14, "registers": 2},
        "fp32",
    ),
}
SIZES = [(64, 64), (60, 90), (20, 31), (131, 97), (56, 200)]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("onnx_only", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photo(size, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return np.array(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_the_engines(example, tmp_path, name):
    changes, precision = MODELS[name]
    path = tmp_path / "m.onnx"
    export_onnx(tiny_model(**changes), path, precision=precision)
    engine = Engine(path, runtime="onnxruntime", device="cpu")
    for size in SIZES:
        image = photo(size)
        labels = engine.segment(image).labels
        assert len(np.unique(labels)) > 1
        found = example.segment(str(path), image)
        assert found.dtype == labels.dtype
        np.testing.assert_array_equal(found, labels)


def test_it_runs_where_segfast_is_not(tiny_onnx, tmp_path):
    image = Image.fromarray(photo((80, 50)))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "held upright.jpg", exif=exif)
    blocked = f"import sys, runpy; sys.modules['segfast'] = None; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    arguments = [str(tiny_onnx), str(tmp_path / "held upright.jpg"), str(tmp_path / "labels.png")]
    subprocess.run([sys.executable, "-c", blocked, *arguments], check=True, cwd=tmp_path, timeout=120)
    expected = Engine(tiny_onnx, runtime="onnxruntime", device="cpu").segment(arguments[1]).labels
    assert expected.shape == (50, 80)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "labels.png")), expected)


def test_it_is_short():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 120
