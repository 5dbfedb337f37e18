"""Parity with the original code and MMSegmentation, on a CPU, in fp32."""

import numpy as np
import pytest
import torch
from helpers import reference
from PIL import Image

import segfast

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
    answer = segfast.Engine(folder / "checkpoint.pth", device="cpu").segment(folder / "photo.png", multiscale=multiscale)
    second, first = np.sort(answer.scores, axis=0)[-2:]
    wrong = (answer.labels != expected[f"labels_{kind}"]) & (first - second > TOLERANCE)
    assert not wrong.any()
    if kind in expected:  # the copies in tests/data keep the labels only
        np.testing.assert_allclose(answer.scores, expected[kind], atol=TOLERANCE)


def test_a_trained_model_scores_what_the_original_code_does():
    """mIoU and pixel accuracy on 101 real pictures, as stated beside the checkpoint."""
    folder = reference("camvid-ti-mask-16")
    data = folder.parent.parent / "data" / "camvid"
    pictures = sorted((data / "images" / "val").glob("*.jpg"))
    if len(pictures) != 101:
        pytest.skip("the labelled pictures are only below $SEGFAST_TEST_DATA")
    engine, confusion = segfast.Engine(folder, device="cpu"), np.zeros((11, 11), np.int64)
    for picture, answer in zip(pictures, engine.segment_many(pictures), strict=True):
        with Image.open(data / "masks" / "val" / f"{picture.stem}.png") as mask:
            truth = np.asarray(mask)
        known = truth != 255
        confusion += np.bincount(11 * truth[known].astype(int) + answer.labels[known], minlength=121).reshape(11, 11)
    right = confusion.diagonal()
    iou = right / (confusion.sum(0) + confusion.sum(1) - right)
    assert iou.mean() == pytest.approx(0.43100, abs=1e-5)
    assert right.sum() / confusion.sum() == pytest.approx(0.83522, abs=1e-5)


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
