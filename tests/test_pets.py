"""examples/pets.onnx says cat where there is one, and nowhere else; what it is, it says itself."""

import importlib.util
import json
import re
from functools import lru_cache

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, tiny_model
from PIL import Image

import segfast

EXAMPLES = REPOSITORY / "examples"
PETS = EXAMPLES / "pets.onnx"


@lru_cache
def answer(name):
    return engine().segment(EXAMPLES / name)


@lru_cache
def engine():
    return segfast.Engine(PETS, device="cpu")


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cat_is_a_cat():
    areas = answer("cat.jpg").areas
    assert 0.72 < areas["cat"] < 0.84
    assert areas.get("dog", 0) < 0.01


def test_the_cats_outline_is_the_cats():
    """Points that people see, (row, column): on face, forehead and chest, and beside the animal."""
    labels, cat = answer("cat.jpg").labels, engine().config.classes.index("cat")
    on = [(130, 220), (40, 120), (60, 300), (220, 200), (250, 350)]
    beside = [(50, 10), (20, 440), (150, 430), (200, 430)]
    assert [labels[at] == cat for at in on] == [True] * len(on)
    assert [labels[at] == cat for at in beside] == [False] * len(beside)


@pytest.mark.parametrize("name", ["coffee.jpg", "rocket.jpg"])
def test_what_is_no_pet_is_none(name):
    assert answer(name).areas["background"] > 0.99


def test_the_file_is_small_and_says_what_it_is():
    assert PETS.stat().st_size <= 30_000_000
    provenance = engine().config.provenance
    assert provenance == script("pets_export").CARD
    assert "CC BY-SA 4.0" in provenance["licence"]
    assert "Parkhi" in provenance["attribution"]
    assert "research purposes only" in provenance["data"]
    assert "tuned further" in provenance["start"]
    assert re.search(r"(?<![:/\w])/\w", json.dumps(provenance)) is None  # no path of the machine that trained it
    assert not engine().config.random_weights


def test_a_large_photo_of_the_cat_is_a_cat():
    photo = Image.open(REPOSITORY / "examples" / "cat.jpg")
    large = engine().segment(photo.resize((4 * photo.width, 4 * photo.height)))
    assert large.labels.shape == (4 * photo.height, 4 * photo.width)
    assert abs(large.areas["cat"] - answer("cat.jpg").areas["cat"]) < 0.02


def test_its_commands_are_the_cards():
    card = " ".join((REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8").replace("\\\n", " ").split())
    commands = [command.partition(",")[0] for command in engine().config.provenance["command"].split("; ")]
    assert len(commands) == 5
    assert [command for command in commands if command not in card] == []


def test_the_readmes_picture_is_what_the_command_beside_it_draws():
    path = REPOSITORY / "docs" / "cat-overlay.jpg"
    assert path.stat().st_size < 150_000
    shown, drawn = np.asarray(Image.open(path)).astype(int), np.asarray(answer("cat.jpg").overlay().convert("RGB"))
    assert shown.shape == drawn.shape
    assert np.abs(shown - drawn).mean() < 3


def test_the_mean_of_checkpoints_is_exported_with_the_card(tmp_path, monkeypatch):
    """The mean of a model and of its opposite is zero, so that all scores are alike."""
    model, module = tiny_model(num_classes=3), script("pets_export")
    model.save(tmp_path / "a.safetensors")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    model.save(tmp_path / "b.safetensors")
    names = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "out.onnx")]
    seen = []
    monkeypatch.setattr(module, "export_onnx", lambda mean, out, precision: seen.append((mean, out, precision)))
    monkeypatch.setattr("sys.argv", ["pets_export.py", *names])
    module.main()
    ((mean, out, precision),) = seen
    assert (out, precision) == (names[-1], "fp16")
    assert all(not tensor.any() for tensor in mean.state_dict().values())
    assert (mean.config.provenance, mean.config.palette) == (module.CARD, module.PALETTE)
    assert mean.config.protocol.fit == module.FIT


def test_what_the_model_is_tried_on_is_not_trained_on(tmp_path, monkeypatch, capsys):
    """Copies of the examples in another size and format are left out; pictures without a pet are background as a whole."""
    pets, out, without = tmp_path / "pets", tmp_path / "mixed", tmp_path / "without"
    for folder in (*(pets / kind / split for kind in ("images", "masks") for split in ("train", "val")), without):
        folder.mkdir(parents=True)
    (pets / "classes.txt").write_text("background\ncat\ndog\n")
    noise = (
        np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    )  # [300, 400, 3]
    labels = np.zeros((300, 400), np.uint8)
    labels[100:200, 20:150], labels[95:100, 20:150] = 1, 255
    for split in ("train", "val"):
        Image.fromarray(noise).save(pets / "images" / split / "a.jpg")
        Image.fromarray(labels).save(pets / "masks" / split / "a.png")
    Image.open(EXAMPLES / "cat.jpg").resize((300, 210)).save(without / "copy.png")
    for index in range(2):
        Image.fromarray(np.roll(noise, 40 * index)).resize((800, 600)).save(without / f"{index}.png")
    command = [pets, out, "--without", without, 3, "--beside", 1, "--shapes", 1]
    monkeypatch.setattr("sys.argv", ["pets_data.py", *map(str, command)])
    script("pets_data").main()

    assert "copy.png, which the model is tried on" in capsys.readouterr().out
    names = {path.stem for path in (out / "images" / "train").iterdir()}
    assert names == {"a", "without-0000", "without-0001", "without-0002", "beside-0000", "shapes-0000"}
    for name in names - {"a"}:
        picture, mask = (Image.open(out / kind / "train" / name) for kind, name in _pair(name))
        assert picture.size == mask.size
        assert max(picture.size) <= 512
        assert not np.asarray(mask).any()
    beside = Image.open(out / "images" / "train" / "beside-0000.jpg")
    assert beside.size == (250, 300)  # to the right of the animal
    assert np.abs(np.asarray(beside).astype(int) - noise[:, 150:]).mean() < 15
    assert [path.name for path in (out / "images" / "val").iterdir()] == ["a.jpg"]


def _pair(name):
    return ("images", f"{name}.jpg"), ("masks", f"{name}.png")
