"""How runs end, go on and are started: owners, launchers, queues, fingerprints, and what went wrong said in our words."""

import errno
import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from segfast.datasets import Reading, open_dataset
from segfast.errors import BadOption, MissingRuntime, TrainingFailed
from segfast.evaluation.metrics import scores
from segfast.evaluation.predictions import CITYSCAPES, Predictions
from segfast.train.augment import generator, turned
from segfast.train.fingerprint import fingerprint
from segfast.train.frequency import inverse
from segfast.train.launch import Place, place
from segfast.train.loss import Terms, dice_loss, pixel_loss, plain_pixel_loss
from segfast.train.owner import owned
from segfast.train.recipes import recipe
from segfast.train.record import at_most
from segfast.train.resume import agree, settings_of, write_settings
from segfast.train.troubles import explained
from segfast.train.workers import _cause, queue
from segfast.train.world import World

ALONE = World(0, 1, torch.device("cpu"))


def test_a_run_has_one_owner(tmp_path):
    folder = tmp_path / "a" / "run"
    with owned(folder), pytest.raises(BadOption, match=r"in use by process \d+ on .*, since"), owned(folder):
        pass
    assert not (tmp_path / "a").exists()  # nothing was written
    with owned(folder):
        (folder / "x").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place()),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, Place(1, 2, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Place()),
        (
            {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7"},
            Place(1, 2, 0, "127.0.0.1:20049"),
        ),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, Place(1, 2, 1, "127.0.0.1:20000")),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Place()),
    ],
)  # fmt: skip
def test_a_process_knows_its_place(environment, expected):
    assert place(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NNODES": "2"},
    ],
)
def test_processes_that_cannot_meet_are_told_of_torchrun(environment):
    with pytest.raises(BadOption, match="torchrun --nproc-per-node"):
        place(environment)


def test_the_queue_fits_into_shared_memory():
    row = recipe("cityscapes")  # a batch takes 18.9 MB
    assert queue(row, ALONE, 1, free=10**9)[:2] == (1, 4)
    assert queue(row, ALONE, 1, free=64 << 20)[:2] == (1, 1)
    assert queue(row, ALONE, 4, free=100_000_000)[:2] == (3, 1)
    none = queue(row, ALONE, 4, free=40_000_000)
    assert none.workers == 0
    assert "--shm-size" in none.notes[0]


def test_dead_workers_have_a_cause():
    assert "killed" in _cause(-signal.SIGKILL)
    assert "--shm-size" in _cause(errno.ENOSPC)
    assert "exit code 3" in _cause(3)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), TrainingFailed, "--accumulate.*--save-activations.*--batch"),
        (MemoryError(), TrainingFailed, "--accumulate"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), TrainingFailed, "--accumulate"),
        (RuntimeError("No working C++ compiler found in x"), MissingRuntime, "--compile"),
        (RuntimeError("CUDA error: device-side assert"), TrainingFailed, "GPU failed"),
    ],
)
def test_troubles_have_remedies(error, kind, words):
    found = explained(error)
    assert type(found) is kind
    assert __import__("re").search(words, str(found))


def test_what_is_no_trouble_stays_what_it_is():
    assert explained(RuntimeError("shapes differ")) is None


def folder(root):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "images" / split / "a.png")
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(root / "masks" / split / "a.png")
    (root / "classes.txt").write_text("one\ntwo\n")
    return [open_dataset("folder", root, split) for split in ("train", "val")]


def test_changed_masks_are_noticed_and_copies_are_not(tmp_path):
    train, _ = folder(tmp_path / "one")
    copy, _ = folder(tmp_path / "two")
    assert fingerprint(train) == fingerprint(copy)
    Image.fromarray(1 - np.eye(8, dtype=np.uint8)).save(tmp_path / "two" / "masks" / "train" / "a.png")
    assert fingerprint(train) != fingerprint(copy)


def test_changed_colours_of_classes_are_noticed(tmp_path):
    """The masks stay as they are, and stand for other classes."""
    folder(tmp_path)
    found = []
    for text in ("one 0 0 0\ntwo 1 1 1\n", "one 1 1 1\ntwo 0 0 0\n"):
        (tmp_path / "classes.txt").write_text(text)
        found.append(fingerprint(open_dataset("folder", tmp_path, "train")))
    assert found[0] != found[1]


def test_a_changed_map_is_noticed(tmp_path):
    """Of the same name, that leaves classes of the same names."""
    folder(tmp_path)
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n")
    found, classes, reading = [], [], Reading(map=str(tmp_path / "map.txt"))
    for text in ("three: one\n", "three: two\n"):
        (tmp_path / "map.txt").write_text(text)
        dataset = open_dataset("folder", tmp_path, "train", reading=reading)
        found.append(fingerprint(dataset))
        classes.append(dataset.classes)
    assert classes[0] == classes[1]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "change",
    [
        {"segmentation": [[1, 1, 6, 1, 6, 7]]},
        {"category_id": 2},
        {"iscrowd": 1},
        {"image_id": 1},
    ],
)
def test_edited_annotations_of_coco_are_noticed(tmp_path, change):
    pytest.importorskip("pycocotools")
    (tmp_path / "train").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "train" / f"{name}.png")
    region = {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [[1, 1, 7, 1, 7, 7]]}
    images = [{"id": at, "file_name": f"{name}.png", "height": 8, "width": 8} for at, name in enumerate("ab")]
    data = {"images": images, "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]}
    found = []
    for one in (region, region | {"id": 9}, region | change):  # an id says nothing
        (tmp_path / "train.json").write_text(json.dumps(data | {"annotations": [one]}))
        found.append(fingerprint(open_dataset("folder", tmp_path, "train")))
    assert found[0] == found[1] != found[2]


def test_settings_that_an_older_version_did_not_write_are_the_default(tmp_path):
    sets, run = folder(tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    settings = settings_of(recipe("folder"), *sets)
    write_settings(run, settings)
    old = json.loads((run / "settings.json").read_text())
    for name in ("dice", "stride", "class_weights"):
        del old["recipe"][name]
    del old["data"]["train_files"]
    write_settings(run, old)
    (run / "best.safetensors").write_bytes(b"x")
    assert agree(run, settings)
    assert agree(run, settings_of(recipe("folder", batch=2, iterations=9, patience=3), *sets))
    with pytest.raises(BadOption, match=r"dice is 0\.5, there it was not set; .*--checkpoint .*best\.safetensors"):
        agree(run, settings_of(recipe("folder", dice=0.5), *sets))


def test_dice_by_hand():
    """Two pixels of class 0, one of class 1, one ignored; all shares one half: Dice is 2·1/(1.5+2) and 2·0.5/(1.5+1)."""
    labels = torch.tensor([[[0, 0], [1, 255]]], dtype=torch.uint8)
    expected = 1 - (2 / 3.5 + 1 / 2.5) / 2
    assert dice_loss(torch.zeros(1, 2, 2, 2), labels).item() == pytest.approx(expected)


def test_weights_and_dice_have_the_gradient_of_the_plain_loss(monkeypatch):
    monkeypatch.setattr("segfast.train.loss.CHUNK", 1)  # an image at a time
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 4, 5, 5, generator=random), torch.randint(0, 4, (3, 5, 5), generator=random)
    terms = Terms(torch.tensor([1.0, 0.5, 2.0, 0.0]), torch.tensor(7.0))
    values, slopes = [], []
    for loss in (pixel_loss, plain_pixel_loss):
        given = logits.clone().requires_grad_()
        value = loss(given, labels.to(torch.uint8), lambda x, _: x, terms)
        value.backward()
        values.append(value.detach())
        slopes.append(given.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*slopes)


def test_inverse_frequency_is_1_on_the_mean_pixel():
    weights = inverse(np.array([90, 10, 0]))
    assert weights == pytest.approx([1 / 1.8, 5.0, 1.0])
    assert (np.array([0.9, 0.1, 0]) * weights).sum() == pytest.approx(1)


def test_turns_move_picture_and_labels_alike():
    labels = np.random.default_rng(0).integers(0, 3, (12, 12), np.uint8)
    image = np.repeat(labels[..., None] * 40, 3, -1)
    row = replace(recipe("folder"), vertical_flip=1.0, quarter_turns=1.0)
    for key in range(4):
        picture, truth = turned(image, labels, row, generator(0, key))
        assert (picture[..., 0] == truth * 40).all()
        assert (truth != labels).any()
    _, truth = turned(image, labels, replace(recipe("folder"), rotate=45.0), generator(0, 1))
    assert truth.shape == (12, 12)
    assert truth[0, 0] == 255
    random = generator(0, 1)
    turned(image, labels, recipe("folder"), random)
    assert random.random() == generator(0, 1).random()  # the paper's recipes draw nothing for it


def test_f1_precision_and_recall_by_hand():
    found = scores(np.array([[6, 2], [1, 3]]))
    assert found.per_class_precision == pytest.approx((6 / 7, 3 / 5))
    assert found.per_class_recall == pytest.approx((6 / 8, 3 / 4))
    assert found.per_class_f1 == pytest.approx((12 / 15, 6 / 9))
    assert found.dice == found.f1 == pytest.approx((12 / 15 + 6 / 9) / 2)


def test_submission_files(tmp_path):
    train, _ = folder(tmp_path / "data")
    Predictions(train, tmp_path / "index").check()(0, np.array([[0, 1]], np.int64))
    assert np.asarray(Image.open(tmp_path / "index" / "a.png")).tolist() == [[0, 1]]
    Predictions(train, tmp_path / "ade", "ade20k")(0, np.array([[0, 149]], np.int64))
    assert np.asarray(Image.open(tmp_path / "ade" / "a.png")).tolist() == [[1, 150]]
    city = Predictions(train, tmp_path / "city", "cityscapes")
    city(0, np.arange(19)[None])
    assert np.asarray(Image.open(city.path(0))).tolist() == [list(CITYSCAPES)]
    with pytest.raises(BadOption, match="19 classes, and there are 2"):
        city.check()


def test_pictures_for_tensorboard_are_small():
    assert at_most(np.zeros((3000, 12000, 3), np.uint8), 1000).shape == (250, 1000, 3)
    assert at_most(np.zeros((30, 120, 3), np.uint8), 1000).shape == (30, 120, 3)
