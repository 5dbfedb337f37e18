"""Parity with the original code and MMSegmentation, on a CPU, in fp32."""

import numpy as np
import pytest
import torch
from helpers import reference

import segfast
from segfast.datasets import open_dataset
from segfast.evaluation.evaluate import evaluate
from segfast.export import export_onnx

OFFICIAL = ("official/mask-16", "official/linear-8", "official/deit-mask-16")
MMSEG = ("mmseg/mask-16", "mmseg/linear-16")
# fp32 sums in another order; the stored outputs come from another build of PyTorch.
TOLERANCE = 1e-4


def inputs_and_logits(folder):
    arrays = np.load(folder / "forward.npz")
    count = sum(name.startswith("input_") for name in arrays)
    assert count
    return [(torch.from_numpy(arrays[f"input_{i}"]), torch.from_numpy(arrays[f"logits_{i}"])) for i in range(count)]


@pytest.mark.parametrize("name", OFFICIAL)
@torch.inference_mode()
def test_model_gives_the_original_logits(name):
    model = segfast.load_model(reference(name) / "checkpoint.pth")
    for images, logits in inputs_and_logits(reference(name)):
        torch.testing.assert_close(model(images), logits, atol=TOLERANCE, rtol=0)
        assert model.patch_logits(images).shape[1] == logits.shape[1]


@pytest.mark.parametrize("name", MMSEG)
@torch.inference_mode()
def test_patch_logits_are_those_of_mmsegmentation(name):
    model = segfast.load_model(reference(name) / "checkpoint.pth")
    for images, logits in inputs_and_logits(reference(name)):
        torch.testing.assert_close(model.patch_logits(images), logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.parametrize("name", OFFICIAL)
def test_engine_gives_the_original_labels(name, multiscale):
    folder = reference(name)
    expected, kind = np.load(folder / "inference.npz"), "multi" if multiscale else "single"
    answer = segfast.Engine(folder / "checkpoint.pth", device="cpu").segment(
        folder / "photo.png", multiscale=multiscale
    )
    second, first = np.sort(answer.scores, axis=0)[-2:]
    wrong = (answer.labels != expected[f"labels_{kind}"]) & (first - second > TOLERANCE)
    assert not wrong.any()
    if kind in expected:  # the copies in tests/data keep the labels only
        np.testing.assert_allclose(answer.scores, expected[kind], atol=TOLERANCE)


@pytest.fixture(scope="module")
def camvid():
    """The trained checkpoint's folder, and the 101 labelled pictures it was measured on."""
    folder = reference("camvid-ti-mask-16")
    data = folder.parent.parent / "data" / "camvid"
    if not data.is_dir():
        pytest.skip("the labelled pictures are only below $SEGFAST_TEST_DATA")
    dataset = open_dataset("folder", data)
    assert len(dataset) == 101
    return folder, dataset


def test_a_trained_model_scores_what_the_original_code_does(camvid):
    """mIoU, pixel accuracy and IoU on 101 real pictures, as stated beside the checkpoint."""
    folder, dataset = camvid
    report = evaluate(segfast.Engine(folder, device="cpu"), dataset)
    assert (report.stride, report.fit) == (224, None)
    assert report.miou == pytest.approx(0.43100, abs=1e-5)
    assert report.pixel_accuracy == pytest.approx(0.83522, abs=1e-5)
    stated = (0.9258, 0.7406, 0, 0.8413, 0.6006, 0.7881, 0.0018, 0.3482, 0.4320, 0.0625, 0)
    assert list(report.per_class.values()) == pytest.approx(stated, abs=1e-4)


@pytest.mark.parametrize(
    ("precision", "runtimes", "points"), [("fp32", ["openvino"], 0.02), ("fp16", ["openvino", "onnxruntime"], 0.1)]
)
def test_a_trained_models_files_score_what_it_does(camvid, tmp_path, precision, runtimes, points):
    folder, dataset = camvid
    export_onnx(segfast.load_model(folder), tmp_path / "m.onnx", precision=precision)
    for runtime in runtimes:
        report = evaluate(segfast.Engine(tmp_path / "m.onnx", device="cpu", runtime=runtime), dataset)
        assert 100 * report.miou == pytest.approx(43.100, abs=points)
        assert 100 * report.pixel_accuracy == pytest.approx(83.522, abs=points)


def test_protocols_are_those_of_the_origin():
    original = segfast.load_model(reference("official/deit-mask-16") / "checkpoint.pth").config
    assert original.protocol.window == (64, 64)
    assert original.protocol.stride == (32, 32)  # variant.yml
    assert (original.protocol.small_windows, original.protocol.crop_padding) == (False, True)
    assert original.protocol.mean == (0.485, 0.456, 0.406)
    assert original.distilled
    mmseg = segfast.load_model(reference("mmseg/linear-16") / "checkpoint.pth").config
    assert (mmseg.protocol.window, mmseg.protocol.stride) == ((64, 64), (32, 32))  # crop − 32
    assert (mmseg.protocol.small_windows, mmseg.protocol.crop_padding) == (True, False)
    assert (mmseg.position_mode, mmseg.encoder_eps, mmseg.decoder_eps) == ("bicubic", 1e-6, 1e-5)
    assert mmseg.classes == ("c0", "c1", "c2", "c3", "c4")
    assert mmseg.palette[3] == (3, 3, 3)
