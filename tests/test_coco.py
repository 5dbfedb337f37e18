"""COCO's JSON: regions, their order, the pictures they are of, and what is refused."""

import json
import sys

import numpy as np
import pytest
import trees

from segfast.datasets import Reading, detect_dataset, open_dataset
from segfast.datasets.unlabelled import open_pictures
from segfast.errors import BadData, BadOption


def coco(root, split="train", **changes):
    """A square of cat (id 3), over it a smaller one of dog (id 7), as run lengths."""
    trees.picture(root / split / "a.jpg", size=(8, 10))
    dog = np.zeros((8, 10), np.uint8)
    dog[2:4, 2:5] = 1
    runs, last, count = [], 0, 0
    for value in dog.T.ravel().tolist():
        if value != last:
            runs.append(count)
            last, count = value, 0
        count += 1
    annotations = [
        {
            "id": 1,
            "image_id": 5,
            "category_id": 7,
            "area": 6,
            "segmentation": {"size": [8, 10], "counts": [*runs, count]},
        },
        {"id": 2, "image_id": 5, "category_id": 3, "area": 36, "segmentation": [[1, 1, 7, 1, 7, 7, 1, 7]]},
    ]
    data = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 8, "width": 10}],
        "categories": [
            {"id": 0, "name": "animals", "supercategory": "none"},
            {"id": 7, "name": "dog", "supercategory": "animals"},
            {"id": 3, "name": "cat", "supercategory": "animals"},
        ],
        "annotations": annotations,
    }
    (root / split / "_annotations.coco.json").write_text(json.dumps(data | changes))
    truth = np.zeros((8, 10), np.uint8)
    truth[1:7, 1:7] = 1
    truth[2:4, 2:5] = 2
    return truth


def test_coco_is_drawn(tmp_path):
    pytest.importorskip("pycocotools")
    truth = coco(tmp_path)
    assert detect_dataset(tmp_path) == "folder"
    dataset = open_dataset("folder", tmp_path, "train")
    assert dataset.classes == ("background", "cat", "dog")
    dataset.check()
    np.testing.assert_array_equal(dataset.labels(0), truth)
    with pytest.raises(BadOption, match="--val-fraction"):
        open_dataset("folder", tmp_path, "val")


@pytest.mark.parametrize("said", [None, 0, "many", float("nan")])
def test_regions_without_an_area_lie_as_by_their_size(tmp_path, said):
    pytest.importorskip("pycocotools")
    truth = coco(tmp_path)
    path = tmp_path / "train" / "_annotations.coco.json"
    data = json.loads(path.read_text())
    for one in data["annotations"]:
        one["area"] = said
    for annotations in (data["annotations"], data["annotations"][::-1]):
        path.write_text(json.dumps(data | {"annotations": annotations}))
        np.testing.assert_array_equal(open_dataset("folder", tmp_path, "train").labels(0), truth)


def test_of_regions_of_one_size_the_later_lies_on_top(tmp_path):
    pytest.importorskip("pycocotools")
    square = {"image_id": 5, "segmentation": [[1, 1, 7, 1, 7, 7, 1, 7]]}
    for categories, label in (((3, 7), 2), ((7, 3), 1)):
        coco(tmp_path, annotations=[square | {"id": at, "category_id": one} for at, one in enumerate(categories)])
        assert open_dataset("folder", tmp_path, "train").labels(0)[4, 4] == label


def test_a_name_of_coco_in_several_folders(tmp_path):
    """The one beside the JSON; the one whose folder it names, which is said; of equals none."""
    pytest.importorskip("pycocotools")
    coco(tmp_path)
    for folder in ("valid", "old"):
        trees.picture(tmp_path / folder / "a.jpg", size=(8, 10))
    dataset = open_dataset("folder", tmp_path, "train")
    assert dataset.source(0) == tmp_path.resolve() / "train/a.jpg"
    assert not any("several" in note for note in dataset.notes)
    path = tmp_path / "annotations" / "instances_train.json"
    path.parent.mkdir()
    (tmp_path / "train" / "_annotations.coco.json").rename(path)
    dataset = open_dataset("folder", tmp_path, "train")
    assert dataset.source(0) == tmp_path.resolve() / "train/a.jpg"
    assert "ATTENTION: a.jpg found in several folders; the JSON's own path decides: train/a.jpg" in dataset.notes
    (tmp_path / "train" / "a.jpg").unlink()
    with pytest.raises(BadData, match=r"write the folder into file_name:\s+a\.jpg may be old/a\.jpg or valid/a\.jpg"):
        open_dataset("folder", tmp_path, "train")
    path.write_text(path.read_text().replace("a.jpg", "valid/a.jpg"))
    assert open_dataset("folder", tmp_path, "train").source(0) == tmp_path.resolve() / "valid/a.jpg"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no links here")
def test_a_json_may_be_a_link(tmp_path):
    pytest.importorskip("pycocotools")
    truth, path = coco(tmp_path / "mine"), tmp_path / "mine/train/_annotations.coco.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    np.testing.assert_array_equal(open_dataset("folder", tmp_path / "mine", "train").labels(0), truth)


def test_a_picture_of_coco_does_not_stand_for_two(tmp_path):
    pytest.importorskip("pycocotools")
    images = [{"id": at, "file_name": f"{at}/a.jpg", "height": 8, "width": 10} for at in (5, 6)]
    coco(tmp_path, images=images)
    with pytest.raises(BadData, match=r"train/a\.jpg would be both 5/a and 6/a"):
        open_dataset("folder", tmp_path, "train")


def test_a_test_set_has_the_classes_of_another_splits_json(tmp_path):
    coco(tmp_path)
    trees.picture(tmp_path / "test" / "t.jpg")
    found = open_pictures("folder", tmp_path, "test", Reading())
    assert (len(found), found.key(0), found.classes) == (1, "t", ("background", "cat", "dog"))


def test_faults_of_coco_are_told(tmp_path):
    pytest.importorskip("pycocotools")
    coco(tmp_path, annotations=[{"id": 1, "image_id": 5, "category_id": 9, "segmentation": [[0, 0, 1, 0, 1, 1]]}])
    with pytest.raises(BadData, match="category 9"):
        open_dataset("folder", tmp_path, "train")
    coco(tmp_path, images=[{"id": 5, "file_name": "b.jpg", "height": 8, "width": 10}])
    with pytest.raises(BadData, match="picture b of train is nowhere"):
        open_dataset("folder", tmp_path, "train").check()
