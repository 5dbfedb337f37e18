"""Every dataset in its owner's layout: what is found, what is read, and what is wrong with it."""

import itertools
import os
import pickle

import numpy as np
import pytest
import trees
from PIL import Image

from segfast.classes import dataset as named
from segfast.datasets import IGNORE, detect_dataset, open_dataset
from segfast.datasets import shapes as drawn
from segfast.datasets.masks import CITYSCAPES_IDS, read_mask
from segfast.errors import BadData, BadImage, BadOption


def offenders(dataset):
    with pytest.raises(BadData) as caught:
        dataset.check()
    return caught.value.offenders


# layouts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "train", "val"), [("ade20k", 3, 2), ("pascal_context", 2, 1), ("cityscapes", 1, 2), ("folder", 3, 2)]
)
def test_a_dataset_in_its_owners_layout(tmp_path, name, train, val):
    root = trees.BUILDERS[name](tmp_path)
    assert detect_dataset(root) == name
    for split, count in (("train", train), ("val", val)):
        dataset = open_dataset(name, root, split)
        assert (dataset.name, dataset.split, len(dataset)) == (name, split, count)
        assert len({dataset.key(index) for index in range(count)}) == count
        dataset.check()
        for index in range(count):
            image, labels = dataset.image(index), dataset.labels(index)
            assert (image.dtype, labels.dtype) == (np.uint8, np.uint8)
            assert (image.shape, labels.shape) == ((*trees.SIZE, 3), trees.SIZE)
            assert np.all((labels < len(dataset.classes)) | (labels == IGNORE))
    if name != "folder":
        assert (dataset.classes, dataset.palette) == named(name)
    with pytest.raises(BadOption, match="split 'test'"):
        open_dataset(name, root, "test")


@pytest.mark.parametrize(
    ("name", "inner"),
    [("ade20k", "ADEChallengeData2016"), ("pascal_context", "VOCdevkit"), ("pascal_context", "VOCdevkit/VOC2010")],
)
def test_the_folder_may_be_named_at_any_level(tmp_path, name, inner):
    trees.BUILDERS[name](tmp_path)
    assert detect_dataset(tmp_path / inner) == name
    assert open_dataset(name, tmp_path / inner).key(0) == open_dataset(name, tmp_path).key(0)


def test_ade20k_ignores_0_and_counts_from_1(tmp_path):
    dataset = open_dataset("ade20k", trees.ade20k(tmp_path))
    path = tmp_path / "ADEChallengeData2016" / "annotations" / "validation" / "ADE_val_00000001.png"
    row = np.zeros(trees.SIZE, np.uint8)
    row[0, :4] = (1, 150, 255, 151)
    trees.mask(path, row)
    assert dataset.key(0) == "ADE_val_00000001"
    assert dataset.labels(0)[0, :5].tolist() == [0, 149, IGNORE, 150, IGNORE]
    (found,) = offenders(dataset)
    assert "ADE_val_00000001.png has the values 151, which stand for none of the 150 classes" in found


def test_pascal_context_counts_the_background(tmp_path):
    dataset = open_dataset("pascal_context", trees.pascal_context(tmp_path))
    raw = read_mask(tmp_path / "VOCdevkit" / "VOC2010" / "SegmentationClassContext" / "2008_000002.png")
    np.testing.assert_array_equal(dataset.labels(0), raw)
    assert dataset.classes[0] == "background"
    assert 0 in raw


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    """labels.py of cityscapesScripts: 19 of the ids are evaluated, in this order."""
    known = {
        7: "road",
        8: "sidewalk",
        11: "building",
        12: "wall",
        13: "fence",
        17: "pole",
        19: "traffic light",
        20: "traffic sign",
        21: "vegetation",
        22: "terrain",
        23: "sky",
        24: "person",
        25: "rider",
        26: "car",
        27: "truck",
        28: "bus",
        31: "train",
        32: "motorcycle",
        33: "bicycle",
    }
    assert tuple(known) == CITYSCAPES_IDS
    assert tuple(known.values()) == named("cityscapes")[0]
    dataset = open_dataset("cityscapes", trees.cityscapes(tmp_path, train_ids=False))
    assert dataset.key(0) == "frankfurt/frankfurt_000000_000019"
    raw = read_mask(tmp_path / "gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png")
    expected = np.array([list(known).index(value) if value in known else IGNORE for value in raw.ravel()])
    np.testing.assert_array_equal(dataset.labels(0).ravel(), expected)
    trees.mask(tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", np.full(trees.SIZE, 34))
    assert "has the values 34" in offenders(dataset)[0]


def test_cityscapes_train_ids_come_first(tmp_path):
    dataset = open_dataset("cityscapes", trees.cityscapes(tmp_path))
    raw = read_mask(tmp_path / "gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelTrainIds.png")
    np.testing.assert_array_equal(dataset.labels(0), raw)


# anyone's own folder --------------------------------------------------------------------------------------------------


def test_classes_may_have_colours(tmp_path):
    text = "\ufeffroad 128 64 128\n\ntraffic light\t#FF8000\nsky, 1, 2, 3\nroute 66\n"
    dataset = open_dataset("folder", trees.folder(tmp_path, text))
    assert dataset.classes == ("road", "traffic light", "sky", "route 66")
    assert dataset.palette[:3] == ((128, 64, 128), (255, 128, 0), (1, 2, 3))
    assert dataset.palette[3] not in dataset.palette[:3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb\na", "'a' is named twice"),
        ("", "names 0 classes"),
        ("a 256 0 0", "go up to 255"),
        ("a\n" * 256, "names 256 classes"),
    ],
)
def test_bad_class_lists(tmp_path, text, words):
    with pytest.raises(BadData, match=words):
        open_dataset("folder", trees.folder(tmp_path, text))


def test_masks_of_any_depth_hold_indices(tmp_path):
    """Palette and grey PNGs of 1, 2, 4, 8 and 16 bits give the values that were written."""
    wanted = np.arange(4).repeat(10).reshape(4, 10)
    trees.mask(tmp_path / "grey.png", wanted)
    for bits in (2, 4, 8):
        image = Image.fromarray(wanted.astype(np.uint8))
        image.putpalette([9, 8, 7] * 4)
        image.save(tmp_path / f"palette-{bits}.png", bits=bits)
    Image.fromarray(wanted.astype(np.uint16)).save(tmp_path / "grey-16.png")
    for name in ("grey", "palette-2", "palette-4", "palette-8", "grey-16"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), wanted)
    Image.fromarray(wanted > 1).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "1.png"), wanted > 1)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits(tmp_path, bits):
    """Pillow reads these stretched to 0 … 255, and does not write them: the file is made by hand."""
    import struct
    import zlib

    row = np.arange(1 << bits, dtype=np.uint8)
    packed = np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(row), 2, bits, 0, 0, 0, 0)
    content = zlib.compress((b"\0" + packed) * 2)
    path = tmp_path / "few.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    np.testing.assert_array_equal(read_mask(path), np.stack([row, row]))


def test_masks_with_large_profiles(tmp_path):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    profile = np.random.default_rng(0).bytes(1_500_000)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), values)


def test_everything_that_is_wrong_is_listed(tmp_path):
    root = trees.folder(tmp_path)
    images, masks = root / "images" / "train", root / "masks" / "train"
    trees.picture(images / "alone.png")
    trees.mask(masks / "lonely.png", trees.values(3))
    for name in ("bytes", "cut", "damaged", "small", "over", "colour", "wide", "twice"):
        trees.picture(images / f"{name}.jpg")
        trees.mask(masks / f"{name}.png", trees.values(3))
    trees.picture(images / "twice.png")
    (images / "bytes.jpg").write_bytes(b"no picture")
    whole = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    whole = (masks / "damaged.png").read_bytes()
    (masks / "damaged.png").write_bytes(whole[: len(whole) // 2])
    trees.mask(masks / "small.png", trees.values(3, size=(40, 55)))
    trees.mask(masks / "over.png", trees.values(3, extra=[3, 17]))
    Image.new("RGB", trees.SIZE[::-1], (9, 8, 7)).save(masks / "colour.png")
    Image.fromarray(np.full(trees.SIZE, 300, np.uint16)).save(masks / "wide.png")
    (images / "._hidden.jpg").write_bytes(b"of another system")
    found = "\n".join(offenders(open_dataset("folder", root, "train")))
    for words in (
        "alone of folder train has no mask",
        "lonely of folder train has no image",
        "bytes.jpg is no picture",
        "cut.jpg is damaged",
        "damaged.png cannot be read as PNG",
        "small.png has 40×55 pixels, but its picture images/train/small.jpg 40×56",
        "over.png has the values 3, 17, which stand for none of the 3 classes",
        "colour.png is in colour, and no colours are known",
        "wide.png has the values 300",
        "differ in their endings only",
    ):
        assert words in found
    assert len(found.splitlines()) == 10


def test_many_offenders_are_counted_and_the_first_shown(tmp_path):
    for number in range(50):
        trees.picture(tmp_path / "images" / "val" / f"{number:02}.png", size=(8, 8))
    (tmp_path / "masks" / "val").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(BadData) as caught:
        open_dataset("folder", tmp_path).check(progress=True)
    assert len(caught.value.offenders) == 50
    text = str(caught.value)
    assert "50 faults among 50 samples" in text
    assert len(text.splitlines()) == 22
    assert text.endswith("… and 30 more")
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_a_picture_that_lies_on_its_side_fits_its_upright_mask(tmp_path):
    image = Image.fromarray(np.zeros((*trees.SIZE, 3), np.uint8))
    (tmp_path / "images" / "val").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "images" / "val" / "a.jpg", exif=exif)
    trees.mask(tmp_path / "masks" / "val" / "a.png", np.zeros(trees.SIZE[::-1]))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    dataset = open_dataset("folder", tmp_path)
    dataset.check()
    assert dataset.image(0).shape[:2] == dataset.labels(0).shape


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="there are no links here")
def test_links_out_of_the_tree_are_not_followed(tmp_path):
    root, outside = trees.folder(tmp_path / "data"), tmp_path / "outside"
    trees.picture(outside / "secret.jpg")
    (root / "images" / "train" / "linked.jpg").symlink_to(outside / "secret.jpg")
    (root / "images" / "train" / "more").symlink_to(outside)
    dataset = open_dataset("folder", root, "train")
    assert len(dataset) == 3
    found = sorted(line.split(" is a link")[0] for line in offenders(dataset))
    assert found == ["images/train/linked.jpg", "images/train/more"]
    (root / "images" / "train").rename(outside / "train")
    (root / "images" / "train").symlink_to(outside / "train")
    with pytest.raises(BadData, match=r"images/train leads to .*outside/train, out of .*not followed"):
        open_dataset("folder", root, "train")
    (tmp_path / "link").symlink_to(root)  # the folder that is named may be one
    assert len(open_dataset("folder", tmp_path / "link", "val")) == 2


def test_a_list_may_not_lead_elsewhere(tmp_path):
    trees.pascal_context(tmp_path)
    listing = tmp_path / "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt"
    listing.write_text("2008_000002\n../../../etc/passwd\n")
    with pytest.raises(BadData, match="etc/passwd"):
        open_dataset("pascal_context", tmp_path)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(BadData, match="there is no folder"):
        detect_dataset(tmp_path / "none")
    with pytest.raises(BadData, match="images/train"):
        detect_dataset(tmp_path)
    for name in trees.BUILDERS:
        with pytest.raises(BadData, match="it lacks"):
            open_dataset(name, tmp_path)
    for arguments, words in ((("ade2k", tmp_path), "no dataset is named"), (("ade20k", None), "name its folder")):
        with pytest.raises(BadOption, match=words):
            open_dataset(*arguments)
    with pytest.raises(BadOption, match="fraction"):
        open_dataset("shapes", fraction=0)
    dataset = open_dataset("folder", trees.folder(tmp_path))
    (tmp_path / "images" / "val" / "d.jpg").unlink()
    (tmp_path / "masks" / "val" / "d.png").unlink()
    with pytest.raises(BadImage, match="no file"):
        dataset.image(0)
    with pytest.raises(BadData, match="no mask"):
        dataset.labels(0)


# shares ---------------------------------------------------------------------------------------------------------------


def test_a_smaller_fraction_is_part_of_a_larger(tmp_path):
    for number in range(20):
        trees.picture(tmp_path / "images" / "train" / f"{number:02}.png", size=(8, 8))
    (tmp_path / "masks" / "train").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("a\n")
    shares = [open_dataset("folder", tmp_path, "train", fraction=f) for f in (0.01, 0.25, 0.5, 1.0)]
    assert [len(share) for share in shares] == [1, 5, 10, 20]
    keys = [[share.key(i) for i in range(len(share))] for share in shares]
    assert all(set(a) < set(b) for a, b in itertools.pairwise(keys))
    assert all(k == sorted(k) for k in keys)
    assert shares[3].take(range(1, 20, 7)).key(1) == keys[3][8]


def test_datasets_travel_to_workers(tmp_path):
    for dataset in (
        open_dataset("folder", trees.folder(tmp_path)),
        open_dataset("shapes", split="train", fraction=0.1),
    ):
        copy = pickle.loads(pickle.dumps(dataset))
        assert copy == dataset
        np.testing.assert_array_equal(copy.image(1), dataset.image(1))
        np.testing.assert_array_equal(copy.labels(1), dataset.labels(1))


# shapes ---------------------------------------------------------------------------------------------------------------


def test_shapes_are_a_function_of_seed_split_and_index():
    val, train = open_dataset("shapes"), open_dataset("shapes", split="train")
    first = val.image(3), val.labels(3)
    drawn.draw.cache_clear()
    for before, after in zip(first, (val.image(3), val.labels(3)), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not np.array_equal(val.image(3), val.image(4))
    assert not np.array_equal(val.image(3), train.image(3))
    assert not np.array_equal(val.image(3), drawn.ShapesDataset.of("val", seed=1).image(3))
    val.image(3)[:] = 0  # one's own copy
    np.testing.assert_array_equal(val.image(3), first[0])
    half = open_dataset("shapes", fraction=0.5)
    assert len(half) == len(val) // 2
    assert half.key(0) == f"val-{half.indices[0]:04}"
    np.testing.assert_array_equal(half.image(0), val.image(half.indices[0]))
    with pytest.raises(BadOption, match="no split 'test'"):
        open_dataset("shapes", split="test")


def test_shapes_hold_every_class_and_ignored_outlines():
    val = open_dataset("shapes")
    val.check()
    counts = sum(np.bincount(val.labels(index).ravel(), minlength=256) for index in range(len(val)))
    shares = counts / counts.sum()
    assert np.all(shares[1:5] > 0.03)
    assert 0.5 < shares[0] < 0.9
    assert 0 < shares[IGNORE] < 0.1
    assert counts[5:IGNORE].sum() == 0
