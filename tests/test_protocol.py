import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from segfast.kernels import reference
from segfast.protocol import Protocol, views

PLAIN = Protocol((0.5,) * 3, (0.5,) * 3, (64, 64), (48, 48))


def test_small_images_are_enlarged_with_the_short_side_at_the_window():
    assert PLAIN.working_size((60, 90)) == (64, 96)
    assert PLAIN.working_size((120, 33)) == (232, 64)  # int(3.636… · 64)
    assert PLAIN.working_size((64, 64)) == (64, 64)
    assert PLAIN.working_size((64, 500)) == (64, 500)
    assert PLAIN.working_size((1, 1)) == (64, 64)


def test_oblong_windows_are_covered():
    oblong = PLAIN.with_window((64, 128))
    for size in ((60, 90), (64, 127), (200, 100), (1, 999)):
        H, W = oblong.working_size(size)
        assert H >= 64
        assert W >= 128
        assert H == 64 or W == 128


def test_mmsegmentation_leaves_small_images_alone():
    mmseg = Protocol((0.5,) * 3, (0.5,) * 3, (64, 64), (32, 32), small_windows=True, crop_padding=False)
    assert mmseg.working_size((60, 90)) == (60, 90)
    assert mmseg.windows((60, 90)) == (((0, 0), (0, 26)), (60, 64))


def test_windows_end_at_the_border():
    origins, window = PLAIN.windows((64, 160))
    assert window == (64, 64)
    assert origins == ((0, 0), (0, 48), (0, 96))
    assert PLAIN.windows((64, 161))[0] == ((0, 0), (0, 48), (0, 96), (0, 97))
    assert PLAIN.windows((64, 64))[0] == ((0, 0),)


def test_another_window_keeps_the_overlap():
    assert PLAIN.with_window((128, 256)).stride == (112, 240)
    assert PLAIN.with_window((8, 20)).stride == (4, 10)  # at most half a window overlaps


def test_multiscale_has_the_twelve_views_of_the_paper():
    twelve = views((101, 50), True)
    assert len(twelve) == 12
    assert twelve[:3] == [((50, 25), False), ((50, 25), True), ((75, 37), False)]
    assert views((101, 50), False) == [((101, 50), False)]


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((4, 4), (64, 64)),
        ((1, 1), (9, 5)),
        ((19, 23), (371, 497)),
        ((31, 40), (7, 100)),
        ((8, 8), (8, 8)),
        ((5, 1), (3, 1)),
    ],
)
def test_upsampling_is_pytorchs(size, target):
    x = np.random.default_rng(0).normal(size=(3, *size)).astype(np.float32)
    expected = interpolate(torch.from_numpy(x)[None], target, mode="bilinear", align_corners=False)[0].numpy()
    # Positions near 40 are multiples of 4e-6 in fp32, and PyTorch may fuse their multiply and add.
    np.testing.assert_allclose(reference.upsample(x, target), expected, atol=1e-5)


def windows_of(protocol, size, K=5, P=16, seed=0, mirrored=False):
    """Random logits for the windows of an image, and what the original code makes of them."""
    working = protocol.working_size(size)
    origins, window = protocol.windows(working)
    padded = (window[0] + -window[0] % P, window[1] + -window[1] % P) if protocol.crop_padding else window
    shape = (len(origins), K, -(-window[0] // P), -(-window[1] // P))
    logits = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    total, count = torch.zeros(1, K, *working), torch.zeros(1, 1, *working)
    for patch, (top, left) in zip(torch.from_numpy(logits), origins, strict=True):
        full = interpolate(patch[None], padded, mode="bilinear")[..., : window[0], : window[1]]
        total[..., top : top + window[0], left : left + window[1]] += full
        count[..., top : top + window[0], left : left + window[1]] += 1
    merged = interpolate(total / count, size, mode="bilinear")[0]
    merged = merged.flip(-1) if mirrored else merged
    return reference.Windows(logits, origins, window, padded, working, mirrored), merged


MMSEG = Protocol((0.5,) * 3, (0.5,) * 3, (64, 64), (32, 32), small_windows=True, crop_padding=False)


@pytest.mark.parametrize("protocol", [PLAIN, PLAIN.with_window((50, 72)), MMSEG])
@pytest.mark.parametrize("size", [(64, 64), (60, 90), (33, 20), (130, 170), (64, 161)])
def test_merging_is_the_original_sum_count_and_resize(protocol, size, monkeypatch):
    monkeypatch.setattr(reference, "BAND", 5 * size[1] * 7)  # bands of 7 rows: borders within the image
    view, expected = windows_of(protocol, size)
    scores = reference.merge_scores([view], size)
    np.testing.assert_allclose(scores, expected.softmax(0).numpy(), atol=1e-6)
    two = expected.topk(2, 0).values
    clear = (two[0] - two[1] > 1e-5).numpy()
    np.testing.assert_array_equal(reference.merge_windows([view], size)[clear], expected.argmax(0).numpy()[clear])


def test_several_views_are_averaged_after_the_softmax():
    size = (60, 90)
    pairs = [windows_of(PLAIN, size, seed=1), windows_of(PLAIN, size, seed=2, mirrored=True)]
    expected = sum(merged.softmax(0) for _, merged in pairs) / 2
    np.testing.assert_allclose(reference.merge_scores([v for v, _ in pairs], size), expected.numpy(), atol=1e-6)


def test_labels_need_more_bits_over_256_classes():
    logits = np.zeros((1, 300, 2, 2), np.float32)
    logits[:, 299] = 1
    labels = reference.upsample_argmax(logits, (5, 5))
    assert labels.dtype == np.uint16
    assert (labels == 299).all()
    assert reference.upsample_argmax(logits[:, :256], (5, 5)).dtype == np.uint8


def test_the_first_of_equal_classes_wins():
    assert not reference.upsample_argmax(np.ones((1, 4, 3, 3), np.float32), (7, 8)).any()
