"""Metrics against their definitions, pixel by pixel, and against torchmetrics."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segfast.datasets import IGNORE
from segfast.dependencies import installation
from segfast.errors import BadData, MissingRuntime
from segfast.evaluation.agreement import label_agreement
from segfast.evaluation.metrics import LARGE, MEDIUM, confusion, confusion_by_size, object_sizes, scores, scores_by_size


def labels(seed, classes, shape=(37, 53), ignored=0.2, absent=()):
    """Random truth and prediction; classes in `absent` are in neither, and the last is only predicted."""
    random = np.random.default_rng(seed)
    there = [c for c in range(classes) if c not in absent]
    truth = random.choice(there[:-1] or there, shape).astype(np.uint8)
    predicted = np.where(random.random(shape) < 0.6, truth, random.choice(there, shape)).astype(np.uint8)
    truth[random.random(shape) < ignored] = IGNORE
    return truth, predicted


def by_hand(truth, predicted, classes):
    """IoU of every class (None where it is nowhere) and pixel accuracy, from sets of pixels."""
    known = truth != IGNORE
    ious = []
    for c in range(classes):
        a, b = known & (truth == c), known & (predicted == c)
        ious.append((a & b).sum() / (a | b).sum() if (a | b).any() else None)
    return ious, (truth == predicted)[known].mean()


@pytest.mark.parametrize(("classes", "absent"), [(2, ()), (7, ()), (7, (0, 3)), (150, (5, 80)), (255, ())])
def test_scores_are_their_definition(classes, absent):
    truth, predicted = labels(classes, classes, absent=absent)
    matrix = confusion(truth, predicted, classes)
    assert (matrix.dtype, matrix.shape) == (np.int64, (classes, classes))
    for _ in range(50):
        row, column = np.random.default_rng(_).integers(0, classes, 2)
        assert matrix[row, column] == ((truth == row) & (predicted == column)).sum()
    ious, accuracy = by_hand(truth, predicted, classes)
    found = scores(matrix)
    assert found.per_class == pytest.approx(ious)
    assert found.miou == pytest.approx(np.mean([iou for iou in ious if iou is not None]))
    assert found.pixel_accuracy == pytest.approx(accuracy)
    recalls = [(predicted == c)[truth == c].mean() for c in np.unique(truth) if c != IGNORE]
    assert found.mean_accuracy == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize("absent", [(), (0,), (2, 4), (0, 1, 2, 3)])
def test_miou_is_that_of_torchmetrics(absent):
    """Absent classes are left out by both; one that is only predicted counts as 0 for both."""
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    import torch

    K = 6
    metric = torchmetrics.classification.MulticlassJaccardIndex(K, ignore_index=IGNORE)
    each = torchmetrics.classification.MulticlassJaccardIndex(K, ignore_index=IGNORE, average="none")
    total = np.zeros((K, K), np.int64)
    for seed in range(3):
        truth, predicted = labels(seed, K, absent=absent)
        total += confusion(truth, predicted, K)
        for one in (metric, each):
            one.update(torch.from_numpy(predicted).long(), torch.from_numpy(truth).long())
    assert scores(total).miou == pytest.approx(float(metric.compute()), abs=1e-6)
    assert [iou or 0 for iou in scores(total).per_class] == pytest.approx(each.compute().tolist(), abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 6))
def test_parts_add_up_to_the_whole(seed, classes, parts):
    truth, predicted = labels(seed, classes)
    rows = np.array_split(np.arange(len(truth)), parts)
    total = sum(confusion(truth[part], predicted[part], classes) for part in rows)
    np.testing.assert_array_equal(total, confusion(truth, predicted, classes))


def test_counts_do_not_overflow():
    matrix = np.full((2, 2), 2**40, np.int64)
    assert scores(matrix).per_class == pytest.approx((1 / 3, 1 / 3))
    assert scores(matrix).pixel_accuracy == 0.5


def test_without_a_pixel_there_is_no_score():
    truth = np.full((3, 3), IGNORE, np.uint8)
    found = scores(confusion(truth, np.zeros((3, 3), np.uint8), 2))
    assert found == scores(np.zeros((2, 2), np.int64))
    assert (found.miou, found.pixel_accuracy, found.mean_accuracy, found.per_class) == (None, None, None, (None, None))


def test_labels_of_no_class_are_refused():
    zeros = np.zeros((2, 2), np.uint8)
    with pytest.raises(BadData, match="truth has the labels 3 … 3"):
        confusion(zeros + 3, zeros, 3)
    with pytest.raises(BadData, match="prediction has the labels 9 … 9"):
        confusion(zeros, zeros + 9, 3)
    with pytest.raises(BadData, match=r"\[2, 2\].*\[2, 3\]"):
        confusion(zeros, np.zeros((2, 3), np.uint8), 3)


# by size --------------------------------------------------------------------------------------------------------------


def squares():
    """Class 1 on class 0: squares of 31, 32, 95 and 96 pixels, and two of 24 that touch at a corner."""
    truth = np.zeros((300, 400), np.uint8)
    places = {31: (5, 5), 32: (5, 60), 95: (60, 5), 96: (60, 150)}
    for side, (top, left) in places.items():
        truth[top : top + side, left : left + side] = 1
    truth[200:224, 300:324] = truth[224:248, 324:348] = 1
    return truth, places


def flood(truth):
    """Areas of the 8-connected objects of every pixel, by flooding."""
    areas, done = np.zeros(truth.shape, int), np.zeros(truth.shape, bool)
    for start in zip(*np.nonzero(truth != IGNORE), strict=True):
        if done[start]:
            continue
        done[start], stack, found = True, [start], []
        while stack:
            y, x = stack.pop()
            found.append((y, x))
            for v in range(max(0, y - 1), min(truth.shape[0], y + 2)):
                for u in range(max(0, x - 1), min(truth.shape[1], x + 2)):
                    if not done[v, u] and truth[v, u] == truth[y, x]:
                        done[v, u] = True
                        stack.append((v, u))
        areas[tuple(np.transpose(found))] = len(found)
    return areas


def test_sizes_are_those_of_coco():
    pytest.importorskip("scipy", reason="SciPy is not installed")
    assert (MEDIUM, LARGE) == (1024, 9216)
    truth, places = squares()
    sizes = object_sizes(truth)
    wanted = {31: 0, 32: 1, 95: 1, 96: 2}
    assert {side: sizes[place] for side, place in places.items()} == wanted
    assert sizes[0, 0] == 2
    assert sizes[210, 310] == sizes[230, 330] == 1  # together 1152 pixels


@pytest.mark.parametrize("seed", range(3))
def test_objects_are_connected_components(seed):
    pytest.importorskip("scipy", reason="SciPy is not installed")
    coarse, _ = labels(seed, 4, (12, 16), ignored=0.1)
    truth = np.kron(coarse, np.ones((9, 9), np.uint8))
    areas = flood(truth)
    expected = np.where(areas >= LARGE, 2, np.where(areas >= MEDIUM, 1, 0))
    np.testing.assert_array_equal(object_sizes(truth)[truth != IGNORE], expected[truth != IGNORE])


def test_scores_by_size_are_those_of_their_pixels():
    pytest.importorskip("scipy", reason="SciPy is not installed")
    truth, places = squares()
    predicted = truth.copy()
    top, left = places[31]
    predicted[top : top + 31, left : left + 31] = 0  # the small object is missed
    top, left = places[32]
    predicted[top : top + 16, left : left + 32] = 0  # and half of a medium one
    parts = confusion_by_size(truth, predicted, 2)
    np.testing.assert_array_equal(parts.sum(0), confusion(truth, predicted, 2))
    found = scores_by_size(parts)
    assert found["small"].per_class == (0, 0)
    medium = 32 * 32 + 95 * 95 + 2 * 24 * 24
    assert found["medium"].per_class == pytest.approx((0, (medium - 16 * 32) / medium))
    assert found["large"].per_class == (1, 1)
    nothing = scores_by_size(confusion_by_size(np.full((9, 9), IGNORE, np.uint8), np.zeros((9, 9), np.uint8), 2))
    assert [score.miou for score in nothing.values()] == [None] * 3


def test_scipy_is_said_to_be_missing(monkeypatch):
    monkeypatch.setattr("segfast.dependencies.imports.find_spec", lambda name: None)
    with pytest.raises(MissingRuntime, match=re.escape(f"scipy; {installation.install('train')}")):
        object_sizes(np.zeros((3, 3), np.uint8))


def test_regret_is_by_definition_and_blind_to_what_all_classes_share():
    logits = np.random.default_rng(0).standard_normal((7, 13, 11)).astype(np.float32)
    best = logits.argmax(0)
    labels = np.where(np.random.default_rng(1).random(best.shape) < 0.8, best, 3).astype(np.uint8)
    lost = [logits[:, y, x].max() - logits[labels[y, x], y, x] for y in range(13) for x in range(11)]
    spread = np.sqrt(np.mean(logits.var(0)))
    found = label_agreement(labels, logits)
    assert found.equal == np.mean(labels == best)
    assert found.regret == pytest.approx(np.sqrt(np.mean(np.square(lost))) / spread, rel=1e-5)
    shared = np.linspace(-50, 50, 13, dtype=np.float32)[:, None]  # no label depends on it
    assert label_agreement(labels, logits + shared).regret == pytest.approx(found.regret, rel=1e-4)


def test_a_single_class_has_no_regret():
    assert label_agreement(np.zeros((4, 5), np.uint8), np.full((1, 4, 5), 2.5, np.float32)) == (1, 0)
