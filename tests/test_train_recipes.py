import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import REPOSITORY

from segfast.errors import BadImage, BadOption
from segfast.evaluation.evaluate import RESIZED
from segfast.train.__main__ import _heading
from segfast.train.build import encoder_source
from segfast.train.crops import fitted
from segfast.train.fields import Recipe
from segfast.train.layers import Group
from segfast.train.length import settled
from segfast.train.recipes import EXCEPTIONS, EXPECTED, RECIPES, recipe
from segfast.train.schedule import learning_rate, make_optimizer
from segfast.train.state import Progress
from segfast.variants import VARIANTS

# dataset: iterations, batch, lr, im, crop, stride, max_ratio (section 4.2, and the code where the paper is silent)
PAPER = {
    "ade20k": (160_000, 8, 1e-3, 512, 512, 512, 4),
    "pascal_context": (80_000, 16, 1e-3, 520, 480, 320, 8),
    "cityscapes": (80_000, 8, 1e-2, 1024, 768, 512, 2),
}
FIELDS = ("iterations", "batch", "lr", "image_size", "crop", "stride", "max_ratio")


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_recipes(name):
    row = recipe(name)
    assert tuple(getattr(row, field) for field in FIELDS) == PAPER[name]
    assert (row.optimizer, row.schedule, row.power, row.min_lr, row.warmup) == ("sgd", "poly", 0.9, 1e-5, 0.0)
    assert (row.momentum, row.nesterov, row.weight_decay, row.clip) == (0.9, True, 0.0, None)
    assert (row.dropout, row.drop_path, row.decoder_dropout, row.decoder_depth) == (0.0, 0.1, 0.1, 2)
    assert (row.ratio, row.cat_max_ratio, row.flip) == ((0.5, 2.0), 0.75, 0.5)
    assert (row.brightness, row.contrast, row.saturation, row.hue) == (32, (0.5, 1.5), (0.5, 1.5), 18)
    assert row.precision == "fp32"
    assert row.encoder == "augreg"
    assert row.fit == (RESIZED[name][0] * RESIZED[name][1], RESIZED[name][1])
    assert "Table" in row.source


def test_large_models_are_the_exceptions():
    large = recipe("ade20k", "seg-l-mask-16")
    assert (large.image_size, large.crop, large.sides, large.fit) == (640, 640, (640, 640), (2560, 640))
    assert recipe("cityscapes", "seg-l-mask-16").decoder_depth == 1
    assert recipe("ade20k", "seg-l-16").crop == 512
    assert set(EXCEPTIONS) == {("ade20k", "seg-l-mask-16"), ("cityscapes", "seg-l-mask-16")}


def test_expected_miou_names_the_family():
    assert all(model in VARIANTS for rows in EXPECTED.values() for model in rows)
    assert EXPECTED["ade20k"]["seg-b-mask-16"] == 48.48
    assert EXPECTED["cityscapes"]["seg-l-mask-16"] == 81.3
    assert set(EXPECTED) == set(PAPER)


@pytest.mark.parametrize(("name", "model"), [(name, model) for name, models in EXPECTED.items() for model in models])
def test_every_model_of_the_paper_starts_from_its_own_encoder(name, model):
    """DeiT's too, without another option; and the command says what to expect."""
    row = recipe(name, model)
    assert encoder_source(row) == VARIANTS[model].encoder
    scale = "single-scale" if name == "ade20k" else "multi-scale"
    assert _heading(row, name).endswith(f"the paper has {EXPECTED[name][model]} mIoU for {model}, {scale}")


def test_what_is_said_of_the_encoder_wins():
    assert recipe("ade20k", "seg-b-deit-16", encoder="none").encoder == "none"
    assert recipe("shapes", "seg-b-deit-16").encoder == "none"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_possible_and_frozen(name):
    row = recipe(name)
    assert row == (RECIPES[name] if name != "folder" else recipe(name, "seg-s-dinov2-14"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.lr = 1.0


def test_adamw_brings_cosine_and_warm_up():
    """Table 9's second row, in one option; what is said otherwise wins."""
    scratch = recipe("ade20k", "seg-s-16", encoder="none", optimizer="adamw")
    assert (scratch.schedule, scratch.warmup_iterations, scratch.lr) == ("cosine", 16_000, 1e-3)
    assert recipe("ade20k", optimizer="adamw", schedule="poly", warmup=0.0).schedule == "poly"
    assert recipe("ade20k", "seg-s-16", encoder="none").optimizer == "sgd"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lr", -1.0, "--lr must lie between 0 and 1000"),
        ("lr", math.nan, "--lr"),
        ("min_lr", 1.0, "--min-lr must be at most --lr"),
        ("ratio", (2.0, 0.5), "the lower first"),
        ("crop", 4, "--crop must lie between 8"),
        ("stride", 600, "--stride must be at most the window, 512"),
        ("drop_path", 1.0, "--drop-path"),
        ("fraction", 0.0, "--fraction"),
        ("batch", 0, "--batch"),
        ("optimizer", "adam", "--optimizer must be one of sgd, adamw"),
        ("precision", "int8", "--precision must be one of"),
        ("width", 100, "--width must be a multiple of 64"),
        ("nonsense", 1, "no field nonsense"),
    ],
)
def test_impossible_values_are_named(field, value, words):
    with pytest.raises(BadOption, match=words):
        recipe("ade20k", **{field: value})


def test_unknown_recipes_list_the_near_ones():
    with pytest.raises(BadOption, match="did you mean ade20k"):
        recipe("ade20")


def test_poly_is_the_original_s():
    row = recipe("cityscapes")
    for iteration in (0, 1, 40_000, 79_999):
        assert learning_rate(row, iteration) == pytest.approx((1e-2 - 1e-5) * (1 - iteration / 80_000) ** 0.9 + 1e-5)
    rates = [learning_rate(row, iteration) for iteration in range(0, 80_000, 1000)]
    assert rates[0] == 1e-2
    assert sorted(rates, reverse=True) == rates
    assert rates[-1] > 1e-5


def test_cosine_rises_and_falls():
    row = recipe("ade20k", optimizer="adamw", iterations=1000)
    assert [learning_rate(row, step) for step in (0, 49, 99)] == pytest.approx([1e-5, 5e-4, 1e-3])
    assert learning_rate(row, 100) == pytest.approx(1e-3)
    assert learning_rate(row, 550) == pytest.approx(5e-4)
    assert 0 < learning_rate(row, 999) < 1e-8


def test_sgd_is_nesterov_s():
    """Two steps by hand (Sutskever's form, as in PyTorch): v ← 0.9 v + g; w ← w − lr (g + 0.9 v)."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = make_optimizer(recipe("ade20k", lr=0.1), [Group(params=[weight], factor=1.0)])
    gradients = [torch.tensor([0.5, 1.0]), torch.tensor([-1.0, 0.25])]
    expected, speed = weight.detach().clone(), torch.zeros(2)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        speed = 0.9 * speed + gradient
        expected -= 0.1 * (gradient + 0.9 * speed)
    torch.testing.assert_close(weight.detach(), expected)


def test_adamw_decays_weights_apart_from_the_gradient():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer(
        recipe("ade20k", optimizer="adamw", lr=0.1, weight_decay=0.5), [Group(params=[weight], factor=1.0)]
    )
    weight.grad = torch.zeros(1)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([2.0 * (1 - 0.1 * 0.5)]))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "segfast.train", *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )


def test_every_field_is_an_option():
    text = command("--help").stdout
    hidden = {"dataset", "source", "automatic", "fit_crop"}
    for field in dataclasses.fields(Recipe):
        assert bool(field.metadata.get("fixed")) == (field.name in hidden - {"dataset"})
        if field.name not in hidden:
            assert f"--{field.name.replace('_', '-')}" in text, field.name
    assert "--recipe" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "ade20k", "--out", "x"], "name the folder of ade20k with --data"),
        (["--recipe", "shapes", "--out", "x", "--ratio", "2", "1"], "the lower first"),
        (["--recipe", "shapes", "--out", "x", "--lr", "nan"], "--lr must lie"),
        (["--recipe", "shapes", "--out", "x", "--optimizer", "lion"], "--optimizer must be one of"),
    ],
)
def test_impossible_commands_end_before_anything_is_written(arguments, words, tmp_path):
    ended = command(*arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert not (REPOSITORY / "x").exists()


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("ade20k", {"crop": 256}, {"sides": (256, 256)}),
        ("cityscapes", {"crop": 384}, {"sides": (384, 256)}),
        ("folder", {"crop": 256}, {"sides": (256, 240)}),
        ("folder", {"window": 256}, {"sides": (256, 240), "crop": 518}),
        ("pascal_context", {"crop": 240, "stride": 100}, {"sides": (240, 100)}),
        ("ade20k", {"lr": 1e-6}, {"min_lr": 1e-8}),
        ("ade20k", {"lr": 5e-3}, {"min_lr": 1e-5}),
        ("ade20k", {"momentum": 0.0}, {"nesterov": False}),
        ("folder", {"width": 128}, {"encoder": "none"}),
        ("shapes", {"encoder": "augreg"}, {"width": None, "depth": None}),
        ("ade20k", {"epochs": 3.0}, {"iterations": 0}),
    ],
)
def test_what_was_not_given_yields(name, given, expected):
    row = recipe(name, **given)
    for field, value in expected.items():
        found = getattr(row, field)
        assert found == (pytest.approx(value) if isinstance(value, float) else value), field


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"momentum": 0.0, "nesterov": True, "optimizer": "sgd"}, "--no-nesterov"),
        ({"crop": 256, "stride": 300}, "--stride must be at most the window, 256"),
        ({"iterations": 5, "epochs": 2.0}, "give one of them"),
        ({"class_weights": "1,two"}, "--class-weights must be inverse"),
        ({"class_weights": "0,0"}, "--class-weights must be inverse"),
    ],
)
def test_what_was_given_does_not_yield(given, words):
    with pytest.raises(BadOption, match=words):
        recipe("folder", **given)


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        ({}, 10, (300, 30)),  # a small set needs so many steps
        ({}, 509, (509, 51)),  # 8 epochs
        ({}, 100_000, (20_000, 2000)),
        ({"encoder": "augreg"}, 10, (1000, 100)),
        ({"encoder": "augreg"}, 509, (4072, 408)),  # the paper's 64 epochs
        ({"encoder": "augreg"}, 10_000, (20_000, 2000)),
        ({"epochs": 10.0}, 21, (27, 3)),  # the last batch of 8 begins another epoch
        ({"iterations": 50, "evaluate_every": 7}, 21, (50, 7)),
    ],
)
def test_a_run_s_length_fits_the_set(given, size, expected):
    row = settled(recipe("folder", **given), size)
    assert (row.iterations, row.evaluate_every) == expected
    assert settled(recipe("ade20k"), size).iterations == 160_000


@pytest.mark.parametrize(
    ("given", "model", "encoder"),
    [
        ({}, "seg-s-dinov2-14", "dinov2"),
        ({"freeze": True}, "seg-s-dinov2-14", "dinov2"),
        ({"encoder": "mine.safetensors"}, "seg-s-dinov2-14", "mine.safetensors"),
        ({"encoder": "orig"}, "seg-b-mask-16", "orig"),
        ({"encoder": "none"}, "seg-b-mask-16", "none"),
        ({"checkpoint": "best.pth"}, None, "augreg"),
    ],
)
def test_a_folder_s_model_goes_with_the_weights_asked_for(given, model, encoder):
    row = recipe("folder", **given)
    assert (row.model, row.encoder) == (model, encoder)


class Sized:
    """Pictures of given sizes; one of None cannot be read."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def image(self, index):
        if self.sizes[index] is None:
            raise BadImage("it is damaged")
        return np.zeros((*self.sizes[index], 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "sizes", "expected"),
    [
        ({}, [(500, 340), (341, 500), (900, 20)], (350, 324)),  # the median's whole patches of 14
        ({"encoder": "none"}, [(340, 500)], (352, 330)),  # of 16
        ({}, [(30, 40)], (224, 208)),  # ImageNet's
        ({}, [(3000, 4000)], (518, 480)),
        ({}, [None, (280, 280), None], (280, 259)),
        ({}, [None], (518, 480)),
        ({}, [(280, 280)] * 1000 + [None] * 10, (280, 259)),  # which are not all looked at
        ({"image_size": 280}, [(3000, 4000)], (280, 259)),
        ({"crop": 504}, [(30, 40)], (504, 472)),
        ({"window": 504}, [(30, 40)], (504, 472)),
    ],
)
def test_crops_fit_the_pictures_unless_one_is_said(given, sizes, expected):
    row = fitted(recipe("folder", **given), Sized(*sizes))
    assert (row.sides, row.fit_crop) == (expected, 0)
    assert fitted(recipe("ade20k"), Sized(*sizes)) == recipe("ade20k")


def test_epochs_count_pictures_where_the_batch_changes():
    """Half of 10 epochs of 80 pictures in batches of 8, the rest in batches of 4."""
    progress = Progress(iteration=50, seen=400)
    assert settled(recipe("folder", epochs=10.0), 80, progress).iterations == 100
    assert settled(recipe("folder", epochs=10.0, batch=4), 80, progress).iterations == 150
