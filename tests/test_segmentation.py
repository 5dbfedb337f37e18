import io

import numpy as np
import pytest
from PIL import Image

from segfast.classes import dataset, for_count, generated_palette
from segfast.encodings import KINDS, to_jpeg, to_png
from segfast.errors import BadOption, CannotWrite, NotSupported
from segfast.segmentation import Segmentation


@pytest.fixture
def answer(photo):
    labels = np.zeros((60, 90), np.uint8)
    labels[:30, :45] = 2
    labels[50:, 80:] = 1
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    return Segmentation(
        labels, ("wall", "a very long name of a class", "sky"), palette, photo, lambda: np.ones((3, 60, 90))
    )


def test_it_is_its_labels(answer):
    np.testing.assert_array_equal(np.asarray(answer), answer.labels)
    assert np.asarray(answer, np.int64).dtype == np.int64
    assert np.asarray(answer) is not None
    assert (np.array(answer) == answer.labels).all()


def test_areas_are_shares_largest_first(answer):
    assert list(answer.areas) == ["wall", "sky", "a very long name of a class"]
    assert answer.areas["sky"] == 0.25
    assert sum(answer.areas.values()) == pytest.approx(1)


def test_scores_are_computed_once_when_asked(photo):
    calls = []
    answer = Segmentation(
        np.zeros((1, 1), np.uint8), ("x",), ((0, 0, 0),), photo, lambda: calls.append(1) or np.ones(1)
    )
    assert not calls
    assert answer.scores is answer.scores
    assert len(calls) == 1


def test_labels_artifacts_have_no_scores(photo):
    with pytest.raises(NotSupported, match="--output logits"):
        _ = Segmentation(np.zeros((1, 1), np.uint8), ("x",), ((0, 0, 0),), photo).scores


def test_overlay_mixes_and_explains(answer, photo):
    bare = answer.overlay(legend=False)
    assert bare.size == (90, 60)
    np.testing.assert_array_equal(np.asarray(answer.overlay(opacity=0, legend=False)), photo)
    assert tuple(np.asarray(answer.overlay(opacity=1, legend=False))[0, 0]) == (0, 0, 255)
    full = np.asarray(answer.overlay())
    np.testing.assert_array_equal(full[:60, :90], np.asarray(bare))
    legend = {tuple(colour) for colour in full[:, 90:].reshape(-1, 3)}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= legend  # a swatch for each class present


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_impossible_opacities(answer, opacity):
    with pytest.raises(BadOption, match="opacity"):
        answer.overlay(opacity=opacity)


def test_many_classes_fit_beside_a_flat_picture(photo):
    names, palette = for_count(150)
    labels = (np.arange(20 * 900) % 150).astype(np.uint8).reshape(20, 900)
    overlay = Segmentation(labels, names, palette, np.zeros((20, 900, 3), np.uint8)).overlay()
    swatches = {tuple(colour) for colour in np.asarray(overlay)[:, 900:].reshape(-1, 3)}
    assert len(swatches & set(palette)) >= len(set(palette)) - 1


def test_saved_labels_read_back_with_their_colours(answer, tmp_path):
    answer.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), answer.labels)
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def test_many_classes_are_saved_as_16_bits(tmp_path, photo):
    labels = np.full((60, 90), 299, np.uint16)
    Segmentation(labels, *for_count(300), photo).save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)


def test_repr_names_the_largest(answer):
    assert repr(answer) == "Segmentation(60×90, 3 of 3 classes: wall 73%, sky 25%, a very long name of a class 2%)"


@pytest.mark.parametrize(("name", "count"), [("ade20k", 150), ("cityscapes", 19), ("pascal_context", 60)])
def test_datasets_have_their_classes(name, count):
    names, palette = dataset(name)
    assert len(names) == len(set(names)) == count
    assert len(palette) == count
    assert for_count(count) == (names, palette)


def test_known_colours():
    assert dict(zip(*dataset("cityscapes"), strict=True))["car"] == (0, 0, 142)
    assert dict(zip(*dataset("ade20k"), strict=True))["sky"] == (6, 230, 230)
    assert dataset("pascal_context")[0][0] == "background"


def test_generated_palettes_are_distinct():
    assert len(set(generated_palette(1000))) == 1000
    assert generated_palette(1)[0] == (128, 0, 0)


def test_labels_are_saved_to_what_is_open(answer, tmp_path):
    answer.save(tmp_path / "labels.png")
    stream = io.BytesIO()
    answer.save(stream)
    assert stream.getvalue() == (tmp_path / "labels.png").read_bytes()
    with open(tmp_path / "open.png", "wb") as file:
        answer.save(file)
    assert (tmp_path / "open.png").read_bytes() == stream.getvalue()


def closed():
    stream = io.BytesIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("file", "error", "remedy"),
    [(io.StringIO, BadOption, "'wb'"), (closed, CannotWrite, "open it again"), (object, BadOption, "give a path"),
     (lambda: open(__file__, "rb"), CannotWrite, "'wb'"),  # noqa: SIM115
     (lambda: open("/dev/full", "wb", 0), CannotWrite, "disk is full")],  # noqa: SIM115
)  # fmt: skip
def test_files_that_take_no_picture(answer, file, error, remedy):
    with pytest.raises(error, match=remedy):
        answer.save(file())


def test_as_bytes(answer):
    """What the service gives; tests/test_serve.py reads JSON and JPEG."""
    small, fast = to_png(answer), KINDS["image/png"](answer)
    for content in (small, fast):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), answer.labels)
    file = io.BytesIO()
    answer.save(file)
    assert small == file.getvalue()
    long = Segmentation(np.zeros((65501, 1), np.uint8), ("x",), ((0, 0, 0),), np.zeros((65501, 1, 3), np.uint8))
    with pytest.raises(NotSupported, match="too long for JPEG"):
        to_jpeg(long)
