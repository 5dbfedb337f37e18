"""Folders as people have them: every way of docs/data.md, in tiny trees, and their siblings."""

import dataclasses
import re
import sys

import numpy as np
import pytest
import trees
from helpers import REPOSITORY, tiny_config, tiny_model
from PIL import Image

from segfast.datasets import IGNORE, Reading, detect_dataset, foreign, open_dataset
from segfast.datasets import __main__ as command
from segfast.datasets.convert import convert
from segfast.datasets.masks import read_raw
from segfast.datasets.places import Places
from segfast.datasets.shapes import ShapesDataset
from segfast.engine import Engine
from segfast.errors import BadData, BadOption
from segfast.image import SamplesWarning

PAGE = REPOSITORY / "docs" / "data.md"
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
COLOURED = "background 0 0 0\ncar 255 0 0\ntree 0 255 0\n"
TRUTH = trees.values(3)


def tree(root, picture="images/{split}/{name}.jpg", mask="masks/{split}/{name}.png", splits=("train", "val"), raw=None):
    """A folder whose masks hold TRUTH, or `raw` in its place, an array or an image."""
    for split in splits:
        for name in ("one", "two"):
            trees.picture(root / picture.format(split=split, name=name))
            path = root / mask.format(split=split, name=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = TRUTH if raw is None else raw
            (raw if isinstance(raw, Image.Image) else Image.fromarray(raw)).save(path)
    if not (root / "classes.txt").exists():
        (root / "classes.txt").write_text("background\ncar\ntree\n")
    return root


def labels(root, split="train", **reading):
    dataset = open_dataset(detect_dataset(root), root, split, reading=Reading(**reading))
    dataset.check()
    return dataset.labels(0)


# Masks ----------------------------------------------------------------------------------------------------------------


def palette(colours):
    image = Image.fromarray(TRUTH)
    image.putpalette(colours.ravel().tolist())
    return image


@pytest.mark.parametrize(
    "raw",
    [
        TRUTH,
        TRUTH.astype(np.uint16),
        np.repeat(TRUTH[..., None], 3, 2),
        np.concatenate([np.repeat(TRUTH[..., None], 3, 2), np.full((*TRUTH.shape, 1), 9, np.uint8)], 2),
        np.stack([TRUTH, np.full_like(TRUTH, 255)], 2),
        COLOURS[TRUTH],
        np.concatenate([COLOURS[TRUTH], np.full((*TRUTH.shape, 1), 255, np.uint8)], 2),
        palette(COLOURS),
    ],
    ids=["L", "I;16", "equal RGB", "equal RGBA", "LA", "RGB", "RGBA", "palette"],
)
def test_masks_of_every_encoding_give_the_same_labels(tmp_path, raw):
    (tmp_path / "classes.txt").write_text(COLOURED)
    np.testing.assert_array_equal(labels(tree(tmp_path, raw=raw)), TRUTH)


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".bmp", ".gif", ".PNG"])
def test_masks_of_every_lossless_format(tmp_path, suffix):
    np.testing.assert_array_equal(labels(tree(tmp_path, mask="masks/{split}/{name}" + suffix)), TRUTH)


def test_masks_that_cannot_be_read_say_why(tmp_path):
    for number, (raw, classes, words, suffix) in enumerate(
        [
            (COLOURS[TRUTH], "a\nb\nc", "in colour, and no colours are known", ".png"),
            (COLOURS[TRUTH] ^ np.uint8(1), COLOURED, r"has the colours .*\(1, 1, 1\)", ".png"),
            (palette(COLOURS[::-1] // 2 + 9), COLOURED, r"has the colours", ".png"),
            (TRUTH, COLOURED, r"\.jpg changes the values", ".jpg"),
            (TRUTH.astype(np.float32) + 0.5, COLOURED, "no whole numbers", ".tif"),
            (TRUTH + np.uint8(7), COLOURED, "has the values 7, 8, 9, which stand for none of the 3", ".png"),
        ]
    ):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "classes.txt").write_text(classes)
        with pytest.raises(BadData, match=words):
            labels(tree(root, mask="masks/{split}/{name}" + suffix, raw=raw))


def test_index_255_of_a_palette_is_ignored_whatever_its_colour(tmp_path):
    """Pascal VOC's is (224, 224, 192)."""
    raw = np.where(TRUTH == 2, 255, TRUTH).astype(np.uint8)
    image = Image.fromarray(raw)
    image.putpalette([*COLOURS.ravel().tolist(), *[7] * (3 * 252), 224, 224, 192])
    (tmp_path / "classes.txt").write_text(COLOURED)
    np.testing.assert_array_equal(labels(tree(tmp_path, raw=image)), np.where(TRUTH == 2, IGNORE, TRUTH))


def test_black_and_white_masks_go_through_their_colours(tmp_path):
    (tmp_path / "classes.txt").write_text("background 0 0 0\nobject 255 255 255\n")
    raw = (TRUTH > 0).astype(np.uint8) * 255
    np.testing.assert_array_equal(labels(tree(tmp_path, raw=raw)), TRUTH > 0)


def test_ignored_values_and_zero_labels(tmp_path):
    root = tree(tmp_path / "a")
    np.testing.assert_array_equal(labels(root, ignore_index=2), np.where(TRUTH == 2, IGNORE, TRUTH))
    root = tree(tmp_path / "b", raw=TRUTH + np.uint8(1))
    np.testing.assert_array_equal(labels(root, reduce_zero_label=True), TRUTH)


def test_classes_are_merged_renamed_ignored_and_dropped(tmp_path):
    root, mapped = tree(tmp_path), tmp_path / "map.txt"
    mapped.write_text("# mine\ncar: plant\ntree -> plant\n")
    dataset = open_dataset("folder", root, "train", reading=Reading(map=str(mapped)))
    assert dataset.classes == ("background", "plant")
    np.testing.assert_array_equal(dataset.labels(0), TRUTH > 0)
    mapped.write_text("background = ignore\n")
    np.testing.assert_array_equal(labels(root, map=str(mapped)), np.where(TRUTH == 0, IGNORE, TRUTH - 1))
    mapped.write_text("tree, drop\n")
    with pytest.raises(BadData, match="has the values 2"):
        labels(root, map=str(mapped))
    mapped.write_text("house: drop\n")
    with pytest.raises(BadData, match="begins with no class"):
        labels(root, map=str(mapped))


# Where files lie ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "mask"),
    [
        ("images/{split}/{name}.jpg", "labels/{split}/{name}.png"),
        ("{split}/images/{name}.JPG", "{split}/masks/{name}.png"),
        ("{split}/img/{name}.jpg", "{split}/annotations/{name}.png"),
        ("{split}/{name}.png", "{split}annot/{name}.png"),
        ("{split}/{name}.png", "{split}_labels/{name}_L.png"),
        ("{split}/{name}.jpg", "{split}/{name}_mask.png"),
        ("images/{split}/{name}.jpg", "masks/{split}/{name}_mask.gif"),
        ("images/{split}/{name}.jpg", "masks/{split}/mask_{name}.png"),
        ("images/{split}/image_{name}.jpg", "masks/{split}/mask_{name}.png"),
        ("leftImg8bit/{split}/city/{name}_leftImg8bit.png", "gtFine/{split}/city/{name}_gtFine_labelIds.png"),
        ("Images/{split}/{name}.jpg", "SegmentationClass/{split}/{name}.png"),
    ],
)
def test_pairs_are_found_however_they_are_named(tmp_path, picture, mask):
    root = tree(tmp_path, picture, mask)
    for split in ("train", "val"):
        np.testing.assert_array_equal(labels(root, split), TRUTH)


def test_classes_lie_beside_instances_and_colours(tmp_path):
    tree(
        tmp_path,
        "leftImg8bit/{split}/{name}_leftImg8bit.png",
        "gtFine/{split}/{name}_gtFine_color.png",
        raw=COLOURS[TRUTH],
    )
    tree(tmp_path, "leftImg8bit/{split}/{name}_leftImg8bit.png", "gtFine/{split}/{name}_gtFine_labelIds.png")
    np.testing.assert_array_equal(labels(tmp_path), TRUTH)


def test_a_split_that_is_missing_is_a_share_on_request(tmp_path):
    root = tree(tmp_path, splits=("train",))
    with pytest.raises(BadOption, match=r"there are train.*--val-fraction"):
        open_dataset("folder", root, "val")
    parts = [open_dataset("folder", root, split, reading=Reading(val_fraction=0.5)) for split in ("train", "val")]
    assert sorted(part.key(0) for part in parts) == ["one", "two"]
    assert [len(part) for part in parts] == [1, 1]


def test_a_folder_of_pictures_and_masks_is_no_split_by_its_name(tmp_path):
    """Unless it is asked for, a list names it, or its name is that of a split."""
    tree(tmp_path, "{split}/images/{name}.jpg", "{split}/masks/{name}.png", splits=("bad",))
    assert Places(tmp_path).splits() == []
    assert len(open_dataset("folder", tmp_path, "bad")) == 2
    (tmp_path / "classes.txt").rename(tmp_path / "bad" / "classes.txt")
    with pytest.raises(BadData, match="folders in it may be; name one: bad"):
        detect_dataset(tmp_path)
    for name in ("train", "valid", "test", "testing"):
        tree(tmp_path / name, "{split}/images/{name}.jpg", "{split}/masks/{name}.png", splits=(name,))
        assert Places(tmp_path / name).splits() == [{"valid": "val"}.get(name, name)]
    tree(tmp_path / "night", splits=("night",))
    assert Places(tmp_path / "night").splits() == ["night"]


def test_lists_make_splits(tmp_path):
    root = tree(tmp_path, "JPEGImages/{name}.jpg", "SegmentationClass/{name}.png", splits=("",))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("one\n")
    (lists / "val.txt").write_text("JPEGImages/two.jpg SegmentationClass/two.png\n")
    assert [open_dataset("folder", root, split).key(0) for split in ("train", "val")] == ["one", "two"]
    (lists / "val.txt").write_text("three\n")
    with pytest.raises(BadData, match="'three' is no picture"):
        open_dataset("folder", root, "val")


def test_where_no_names_agree_it_says_what_there_is(tmp_path):
    root = tree(tmp_path, mask="masks/{split}/{name}0000.png")
    with pytest.raises(BadData, match=r"named like images/train/one.jpg, masks like masks/train/one0000.png"):
        labels(root)


def test_links_are_followed_on_request(tmp_path):
    tree(tmp_path / "elsewhere")
    (tmp_path / "mine").mkdir()
    for name in ("images", "masks"):
        (tmp_path / "mine" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "mine" / "classes.txt").write_text(COLOURED)
    with pytest.raises(BadData, match="--follow-links"):
        labels(tmp_path / "mine")
    np.testing.assert_array_equal(labels(tmp_path / "mine", follow_links=True), TRUTH)


def test_a_mask_of_a_picture_that_was_not_turned_yet(tmp_path):
    root, exif = tree(tmp_path), Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "images/train/one.jpg").save(root / "images/train/one.jpg", exif=exif)
    with pytest.raises(BadData, match="EXIF orientation 6, and the mask was drawn on it unturned"):
        labels(root)


def test_an_export_of_cvat(tmp_path):
    """“Segmentation mask 1.1”: a label map, masks of its colours, and one list of all pictures."""
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\na:0,0,0::\nb:255,0,0::\nc:0,255,0::\n")
    tree(tmp_path, "JPEGImages/{name}.jpg", "SegmentationClass/{name}.png", splits=("",), raw=COLOURS[TRUTH])
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("one\ntwo\n")
    for split in ("train", "val"):
        np.testing.assert_array_equal(labels(tmp_path, split, val_fraction=0.5), TRUTH)


def test_messages_point_to_headings_of_the_page():
    headings = re.findall(r"^### (.+)$", PAGE.read_text(), re.M)
    assert set(foreign.WAYS) <= set(headings)


def test_polygons_of_ultralytics_become_masks_as_the_page_says(tmp_path, monkeypatch):
    """Its script, run: a square of person, within it one of car; a picture without a text file is background."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            trees.picture(tmp_path / f"my/pictures/images/{split}/{name}.png", size=(20, 40))
        text = tmp_path / f"my/pictures/labels/{split}/a.txt"
        text.parent.mkdir(parents=True)
        text.write_text("0 0.1 0.2 0.7 0.2 0.7 0.8 0.1 0.8\n1 0.3 0.4 0.5 0.4 0.5 0.6 0.3 0.6\n")
    (tmp_path / "my/pictures/data.yaml").write_text("names: [person, car]\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadData, match="“Ultralytics”"):
        open_dataset("folder", "my/pictures", "train")
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1], {})
    dataset = open_dataset("folder", "my/pictures", "train")
    assert dataset.classes == ("background", "person", "car")
    dataset.check()
    truth = dataset.labels(0)
    assert [truth[1, 1], truth[6, 6], truth[10, 16], truth[18, 30]] == [0, 1, 2, 0]
    assert not dataset.labels(1).any()


@pytest.mark.parametrize("masks", ["SegmentationClass", "SegmentationClassPNG"])
def test_an_export_of_labelme(tmp_path, masks):
    tree(tmp_path, "JPEGImages/{name}.jpg", masks + "/{name}.png", splits=("",))
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "class_names.txt").write_text("_background_\ncar\ntree\n")
    for other in {"SegmentationClass", "SegmentationClassNpy", "SegmentationClassVisualization"} - {masks}:
        (tmp_path / other).mkdir()
    for split in ("train", "val"):
        np.testing.assert_array_equal(labels(tmp_path, split, val_fraction=0.5), TRUTH)


def test_an_export_for_ultralytics(tmp_path):
    tree(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: a, 1: b, 2: c}\n")
    np.testing.assert_array_equal(labels(tmp_path), TRUTH)


# What they hold -------------------------------------------------------------------------------------------------------


def test_what_nothing_can_be_learnt_from_is_refused(tmp_path):
    for number, (classes, raw, words) in enumerate(
        [
            ("crack\n", TRUTH * 0, "one class, 'crack'.*name a background"),
            ("background\nobject\n", (TRUTH > 0).astype(np.uint8) * 255, "0 and 255 alone.*255 255 255"),
            ("a\nb\nc\n", TRUTH * 0 + np.uint8(255), "no labelled pixel"),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "classes.txt").write_text(classes)
        with pytest.raises(BadData, match=words):
            labels(tree(tmp_path / str(number), raw=raw))


def test_classes_that_never_occur_are_told(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\nzebra\n")
    content = open_dataset("folder", tree(tmp_path)).check()
    assert content.missing == ["zebra"]
    assert content.counts[:3].tolist() == (2 * np.bincount(TRUTH.ravel())).tolist()
    assert "ATTENTION: val has no pixel of zebra" in content.lines()


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_tells_draws_and_converts(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\na:0,0,0::\nb:255,0,0::\nc:0,255,0::\n"
    )
    root = tree(tmp_path / "mine", raw=COLOURS[TRUTH])
    (root / "classes.txt").unlink()
    sheet, out = tmp_path / "sheet.png", tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["x", str(root), "--sheet", str(sheet), "--convert", str(out)])
    assert command.main() == 0
    told = capsys.readouterr().out
    for words in ("labelmap.txt:", "1  b  #ff0000", "train: 2 pictures of 40×56 pixels", "shares of the pixels"):
        assert words in told
    assert told.count("labelmap.txt:") == 1  # train's and val's are one list
    assert len(np.unique(np.asarray(Image.open(sheet)).reshape(-1, 3), axis=0)) > 100
    np.testing.assert_array_equal(labels(out), TRUTH)
    np.testing.assert_array_equal(read_raw(out / "masks/train/one.png").values, TRUTH)
    assert (out / "images/train/one.jpg").read_bytes() == (root / "images/train/one.jpg").read_bytes()
    monkeypatch.setattr(sys, "argv", ["x", str(root), "--convert", str(out)])
    with pytest.raises(BadOption, match="there already"):
        command.main()


@pytest.mark.parametrize(
    ("names", "palette", "kept"),
    [
        ("land water", [(255, 255, 255), (0, 0, 255)], "classes.txt"),  # white, beside pixels that are ignored
        ("land water", [(1, 2, 3), (1, 2, 3)], "classes.txt"),  # as two classes of ADE20K
        ("2:land 255:void", [(1, 2, 3), (4, 5, 6)], "classes.json"),
    ],
)
def test_what_is_converted_is_read_the_same(tmp_path, names, palette, kept):
    @dataclasses.dataclass(frozen=True)
    class Given(ShapesDataset):
        def labels(self, index):
            return np.array([[0, 1], [IGNORE, 0]], np.uint8)

        def image(self, index):
            return np.zeros((2, 2, 3), np.uint8)

    convert([Given("folder", "train", tuple(names.split()), tuple(palette), (0,), 0)], tmp_path / "out")
    dataset = open_dataset("folder", tmp_path / "out", "train")
    assert (dataset.classes, (tmp_path / "out" / kept).exists()) == (tuple(names.split()), True)
    np.testing.assert_array_equal(dataset.labels(0), [[0, 1], [IGNORE, 0]])
    with pytest.raises(BadOption, match="'void' would be read as pixels to ignore"):
        convert([Given("folder", "train", ("land", "void"), tuple(palette), (0,), 0)], tmp_path / "more")


@pytest.mark.parametrize(
    ("listed", "values", "reading", "truth"),
    [
        ("land 255 255 255\nwater 0 0 255", [0, 1, 255], {}, [0, 1, IGNORE]),  # white is of masks in colour
        ("land 0 0 0\nwater 255 255 255", [0, 255, 1], {}, [0, 1, 1]),
        ("1: land\n2: water", [0, 1, 2], {"reduce_zero_label": True}, [IGNORE, 0, 1]),
        ("0: land\n1: water", [0, 1, 2], {"reduce_zero_label": True}, [IGNORE, 0, 1]),
        ("land\nwater", [0, 1, 2], {"reduce_zero_label": True}, [IGNORE, 0, 1]),
        ("land\nwater", [0, 1, 9], {"ignore_index": 9}, [0, 1, IGNORE]),
    ],
)
def test_values_mean_what_the_list_says(tmp_path, listed, values, reading, truth):
    root = tree(tmp_path, raw=np.resize(np.array(values, np.uint8), trees.SIZE))
    (root / "classes.txt").write_text(listed)
    np.testing.assert_array_equal(labels(root, **reading), np.resize(np.array(truth, np.uint8), trees.SIZE))


def test_an_ignored_value_is_ignored_in_colours_too(tmp_path):
    root = tree(tmp_path, raw=COLOURS[TRUTH])
    (root / "classes.txt").write_text(COLOURED)
    np.testing.assert_array_equal(labels(root, ignore_index=0), np.where(TRUTH == 0, IGNORE, TRUTH))


def test_twelve_bits_in_sixteen_are_warned_of(tmp_path):
    root, dim = tree(tmp_path, picture="images/{split}/{name}.png"), np.full(trees.SIZE, 4095, np.uint16)
    Image.fromarray(dim).save(root / "images/train/one.png")
    with pytest.warns(SamplesWarning):
        content = open_dataset("folder", root, "train").check()
    assert content.dim == 1
    assert any("12 bits" in line for line in content.lines())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("annotations.xml", "<annotations><image id='0'></image></annotations>", "Segmentation mask 1.1"),
        ("Annotations/a.xml", "<annotation><object/></annotation>", "Pascal VOC"),
        (
            "labels/train/one.txt",
            "0 0.1 0.1 0.2 0.1 0.2 0.2\n",
            "polygons of Ultralytics.*“Ultralytics” in docs/data.md",
        ),
        ("labels/train/one.txt", "0 0.1 0.1 0.2 0.1\n\n", "boxes of Ultralytics.*outlines"),
        ("images/train/one.json", '{"shapes": [], "imagePath": "one.jpg"}', "labelme2voc.*“LabelMe” in docs/data.md"),
    ],
)
def test_what_other_tools_write_is_named(tmp_path, name, text, words):
    trees.picture(tmp_path / "images/train/one.jpg")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(BadData, match=words):
        detect_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(BadData, match=words):
        open_dataset("folder", tmp_path, "train")


@pytest.mark.parametrize(
    ("raw", "words"), [(TRUTH, "the values 0, 1, 2:"), (COLOURS[TRUTH], r"the colours \(0, 0, 0\), ")]
)
def test_without_a_class_list_the_masks_values_are_named(tmp_path, raw, words):
    root = tree(tmp_path, raw=raw)
    (root / "classes.txt").unlink()
    with pytest.raises(BadData, match=words):
        detect_dataset(root)


def test_an_engine_resizes_as_its_model_was_trained():
    protocol = dataclasses.replace(tiny_config().protocol, fit=(96, 64))
    model = tiny_model(protocol=protocol)
    engine, image = Engine(model, device="cpu"), np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    own, asked, off = (engine.segment(image, **fit).labels for fit in ({}, {"fit": (96, 64)}, {"fit": None}))
    np.testing.assert_array_equal(own, asked)
    assert (own != off).any()
    with pytest.raises(BadOption, match="fit must be"):
        engine.segment(image, fit="dataset")
