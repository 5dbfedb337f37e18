"""Resized images are the plain twin's, to the last bit."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import segfast
from segfast.inference import requests
from segfast.kernels import reference, resize

pytest.importorskip("numba")


def picture(h, w, dtype=np.uint8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, channels)).astype(dtype)


def twin(image, size):
    return reference.upsample(image.transpose(2, 0, 1), size).transpose(1, 2, 0)


lengths = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, lengths, lengths, st.sampled_from([np.uint8, np.float32]), st.sampled_from([1, 2, 7]))
def test_resize_is_the_twin(h, w, H, W, dtype, threads):
    image = picture(h, w, dtype)
    found = resize(image, (H, W), threads=threads)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, twin(image, (H, W)))


@pytest.mark.parametrize("size", [(512, 767), (640, 427), (427, 1000), (1000, 640), (320, 213)])
@pytest.mark.parametrize("threads", [None, 1, 4])
def test_photos_in_bands(size, threads):
    image = picture(427, 640)
    assert np.array_equal(resize(image, size, threads=threads), twin(image, size))


def test_numbers_as_they_are():
    # Infinities and NaN follow the twin's formula; a direction whose length stays is not touched.
    image = picture(5, 6, np.float32)
    image[2, 3], image[4, 1] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        for size in ((5, 6), (5, 13), (11, 6), (9, 9)):
            assert np.array_equal(resize(image, size), twin(image, size), equal_nan=True)


def test_any_layout_and_number_of_channels():
    image = picture(20, 30)
    frozen = image.copy()
    frozen.flags.writeable = False
    expected = resize(image, (33, 44))
    for other in (frozen, np.asfortranarray(image), np.repeat(image, 2, 1)[:, ::2], image[:, ::-1].copy()[:, ::-1]):
        assert np.array_equal(resize(other, (33, 44)), expected)
    one = picture(20, 30, channels=1)
    assert np.array_equal(resize(one, (33, 44)), twin(one, (33, 44)))


def test_without_numba(monkeypatch):
    image = picture(20, 30)
    expected = resize(image, (33, 44))
    monkeypatch.setitem(sys.modules, "segfast.kernels.resize_cpu", None)
    assert np.array_equal(resize(image, (33, 44)), expected)


def test_the_engine_resizes_with_its_threads(tiny_onnx, monkeypatch):
    asked = []

    def spy(image, size, *, threads):
        asked.append(threads)
        return resize(image, size, threads=threads)

    monkeypatch.setattr(requests.kernels, "resize", spy, raising=False)
    image = picture(40, 50)
    engine = segfast.Engine(tiny_onnx, device="cpu", threads=1)
    engine.segment(image)
    assert asked == [1]  # 40×50 is enlarged to cover the 64-pixel window
    engine.segment(image, multiscale=True)
    assert set(asked) == {1}


def test_an_image_of_its_size_is_not_copied():
    image = picture(20, 30)
    assert requests.resize(image, (20, 30)) is image


@pytest.mark.parametrize("image", [picture(4, 4)[0], picture(4, 4)[None], picture(4, 4)[:0], picture(4, 4)[:, :, :0]])
def test_bad_shapes(image):
    with pytest.raises(ValueError, match="image must be"):
        resize(image, (8, 8))


@pytest.mark.parametrize("image", [picture(4, 4, np.float64), picture(4, 4, np.int32), picture(4, 4).tolist(), None])
def test_bad_dtypes(image):
    with pytest.raises(TypeError, match="image must be"):
        resize(image, (8, 8))


@pytest.mark.parametrize(("size", "error"), [((0, 8), ValueError), ((1 << 16, 1 << 15), ValueError), (8, TypeError)])
def test_bad_sizes(size, error):
    with pytest.raises(error):
        resize(picture(4, 4), size)


@pytest.mark.parametrize(("threads", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_threads(threads, error):
    with pytest.raises(error, match="threads"):
        resize(picture(4, 4), (8, 8), threads=threads)
