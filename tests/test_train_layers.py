"""Encoders of today in training: frozen layers, rates by layer, and the defaults that they bring along."""

import json

import pytest
import torch
from helpers import tiny_model
from torch import nn

from segfast.create import create_model
from segfast.datasets import open_dataset
from segfast.errors import BadOption
from segfast.model import DropPath
from segfast.train import Running, recipe, train
from segfast.train import precision as precisions
from segfast.train import step as steps
from segfast.train.__main__ import _heading
from segfast.train.build import build_model, encoder_source, save_activations
from segfast.train.data import Augmented, Collate, samples
from segfast.train.layers import groups
from segfast.train.recipes import RECIPES, TODAY
from segfast.train.resume import SETTINGS
from segfast.train.state import LAST
from segfast.train.step import Stepper
from segfast.train.world import World
from segfast.variants import VARIANTS

ALONE = World(0, 1, torch.device("cpu"))
QUIET = Running(device="cpu", workers=0, tensorboard=False)
LATER = sorted({row.kind.name for row in VARIANTS.values()} - {"", "deit"})


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A tiny Segmenter of 3 blocks with LayerScale and registers, as DINOv2 has them."""
    path = tmp_path_factory.mktemp("layers") / "pretrained.safetensors"
    tiny_model(depth=3, layer_scale=True, registers=4, patch_positions=True).save(path)
    return str(path)


def row_of(checkpoint, **changes):
    values = {"crop": 64, "batch": 2, "dropout": 0.3, "drop_path": 0.1, "precision": "fp32", "warmup": 0.0}
    return recipe("shapes", checkpoint=checkpoint, **(values | changes))


def stepper_of(row):
    model, _ = build_model(row, open_dataset("shapes"))
    return Stepper(model, row, ALONE)


def take_step(run, step=0):
    torch.manual_seed(5)
    row = run.recipe
    data = Augmented(open_dataset("shapes", split="train"), row)
    return run.step(Collate(row.crop)([data[sample] for sample in samples(step, 100, row.batch, row.seed)]), step)


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def moved(before, model):
    return {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}


def has_state(run):
    """Names of the parameters that the optimizer keeps something for."""
    return {name for name, parameter in run.model.named_parameters() if parameter in run.optimizer.state}


def test_a_frozen_encoder_neither_moves_nor_drops_nor_keeps_activations(pretrained):
    run = stepper_of(row_of(pretrained, freeze=True))
    before = weights(run.model)
    take_step(run)
    decoder = {name for name in before if name.startswith("decoder.")}
    assert moved(before, run.model) == has_state(run) == decoder
    images = torch.randn(2, 3, 64, 64)
    tokens = run.model.train().encoder(images)
    assert tokens.grad_fn is None
    assert torch.equal(tokens, run.model.eval().encoder(images))


def test_frozen_blocks_are_the_first_and_the_embeddings(pretrained):
    row = row_of(pretrained, freeze_blocks=2)
    run = stepper_of(row)
    before = weights(run.model)
    take_step(run)
    trained = {name for name in before if name.startswith(("decoder.", "encoder.blocks.2.", "encoder.norm."))}
    assert moved(before, run.model) == has_state(run) == trained
    rates = [block.drop_path.rate for block in run.model.encoder.blocks if isinstance(block.drop_path, DropPath)]
    assert rates == pytest.approx([0, 0, row.drop_path])
    dropping = {name: module.p for name, module in run.model.encoder.named_modules() if isinstance(module, nn.Dropout)}
    assert {name for name, rate in dropping.items() if rate} == {
        name for name in dropping if name.startswith("blocks.2.")
    }
    kept = []
    run.model.encoder.blocks[1].register_forward_hook(lambda _, __, tokens: kept.append(tokens.grad_fn))
    run.model(torch.randn(1, 3, 64, 64))
    assert kept == [None]


def test_recomputing_the_activations_of_frozen_blocks_changes_nothing(pretrained):
    runs = [stepper_of(row_of(pretrained, freeze_blocks=1)) for _ in range(2)]
    save_activations(runs[1].model)
    for run in runs:
        take_step(run)
    assert not moved(weights(runs[0].model), runs[1].model)


def test_rates_by_layer(pretrained):
    """By hand: 1e-3 for the decoder, 1e-4 for the last norm, and half of it for each layer before."""
    run = stepper_of(row_of(pretrained, lr=1e-3, encoder_lr=1e-4, layer_decay=0.5))
    assert take_step(run).rate == 1e-3
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    expected = {
        "decoder.": 1e-3, "encoder.norm.": 1e-4, "encoder.blocks.2.": 5e-5, "encoder.blocks.1.": 2.5e-5,
        "encoder.blocks.0.": 1.25e-5, "encoder.patch_embed.": 6.25e-6, "encoder.pos_embed": 6.25e-6,
        "encoder.cls_token": 6.25e-6, "encoder.reg_token": 6.25e-6,
    }  # fmt: skip
    for name, parameter in run.model.named_parameters():
        start = next(start for start in expected if name.startswith(start))
        assert rates[id(parameter)] == pytest.approx(expected[start]), name


def test_one_rate_is_one_group_in_the_model_s_order():
    """As before there were groups: the states of such runs go on."""
    row = recipe("shapes", width=64, depth=1)
    model, _ = build_model(row, open_dataset("shapes"))
    (group,) = groups(model, row)
    assert group["factor"] == 1
    assert list(map(id, group["params"])) == list(map(id, model.parameters()))


def test_a_frozen_run_goes_on_bit_by_bit(tmp_path, pretrained, monkeypatch):
    row = row_of(pretrained, freeze=True, iterations=8, save_every=4, evaluate_every=0, decoder_dropout=0.1)
    assert train(row, None, tmp_path / "whole", QUIET).best > 0
    real, count = steps.pixel_loss, iter(range(100))

    def interrupted(*arguments):
        if next(count) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(steps, "pixel_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(row, None, tmp_path / "again", QUIET)
    monkeypatch.undo()
    # A run that knew nothing of a field had its default.
    settings = json.loads((tmp_path / "again" / SETTINGS).read_text())
    for name in ("freeze_blocks", "encoder_lr", "layer_decay"):
        del settings["recipe"][name]
    (tmp_path / "again" / SETTINGS).write_text(json.dumps(settings))
    assert train(row, None, tmp_path / "again", QUIET).iteration == 8
    assert (tmp_path / "again" / LAST).read_bytes() == (tmp_path / "whole" / LAST).read_bytes()


@pytest.mark.parametrize("kind", LATER)
def test_defaults_of_the_encoders_of_today(kind):
    model = next(name for name, row in VARIANTS.items() if row.kind.name == kind)
    row = recipe("folder", model)
    assert {name: getattr(row, name) for name in TODAY} == dict(TODAY)
    assert encoder_source(row) == VARIANTS[model].encoder
    assert row.crop == VARIANTS[model].window
    words = _heading(row, "folder")
    assert "optimizer adamw, lr 0.001, encoder-lr 3e-05" in words
    assert "precision auto" in words


def test_what_is_said_wins_over_the_encoder_s_defaults(pretrained):
    model, paper = "seg-s-dinov2-14", RECIPES["folder"]
    assert recipe("folder", model, lr=5e-4).lr == 5e-4
    assert recipe("folder", model, optimizer="adamw").schedule == "poly"  # its own way of AdamW, not Appendix A's
    frozen = {name: recipe("folder", name, freeze=True) for name in (model, "seg-s-dinov2-mask-14")}
    assert [(row.lr, row.encoder_lr) for row in frozen.values()] == [(1e-2, None), (1e-3, None)]
    for said in ({"optimizer": "sgd"}, {"encoder": "none"}):
        row = recipe("folder", model, **said)
        assert (row.optimizer, row.lr, row.encoder_lr, row.precision) == ("sgd", paper.lr, None, "fp32")
    assert recipe("folder", "seg-s-16").encoder_lr is None
    assert recipe("folder", checkpoint=pretrained).encoder_lr == 3e-5  # which its file says


def test_crops_are_of_whole_patches_and_windows_overlap_as_the_recipe_s():
    row = recipe("ade20k", "seg-b-dinov2-mask-14")
    assert (row.crop, row.sides, row.image_size) == (518, (518, 518), 518)
    assert recipe("folder", "seg-b-dinov2-14").sides == (518, 480)
    assert recipe("folder", "seg-s-dinov2-14", crop=252).sides == (252, 236)
    assert recipe("cityscapes", crop=256).sides == (256, 171)


def test_an_encoder_at_another_patch(tmp_path):
    """Its weights resampled; crops of whole patches."""
    create_model("seg-ti-16", num_classes=4, image_size=64).save(tmp_path / "pre.safetensors")
    given = {"width": None, "depth": None, "encoder": str(tmp_path / "pre.safetensors"), "patch": 14}
    row = recipe("shapes", "seg-ti-16", **given)
    model, _ = build_model(row, open_dataset("shapes"))
    expected = create_model("seg-ti-16", image_size=98, pretrained=tmp_path / "pre.safetensors", patch=14)
    assert (row.crop, model.config.patch, model.config.grid) == (98, 14, (7, 7))
    assert torch.equal(model.encoder.patch_embed.proj.weight, expected.encoder.patch_embed.proj.weight)
    with pytest.raises(BadOption, match="--patch resamples an encoder's weights"):
        recipe("folder", checkpoint="other.safetensors", patch=32)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"freeze": True, "encoder": "none"}, "--freeze would keep random weights; name an --encoder"),
        ({"freeze_blocks": 2, "encoder": "none"}, "--freeze-blocks would keep random weights"),
        ({"freeze": True, "layer_decay": 0.9}, "--freeze leaves nothing for"),
        ({"freeze": True, "encoder_lr": 1e-5}, "--freeze leaves nothing for"),
        ({"freeze_blocks": -1}, "--freeze-blocks must lie between 0"),
        ({"encoder_lr": 0.0}, "--encoder-lr must lie over 0 .* --freeze keeps the encoder"),
        ({"encoder_lr": -1e-5}, "--encoder-lr must lie over 0"),
        ({"encoder_lr": float("nan")}, "--encoder-lr must lie over 0"),
        ({"encoder_lr": 1e-5, "lr": 0.0}, "--encoder-lr follows the schedule of --lr, which must be over 0"),
        ({"layer_decay": 0.0}, "--layer-decay must lie over 0 and up to 1"),
        ({"layer_decay": 1.1}, "--layer-decay must lie over 0 and up to 1"),
    ],
)
def test_impossible_ways_of_training_an_encoder_are_named(given, words):
    with pytest.raises(BadOption, match=words):
        recipe("folder", "seg-s-dinov2-14", **given)


def test_more_frozen_blocks_than_there_are_leave_nothing(tmp_path, pretrained):
    with pytest.raises(BadOption, match="--freeze-blocks must be at most 3, the blocks of seg-custom"):
        train(row_of(pretrained, freeze_blocks=4), None, tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "expected"), [({"avx512_bf16": True}, "bf16"), ({"avx512f": True}, "fp32"), (None, "fp32")]
)
def test_automatic_precision_is_what_the_cpu_has(monkeypatch, flags, expected):
    monkeypatch.setattr(precisions, "instructions", lambda: flags)
    assert precisions.resolve("auto", ALONE.device) == expected
    assert precisions.resolve("fp16", ALONE.device) == "fp16"
