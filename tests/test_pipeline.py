import itertools
import threading
import time

import numpy as np
import pytest

import segfast
from segfast.errors import BadImage, BadOption
from segfast.inference import limits, pipeline
from segfast.inference.room import Room

STAGES = [
    pipeline.one_by_one(lambda i: i + 1),
    pipeline.Stage(lambda group: [10 * i for i in group], 2),
    pipeline.one_by_one(lambda i: -i),
]


def pictures(count):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (40 + 9 * i, 90, 3), np.uint8) for i in range(count)]


@pytest.mark.parametrize("multiscale", [False, True])
def test_many_are_what_single_calls_give_in_order(tiny_onnx, multiscale):
    engine, images = segfast.Engine(tiny_onnx, device="cpu"), pictures(7)
    answers = list(engine.segment_many(iter(images), multiscale=multiscale, stride=40))
    assert len(answers) == 7
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(answer.labels, engine.segment(image, multiscale=multiscale, stride=40).labels)
        np.testing.assert_array_equal(answer.image, image)


@pytest.mark.parametrize("count", [8, 9, 30])
def test_a_long_stream_gets_a_network_for_pairs(tiny_onnx, count):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    images = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in range(count)]
    expected = [engine.segment(image).labels for image in images]
    answers = list(engine.segment_many(images))
    assert sorted(engine._runtime._networks) == ([1] if count == 8 else [1, 2])
    for labels, answer in zip(expected, answers, strict=True):
        np.testing.assert_array_equal(answer.labels, labels)


def test_many_windows_of_one_image_too(tiny_onnx):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    expected = segfast.Engine(tiny_onnx, device="cpu", runtime="onnxruntime").segment(image)
    answer = engine.segment(image)
    assert sorted(engine._runtime._networks) == [1, 2]
    assert (answer.labels == expected.labels).mean() > 0.999


def test_errors_come_in_their_turn(tiny_onnx, tmp_path):
    engine, images = segfast.Engine(tiny_onnx, device="cpu"), pictures(4)
    images[2] = tmp_path / "none.jpg"
    answers = engine.segment_many(images)
    next(answers), next(answers)
    with pytest.raises(BadImage, match="no file"):
        next(answers)
    kinds = [type(answer).__name__ for answer in engine.segment_many(images, errors="yield")]
    assert kinds == ["Segmentation", "Segmentation", "BadImage", "Segmentation"]


def test_options_are_checked_at_once(tiny_onnx):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    with pytest.raises(BadOption, match="errors"):
        engine.segment_many([], errors="ignore")
    assert list(engine.segment_many([])) == []


def test_labels_artifacts_too(tiny_labels_onnx):
    engine = segfast.Engine(tiny_labels_onnx, device="cpu")
    images = [np.full((64, 64, 3), value, np.uint8) for value in (0, 90, 200)]
    for image, answer in zip(images, engine.segment_many(images), strict=True):
        np.testing.assert_array_equal(answer.labels, engine.segment(image).labels)


def test_an_endless_stream_is_consumed_as_needed_and_stops():
    taken = []

    def stream():
        for i in itertools.count():
            taken.append(i)
            yield i

    results = pipeline.answers(stream(), STAGES, strict=True)
    assert [next(results) for _ in range(5)] == [-10, -20, -30, -40, -50]
    assert len(taken) <= 5 + 9  # bounded: two groups per stage, and the one that is gathered
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segfast-stage")]


def test_groups_are_filled_and_the_last_may_be_smaller():
    seen = []

    def both(group):
        seen.append(list(group))
        return group

    assert list(pipeline.answers(range(5), [pipeline.Stage(both, 2)], strict=True)) == [0, 1, 2, 3, 4]
    assert seen == [[0, 1], [2, 3], [4]]


def test_an_error_of_a_group_is_its_own_items():
    def sour(group):
        if 3 in group:
            raise BadImage("three")
        return group

    stages = [pipeline.one_by_one(lambda i: i), pipeline.Stage(sour, 2)]
    results = list(pipeline.answers(range(6), stages, strict=False))
    assert [str(result) for result in results] == ["0", "1", "2", "three", "4", "5"]


def test_stages_overlap():
    """Each stage waits until the next item has entered the one before it: serial execution would never end."""
    entered = [threading.Event() for _ in range(4)]

    def first(i):
        entered[i].set()
        return i

    def second(i):
        assert i == 3 or entered[i + 1].wait(20)
        return i

    assert list(pipeline.answers(range(4), [pipeline.one_by_one(first), pipeline.one_by_one(second)], strict=True)) == [
        0,
        1,
        2,
        3,
    ]


def test_foreign_errors_surface_and_leave_no_threads():
    def fail(i):
        time.sleep(0.01)
        raise ZeroDivisionError(i)

    with pytest.raises(ZeroDivisionError):
        list(pipeline.answers(range(9), [pipeline.one_by_one(fail)], strict=False))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("segfast-stage")]


class Counted(list):
    """A sequence that counts what was asked of it."""

    given = 0

    def __iter__(self):
        for item in super().__iter__():
            self.given += 1
            yield item


def test_large_items_are_held_by_their_bytes():
    sizes, source = [], Counted(range(9))
    group = pipeline.Stage(lambda items: sizes.append(len(items)) or items, 8)
    stages = [pipeline.one_by_one(lambda i: i), group, pipeline.one_by_one(lambda i: i)]
    taken = []
    for answer in pipeline.answers(source, stages, True, Room(10, lambda _: 4)):
        taken.append(answer)
        assert source.given - len(taken) <= 3, "three of 4 bytes pass 10"
    assert taken == list(range(9))
    assert max(sizes) <= 3


def test_errors_weigh_nothing_and_small_items_fill_their_group():
    def sour(item):
        if item % 2:
            raise BadImage("sour")
        return item

    sizes = []
    group = pipeline.Stage(lambda items: sizes.append(len(items)) or items, 4)
    room = Room(9, lambda item: item + 1)
    results = list(pipeline.answers([0, 1, 2, 3, 0, 1, 2, 3], [pipeline.one_by_one(sour), group], False, room))
    assert [item for item in results if not isinstance(item, BadImage)] == [0, 2, 0, 2]
    assert sizes == [2, 2], "four at a time, two of which are errors"
    assert not room.full


def test_an_engine_reads_no_image_while_those_it_holds_take_too_much(tiny_onnx, monkeypatch):
    monkeypatch.setattr(limits, "HELD", 1)
    engine, source = segfast.Engine(tiny_onnx, device="cpu"), Counted(pictures(4))
    for taken, answer in enumerate(engine.segment_many(source), 1):
        assert source.given <= taken + 1
        np.testing.assert_array_equal(answer.labels, engine.segment(answer.image).labels)
    assert taken == 4
