"""Augmentation against its definitions: OpenCV's bytes, MMSegmentation's rules, and what is random."""

import colorsys
import hashlib
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from segfast.datasets import open_dataset
from segfast.train import augment as augmentation
from segfast.train.augment import augment, balanced, choose_crop, generator, resize_image, resize_labels, resized
from segfast.train.colour import distort, hsv_to_rgb, rgb_to_hsv
from segfast.train.data import Augmented, Batch, Collate, Steps, loader, normalise, samples
from segfast.train.recipes import recipe
from segfast.train.world import World

PLAIN = {"brightness": 0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0}
ALL = slice(None)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def pattern():
    """An image and labels that a formula gives."""
    y, x = np.mgrid[0:97, 0:131]
    image = (x[..., None] * np.array([3, 7, 11]) + y[..., None] * np.array([5, 2, 13]) + (x * y)[..., None]) % 256
    return image.astype(np.uint8), ((x // 9 + y // 7) % 11).astype(np.uint8)


# Of what OpenCV 4.11's resize gives for `pattern`: INTER_LINEAR of the image, INTER_NEAREST of the labels.
OPENCV = {
    (50, 70): ("d5c5fbafb7e22332", "8368aed27832613d"),
    (200, 270): ("dbf7a920d12fa6b4", "b92e0f79adfdd0ea"),
    (143, 190): ("09a319ee266686a0", "f9466bd580d3bf32"),
    (33, 200): ("b97015754312594b", "a65d96469e2557a2"),
}


@pytest.mark.parametrize("size", OPENCV)
def test_resizing_gives_opencv_s_bytes(size):
    image, labels = pattern()
    assert digest(resize_image(image, size, ALL, ALL)) == OPENCV[size][0]
    assert digest(resize_labels(labels, size, ALL, ALL)) == OPENCV[size][1]


@pytest.mark.parametrize("size", OPENCV)
def test_a_part_of_a_resized_image_is_that_part(size):
    image, labels = pattern()
    rows, columns = slice(5, 31), slice(17, 64)
    whole = resize_image(image, size, ALL, ALL)
    np.testing.assert_array_equal(resize_image(image, size, rows, columns), whole[rows, columns])
    np.testing.assert_array_equal(
        resize_labels(labels, size, rows, columns), resize_labels(labels, size, ALL, ALL)[rows, columns]
    )


def test_hsv_is_opencv_s():
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij"), -1).reshape(52, -1, 3).astype(np.uint8)
    assert digest(rgb_to_hsv(grid)) == "17d015b0e2005a25"
    hsv = [(0, 0, 0), (0, 255, 255), (30, 255, 255), (60, 128, 200), (90, 77, 133), (120, 200, 50), (150, 10, 250),
           (179, 255, 128), (17, 101, 99), (75, 222, 31)]  # fmt: skip
    rgb = [[0, 0, 0], [255, 0, 0], [255, 255, 0], [99, 200, 99], [92, 132, 133], [10, 10, 50], [250, 240, 250],
           [128, 0, 4], [99, 82, 59], [4, 31, 17]]  # fmt: skip
    assert hsv_to_rgb(np.array(hsv, np.uint8)[None])[0].tolist() == rgb


def test_hsv_is_the_textbook_s():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for pixel, (hue, saturation, value) in zip(image.reshape(-1, 3), rgb_to_hsv(image).reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
        assert min(abs(h * 180 - hue), 180 - abs(h * 180 - hue)) <= 1
        assert abs(s * 255 - saturation) <= 1
        assert round(v * 255) == value
    assert np.abs(hsv_to_rgb(rgb_to_hsv(image)).astype(int) - image).max() <= 6  # a hue is 2 degrees wide


@pytest.mark.parametrize(
    ("size", "im", "max_ratio", "factor", "expected"),
    [
        ((480, 640), 512, 4, 1.0, (512, 683)),     # the short side becomes im
        ((480, 640), 512, 4, 0.5, (256, 341)),
        ((480, 640), 512, 4, 2.0, (1024, 1365)),
        ((1024, 2048), 1024, 2, 1.0, (1024, 2048)),
        ((100, 900), 512, 4, 1.0, (228, 2048)),    # the long side is at most max_ratio · im
        ((360, 480), None, 4, 1.5, (540, 720)),    # own size
    ],
)  # fmt: skip
def test_sizes_of_resizing(size, im, max_ratio, factor, expected):
    row = recipe("ade20k", image_size=im, max_ratio=max_ratio)
    assert resized(size, row, (factor - 0.5) / 1.5) == expected


def test_the_factor_is_uniform_over_its_range():
    row = recipe("ade20k", image_size=100, ratio=(0.5, 2.0))
    heights = [resized((100, 100), row, generator(0, 0, index).random())[0] for index in range(2000)]
    assert 50 <= min(heights) < 55
    assert 195 < max(heights) <= 200
    assert np.histogram(heights, 3, (50, 200))[0].min() > 550


def test_crops_of_one_class_are_drawn_again():
    row = recipe("ade20k", crop=32, stride=32)
    labels = np.zeros((64, 400), np.uint8)
    labels[:, 300:] = 1  # only near column 300 are there two
    found = [choose_crop(labels, labels.shape, row, generator(0, 0, index)) for index in range(300)]
    share = np.mean([balanced(labels[t : t + 32, left : left + 32], 0.75) for t, left in found])
    one = 15 / 369  # lefts 277 … 291, of 369
    assert share == pytest.approx(1 - (1 - one) ** 11, abs=0.09)  # the first draw and ten more; the last unchecked
    free = [choose_crop(labels, labels.shape, replace(row, cat_max_ratio=1.0), generator(0, 0, i)) for i in range(300)]
    assert np.mean([balanced(labels[t : t + 32, left : left + 32], 0.75) for t, left in free]) < 0.1


def test_balance_ignores_what_is_ignored():
    crop = np.full((10, 10), 255, np.uint8)
    assert not balanced(crop, 0.75)
    crop[0, :4] = 3
    assert not balanced(crop, 0.75)  # a single class
    crop[1, :4] = 5
    assert balanced(crop, 0.75)  # half and half of what is labelled
    crop[0, :12] = 3
    crop[1, :4] = (5, 5, 5, 255)
    assert not balanced(crop, 0.75)  # 10 of 13
    assert balanced(crop, 0.78)


def test_the_order_of_augmentation(monkeypatch):
    calls = []
    for name in ("resized", "choose_crop", "resize_image", "distort"):
        original = getattr(augmentation, name)
        monkeypatch.setattr(
            augmentation, name, lambda *a, name=name, original=original: (calls.append(name), original(*a))[1]
        )
    image, labels = pattern()
    augment(image, labels, recipe("ade20k", crop=32, stride=32), generator(0, 0, 0))
    assert calls == ["resized", "choose_crop", "resize_image", "distort"]


def test_flips_are_half_and_take_the_labels_along():
    image, labels = pattern()
    image[..., 0] = labels
    row = recipe("ade20k", image_size=None, ratio=(1.0, 1.0), crop=131, stride=131, **PLAIN)
    mirrored = 0
    for index in range(200):
        crop, truth = augment(image, labels, row, generator(0, 0, index))
        mirrored += np.array_equal(truth, labels[:, ::-1])
        assert np.array_equal(truth, labels) or np.array_equal(truth, labels[:, ::-1])
    assert 75 < mirrored < 125
    assert crop.shape[:2] == truth.shape


def test_image_and_labels_stay_together():
    """An image that shows its labels still does after all of it, but for the pixels mixed at their borders."""
    truth = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((30, 30), np.uint8))
    image = np.repeat(truth[..., None] * 20, 3, -1)
    row = recipe("ade20k", image_size=60, crop=48, stride=48, **PLAIN)
    for index in range(20):
        crop, labels = augment(image, truth, row, generator(1, 0, index))
        assert (np.abs(crop[..., 0].astype(int) - 20 * labels.astype(int)) > 10).mean() < 0.15


def test_distortions_by_definition():
    image = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    seen = [
        distort(image, recipe("ade20k", **(PLAIN | {"brightness": 32})), generator(0, 0, i))[0, 0] for i in range(400)
    ]
    changes = np.array(seen, int) - (200, 100, 50)
    assert (changes.max(1) - changes.min(1)).max() == 0 or changes.max() <= 32
    assert -33 <= changes.min() < -28
    assert 28 < changes.max() <= 32
    assert 0.4 < np.mean(changes.any(1)) < 0.6  # one in two
    contrast = recipe("ade20k", **(PLAIN | {"contrast": (0.5, 1.5)}))
    seen = np.array([distort(image, contrast, generator(0, 0, i))[0, 0] for i in range(400)], int)
    assert seen[:, 1].min() < 55
    assert 145 < seen[:, 1].max() <= 150
    assert seen[:, 0].max() == 255
    hues = recipe("ade20k", **(PLAIN | {"hue": 18}))
    seen = {int(rgb_to_hsv(distort(image, hues, generator(0, 0, i)))[0, 0, 0]) for i in range(600)}
    start = int(rgb_to_hsv(image)[0, 0, 0])
    assert max((hue - start + 90) % 180 - 90 for hue in seen) <= 18
    assert min((hue - start + 90) % 180 - 90 for hue in seen) >= -19  # the way back rounds once more


def test_nothing_is_distorted_when_nothing_is_asked():
    image, _ = pattern()
    row = replace(recipe("ade20k", **PLAIN), saturation=(1.0, 1.0))
    same = [np.array_equal(distort(image, row, generator(0, 0, index)), image) for index in range(20)]
    assert 4 < sum(same) < 20  # where saturation is drawn, HSV rounds


def test_samples_are_functions_of_seed_epoch_and_index():
    dataset, row = open_dataset("shapes", split="train"), recipe("shapes")
    one, other = Augmented(dataset, row), Augmented(dataset, row)
    other[(0, 5)]  # nothing is remembered
    np.testing.assert_array_equal(one[(3, 7)][0], other[(3, 7)][0])
    assert not np.array_equal(one[(3, 7)][0], one[(4, 7)][0])
    assert not np.array_equal(one[(3, 7)][0], Augmented(dataset, replace(row, seed=1))[(3, 7)][0])


def test_every_epoch_is_a_permutation():
    taken = [sample for step in range(25) for sample in samples(step, 20, 8, 0)]
    for epoch in range(10):
        assert sorted(index for e, index in taken if e == epoch) == list(range(20))
    first, second = ([index for e, index in taken if e == epoch] for epoch in (0, 1))
    assert first != second
    assert samples(7, 20, 8, 0) == samples(7, 20, 8, 0) != samples(7, 20, 8, 1)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_share_the_same_samples(size):
    row = recipe("shapes", batch=8, iterations=9)
    ranks = [list(Steps(row, 20, World(rank, size, torch.device("cpu")), 3)) for rank in range(size)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == [samples(s, 20, 8, 0) for s in range(3, 9)]


def test_workers_change_nothing():
    dataset, row = open_dataset("shapes", split="train"), recipe("shapes", batch=4, iterations=4, ratio=(0.4, 1.0))
    world = World(0, 1, torch.device("cpu"))
    state = torch.get_rng_state()
    runs = [list(loader(dataset, row, world, first=1, workers=workers, pin=False)) for workers in (0, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(run) for run in runs] == [3, 3, 3]
    for batches in zip(*runs, strict=True):
        for other in batches[1:]:
            assert all(torch.equal(a, b) for a, b in zip(batches[0], other, strict=True))


def test_padding_is_zero_and_ignored():
    image, labels = np.full((5, 7, 3), 255, np.uint8), np.full((5, 7), 2, np.uint8)
    batch = Collate(16)([(image, labels), (image[:3, :2], labels[:3, :2])])
    assert batch.sizes.tolist() == [[5, 7], [3, 2]]
    assert (batch.labels == 255).sum() == 2 * 256 - 35 - 6
    mean, std = (torch.full((3, 1, 1), 0.5),) * 2
    network_input = normalise(batch, mean, std)
    assert network_input.shape == (2, 3, 16, 16)
    assert network_input[0, :, :5, :7].eq(1).all()
    assert network_input.count_nonzero() == 3 * (35 + 6)
    assert isinstance(batch, Batch)
