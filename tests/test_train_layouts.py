"""Every dataset in its owner's layout goes through loading, training and evaluation."""

import multiprocessing
from dataclasses import replace

import pytest
import torch
import trees

import segfast
from segfast.datasets import open_dataset
from segfast.errors import BadData, BadImage, BadOption
from segfast.evaluation.evaluate import evaluate
from segfast.train import Running, recipe, train
from segfast.train import loop as loops

QUIET = Running(device="cpu", workers=0, tensorboard=False)
SMALL = {
    "encoder": "none",
    "width": 64,
    "depth": 1,
    "image_size": 40,
    "crop": 32,
    "window": 32,
    "stride": 32,
    "iterations": 2,
    "batch": 2,
}


@pytest.mark.parametrize("name", ["ade20k", "pascal_context", "cityscapes", "folder"])
def test_layouts_are_trained_on(tmp_path, name):
    trees.BUILDERS[name](tmp_path / "data")
    row = recipe(name, "seg-ti-mask-8", **SMALL)
    progress = train(row, tmp_path / "data", tmp_path / "run", QUIET)
    assert progress.iteration == 2
    dataset = open_dataset(name, tmp_path / "data", "val")
    engine = segfast.Engine(tmp_path / "run" / "best.safetensors", device="cpu")
    assert engine.config.classes == dataset.classes
    report = evaluate(engine, dataset, fit=row.fit)
    assert report.miou == pytest.approx(progress.best, abs=1e-6)


def test_the_dataset_is_checked_before_the_first_step(tmp_path):
    root = trees.folder(tmp_path / "data")
    broken = sorted((root / "masks" / "train").iterdir())[0]
    broken.write_bytes(b"no picture")
    with pytest.raises(BadData, match=broken.stem):
        train(recipe("folder", "seg-ti-mask-8", **SMALL), root, tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_damaged_later_is_named(tmp_path, monkeypatch, workers):
    """In one line, as by any command, and not as a worker's traceback."""
    root = trees.folder(tmp_path / "data")
    monkeypatch.setattr(
        loops, "check_data", lambda *_: (root / "images" / "train" / "a.jpg").write_bytes(b"no picture")
    )
    row = recipe("folder", "seg-ti-mask-8", **(SMALL | {"iterations": 3}))
    with pytest.raises(BadImage, match=r"a\.jpg is no picture") as caught:
        train(row, root, tmp_path / "run", replace(QUIET, workers=workers))
    assert len(str(caught.value).splitlines()) == 1
    assert not multiprocessing.active_children()  # which would keep whoever keeps the error from ending


def test_a_share_of_the_dataset(tmp_path):
    """Table 5: training sees that share, evaluation all."""
    trees.BUILDERS["ade20k"](tmp_path / "data")
    row = recipe("ade20k", "seg-ti-mask-8", **SMALL, fraction=0.4)
    train(row, tmp_path / "data", tmp_path / "run", QUIET)
    settings = (tmp_path / "run" / "settings.json").read_text()
    assert '"train": 1,' in settings
    assert '"val": 2' in settings


def test_any_checkpoint_continues_on_another_dataset(tmp_path):
    trees.BUILDERS["cityscapes"](tmp_path / "city")
    train(recipe("cityscapes", "seg-ti-mask-8", **SMALL), tmp_path / "city", tmp_path / "one", QUIET)
    trees.BUILDERS["folder"](tmp_path / "mine")
    start = tmp_path / "one" / "best.safetensors"
    row = recipe("folder", **{**SMALL, "width": None, "depth": None}, checkpoint=str(start))
    train(row, tmp_path / "mine", tmp_path / "two", QUIET)
    old, new = (segfast.load_model(path) for path in (start, tmp_path / "two" / "best.safetensors"))
    assert (old.config.num_classes, new.config.num_classes) == (
        19,
        len(open_dataset("folder", tmp_path / "mine").classes),
    )
    assert not torch.equal(old.encoder.pos_embed, new.encoder.pos_embed)
    assert new.config.provenance["start"] == "best.safetensors"  # not the folder, which is this machine's


@pytest.mark.parametrize(("given", "option"), [({"crop": 9, "window": 32}, "--crop"), ({"window": 12}, "--window")])
def test_a_patch_fits_into_crops_and_windows(tmp_path, given, option):
    trees.BUILDERS["folder"](tmp_path / "mine")
    row = recipe("folder", "seg-ti-mask-16", **(SMALL | {"crop": 32, "stride": None} | given))
    with pytest.raises(BadOption, match=f"{option} must lie between the patch, 16"):
        train(row, tmp_path / "mine", tmp_path / "run", QUIET)
    assert not (tmp_path / "run" / "settings.json").exists()
