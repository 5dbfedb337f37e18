"""The Triton kernels of `merge_cuda` against the plain twins, in Triton's interpreter: `test_merge_triton.py` runs this.

One image resized once is computed to the twin's last bit; sums over windows too. Softmax may round otherwise.
"""

import itertools
import os

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, set before Triton is imported", allow_module_level=True)

from segfast.kernels import merge, merge_cuda, merge_layout, reference
from segfast.kernels.merge import Windows
from segfast.protocol import Protocol

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NaN and infinities, which are meant


@pytest.fixture(autouse=True)
def _launch(monkeypatch):
    """The public calls launch kernels for tensors on the CPU, as they do for those on a GPU."""
    monkeypatch.setattr(merge, "_stays", lambda tensor: True)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def smooth(B, K, h, w, seed=0):
    return np.ascontiguousarray(reference.upsample(4 * noise(B, K, 2, 2, seed=seed), (h, w)))


def windows(K, size, window, stride, patch=8, seed=0, mirrored=False, crop=True, make=smooth):
    """A view of `size` as the protocol cuts it."""
    protocol = Protocol((0, 0, 0), (1, 1, 1), window, stride, small_windows=True, crop_padding=crop)
    origins, window = protocol.windows(size)
    h, w = (-(-extent // patch) for extent in window)
    logits = make(len(origins), K, h, w, seed=seed)
    return Windows(logits, origins, window, (h * patch, w * patch) if crop else window, size, mirrored)


def lay(x, lies="last"):
    """Logits as a tensor: classes last in whole sectors, what is beyond them being anything; packed; or classes first."""
    x = torch.as_tensor(x)
    if lies == "first":
        return x.contiguous()
    if lies == "packed":
        return x.contiguous(memory_format=torch.channels_last)
    laid = merge_layout.empty(x.shape, x.dtype, "cpu")
    laid.untyped_storage().copy_(torch.full((laid.untyped_storage().nbytes() // 2,), 60000.0).half().untyped_storage())
    return laid.copy_(x)


def tensors(view, lies="last"):
    return view._replace(logits=lay(view.logits, lies))


def upsample_argmax(x, size, lies="last"):
    return merge.upsample_argmax(lay(x, lies), size).numpy()


def merge_windows(views, size, lies="last"):
    return merge.merge_windows([tensors(view, lies) for view in views], size).numpy()


def shortfall(labels, scores):
    """How far the chosen classes' scores [K, H, W] are from the best, at most."""
    assert labels.shape == scores.shape[1:]
    chosen = np.take_along_axis(scores, labels[None].astype(np.intp), 0)[0]
    return float((scores.max(0) - chosen).max())


def assert_upsampled(x, size):
    labels = upsample_argmax(x, size)
    assert labels.dtype == reference.label_dtype(x.shape[1])
    for image, found in zip(x, labels, strict=True):
        assert shortfall(found, reference.upsample(image, size)) == 0


def assert_merged(views, size):
    labels = merge_windows(views, size)
    if len(views) == 1:
        assert shortfall(labels, reference.view_logits(views[0], size, 0, size[0])) == 0
    else:
        assert shortfall(labels, reference.view_scores(views, size, 0, size[0])) <= 1e-5
    return labels


# Patches of 16, 8, 32 and 24, in cells; non-integer scales, one patch, one pixel, smaller than the patches, the identity.
SHAPES = [
    ((2, 3), (32, 48)),
    ((3, 2), (24, 16)),
    ((1, 2), (32, 64)),
    ((2, 1), (48, 24)),
    ((3, 4), (20, 35)),
    ((1, 1), (9, 20)),
    ((1, 1), (1, 1)),
    ((9, 7), (4, 3)),
    ((5, 6), (5, 6)),
    ((5, 6), (5, 17)),
    ((1, 5), (16, 7)),
    ((20, 3), (13, 16)),
]


@pytest.mark.parametrize(("patches", "size"), SHAPES)
def test_upsample_argmax_is_the_twin(patches, size):
    assert_upsampled(noise(1, 3, *patches), size)


def test_a_batch_is_the_twin():
    assert_upsampled(smooth(3, 4, 2, 2), (16, 16))
    assert_upsampled(smooth(2, 4, 2, 2), (9, 13))


@pytest.mark.parametrize(
    ("K", "size"),
    [
        (1, (8, 16)),
        (19, (8, 16)),
        (19, (11, 7)),
        (256, (3, 7)),
        (300, (8, 16)),
        (300, (3, 7)),
    ],
)
def test_any_number_of_classes(K, size):
    assert_upsampled(smooth(1, K, 1, 2), size)


def test_noise_keeps_all_classes():
    assert_upsampled(noise(1, 40, 1, 2), (8, 16))


def test_random_shapes():
    random = np.random.default_rng(0)
    for seed in range(8):
        B, K, h, w = (int(random.integers(1, most)) for most in (3, 8, 6, 6))
        size = tuple(int(extent) for extent in random.integers(1, 35, 2))
        assert_upsampled((noise, smooth)[seed % 2](B, K, h, w, seed=seed), size)


@pytest.mark.parametrize("seed", range(2))
def test_ties_go_to_the_first(seed):
    # Few whole levels and dyadic weights: every score is exact, and ties abound.
    x = np.random.default_rng(seed).integers(0, 3, (1, 5, 3, 2)).astype(np.float32)
    size = (24, 16) if seed % 2 else (12, 8)
    assert np.array_equal(upsample_argmax(x, size), reference.upsample(x, size).argmax(1))


@pytest.mark.parametrize("level", [1.9, -1.7])
def test_ties_by_rounding_go_to_the_first(level):
    # A class that is everywhere less by the last bit, but whose scores at some pixels are rounded to those of the next.
    level = np.float32(level)
    low = np.nextafter(level, np.float32(-9))
    x = np.broadcast_to(np.array([low, level, low])[None, :, None, None], (1, 3, 2, 2)).copy()
    for size in ((48, 48), (11, 13)):
        expected = reference.upsample_argmax(x, size)
        assert set(expected.flat) == {0, 1}
        assert np.array_equal(upsample_argmax(x, size), expected)
    wide = Windows(np.repeat(x, 3, 0), [(0, 0), (0, 4), (0, 9)], (12, 12), (12, 12), (12, 21))
    assert np.array_equal(merge_windows([wide], (11, 16)), reference.merge_windows([wide], (11, 16)))


def test_a_copy_of_a_class_never_wins():
    x = noise(1, 4, 2, 2)
    x = np.concatenate([x, x], 1)
    assert upsample_argmax(x, (16, 16)).max() < 4
    view = Windows(np.repeat(x, 2, 0), [(0, 0), (0, 6)], (12, 12), (12, 12), (12, 18))
    assert merge_windows([view], (12, 18)).max() < 4
    assert merge_windows([view], (9, 16)).max() < 4


def test_crossing_inside_a_cell():
    x = np.array([[4, 0], [0, 4], [2.5, 2.5]], np.float32)[None, :, None]
    assert upsample_argmax(x, (1, 16))[0, 0].tolist() == [0] * 7 + [2] * 2 + [1] * 7


@pytest.mark.parametrize("value", [-0.0, 3e38, np.inf, -np.inf, np.nan])
def test_constant_logits(value):
    assert not upsample_argmax(np.full((1, 5, 1, 2), value, np.float32), (8, 16)).any()


@pytest.mark.parametrize("seed", range(2))
def test_nan_and_infinities_are_the_twins(seed):
    random = np.random.default_rng(seed)
    x = (noise, smooth)[seed % 2](1, 5, 2, 3, seed=seed)
    for value in random.choice([np.nan, np.inf, -np.inf, 3e38, -3e38], 3):
        x[0, random.integers(5), random.integers(2), random.integers(3)] = value
    for size in ((16, 24), (13, 10)):
        assert np.array_equal(upsample_argmax(x, size), reference.upsample_argmax(x, size))
    views = [Windows(np.repeat(x, 2, 0), [(0, 0), (0, 4)], (8, 12), (8, 12), (8, 16), flip) for flip in (False, True)]
    for some, size in itertools.product((views[:1], views), ((8, 16), (7, 11))):
        with np.errstate(all="ignore"):
            assert np.array_equal(merge_windows(some, size), reference.merge_windows(some, size))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_as_fp32(dtype):
    x = torch.from_numpy(smooth(1, 5, 2, 2)).to(dtype)
    for size in ((16, 16), (9, 7)):
        assert np.array_equal(upsample_argmax(x, size), reference.upsample_argmax(x.float().numpy(), size))


def test_layouts():
    x = torch.from_numpy(smooth(2, 5, 2, 3))
    expected = reference.upsample_argmax(x.numpy(), (16, 24))
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        x.repeat_interleave(2, 3)[..., ::2],
        x.requires_grad_(),
    ):
        assert np.array_equal(upsample_argmax(other, (16, 24)), expected)
    mirrored_sign = torch.complex(torch.zeros(2, 5, 2, 3), -x.detach()).conj().imag  # its memory holds -x
    assert mirrored_sign.is_neg()
    assert np.array_equal(upsample_argmax(mirrored_sign, (16, 24)), expected)


@pytest.mark.parametrize(
    ("lies", "dtype"),
    [
        ("last", torch.float16),
        ("last", torch.float32),
        ("packed", torch.float16),
        ("first", torch.float16),
    ],
)
def test_every_layout_is_the_twin(lies, dtype):
    """Ties included: few whole levels, so that scores are exact and many are equal."""
    for K, patches, size in ((20, (1, 2), (8, 16)), (5, (2, 1), (32, 16)), (300, (1, 2), (2, 5)), (16, (2, 1), (5, 3))):
        x = np.random.default_rng(K).integers(-2, 3, (2, K, *patches)).astype(np.float32)
        x[:, 1:-1] -= 3 * (K > 16)  # few of many classes survive
        laid = lay(torch.from_numpy(x).to(dtype), lies)[1:]
        assert np.array_equal(merge.upsample_argmax(laid, size).numpy(), reference.upsample_argmax(x[1:], size))
    x = np.random.default_rng(0).integers(0, 3, (2, 3, 2, 2)).astype(np.float32)
    view = Windows(x, [(0, 0), (0, 3)], (4, 4), (4, 4), (4, 7))
    twins = [view._replace(mirrored=flip) for flip in (False, True)]
    laid = [twin._replace(logits=lay(torch.from_numpy(x).to(dtype), lies)) for twin in twins]
    for size in ((4, 7), (3, 7)):
        assert np.array_equal(merge.merge_windows(laid[1:], size).numpy(), reference.merge_windows(twins[1:], size))
    scores = merge.merge_scores(laid, (3, 5)).numpy()
    assert np.abs(scores - reference.merge_scores(twins, (3, 5))).max() < 1e-6


VIEWS = {
    "one window": ((16, 24), (16, 24), (16, 24)),
    "a padded window": ((13, 22), (13, 22), (13, 22)),
    "windows side by side": ((16, 32), (16, 16), (16, 16)),
    "windows that overlap": ((18, 29), (16, 16), (16, 9)),
    "padded windows that overlap": ((18, 29), (13, 15), (8, 9)),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize(("crop", "mirrored", "size"), [(False, False, None), (True, True, (9, 14))])
def test_one_view_is_the_twin(name, crop, mirrored, size):
    view, window, stride = VIEWS[name]
    answer = windows(3, view, window, stride, mirrored=mirrored, crop=crop, make=smooth if crop else noise)
    assert_merged([answer], view if size is None else size)


def test_scattered_windows():
    # Not the product of rows and columns: a brick wall, one window twice.
    origins = [(0, 0), (0, 20), (12, 0), (12, 10), (12, 20), (12, 20)]
    view = Windows(smooth(6, 5, 2, 3), origins, (16, 24), (16, 24), (28, 44))
    assert_merged([view], (28, 44))
    assert_merged([view], (11, 16))


def test_windows_overlap_with_their_mean():
    logits = np.zeros((4, 2, 1, 1), np.float32)
    logits[:, 0, 0, 0] = 1, 1, 0, 5
    logits[2, 1] = 3
    view = Windows(logits, [(0, 0), (0, 0), (0, 0), (0, 4)], (4, 4), (4, 4), (4, 8))
    assert merge_windows([view], (4, 8))[0].tolist() == [1] * 4 + [0] * 4


@pytest.mark.parametrize(("K", "band"), [(1, 200), (3, 200), (2, 1 << 24)])
def test_several_views_are_the_twin(K, band, monkeypatch):
    monkeypatch.setattr(merge_cuda, "BAND", band)
    views = [windows(K, size, (8, 10), (6, 9), seed=i, mirrored=i % 2 > 0) for i, size in enumerate([(8, 16), (9, 19)])]
    for size in ((8, 16), (7, 11)):
        assert_merged(views, size)
        scores = merge.merge_scores([tensors(view) for view in views], size).numpy()
        assert np.abs(scores - reference.merge_scores(views, size)).max() < 1e-6


def test_many_labels_are_uint16():
    # The winner of most pixels is class 256: its label does not fit a byte.
    logits = noise(1, 257, 1, 2)
    logits[:, 256, :, 0] = 9
    labels = upsample_argmax(logits, (8, 16))
    assert labels.dtype == np.uint16
    assert labels.max() == 256
    assert np.array_equal(labels, reference.upsample_argmax(logits, (8, 16)))
    views = [Windows(logits, [(0, 0)], (1, 2), (1, 2), (1, 2), flip) for flip in (False, True)]
    labels = assert_merged(views, (1, 2))
    assert labels.dtype == np.uint16
    assert labels.max() == 256


def test_out():
    x = smooth(1, 3, 2, 2)
    view = Windows(x, [(0, 0)], (6, 8), (6, 8), (6, 8))
    expected = merge_windows([view], (6, 8))
    for out in (torch.zeros(6, 8, dtype=torch.uint8), torch.zeros(6, 16, dtype=torch.uint8)[:, ::2]):
        assert merge.merge_windows([tensors(view)], (6, 8), out) is out
        assert np.array_equal(out.numpy(), expected)
