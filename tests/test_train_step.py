"""One step: the loss by definition, and the same step however its images are divided."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import REPOSITORY, tiny_model
from torch import nn

from segfast.create import create_model
from segfast.datasets import open_dataset
from segfast.datasets.shapes import CLASSES, PALETTE
from segfast.errors import BadModel, BadOption, NotSupported
from segfast.kernels import attention, reference
from segfast.model import Attention, DropPath, Segmenter
from segfast.train import loss as losses
from segfast.train import state
from segfast.train.attend import cpu_attention
from segfast.train.build import build_model, encoder_source, save_activations, set_attention
from segfast.train.data import Augmented, Batch, Collate, samples
from segfast.train.loss import pixel_loss, plain_pixel_loss
from segfast.train.recipes import recipe
from segfast.train.running import Running
from segfast.train.step import Stepper
from segfast.train.world import World

ALONE = World(0, 1, torch.device("cpu"))
# fp32: sums over 8 × 96² pixels in another order.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def small(**changes):
    values = {"width": 64, "depth": 2, "batch": 8, "drop_path": 0.0, "decoder_dropout": 0.0}
    return recipe("shapes", **(values | changes))


def stepper(row, world=ALONE, **options):
    model, _ = build_model(row, open_dataset("shapes"))
    return Stepper(model, row, world, **options)


def batch_of(row, step=0, share=slice(None)):
    """A batch with unequal counts of valid pixels: small crops leave padding."""
    data = Augmented(open_dataset("shapes", split="train"), replace(row, ratio=(0.3, 1.2)))
    return Collate(row.crop)([data[sample] for sample in samples(step, 100, row.batch, row.seed)[share]])


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(ours, theirs, **tolerance):
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("chunk", [1, 1 << 28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lean_loss_is_the_plain_one(monkeypatch, chunk, dtype):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    torch.manual_seed(0)
    model = tiny_model(patch=16)
    labels = torch.randint(0, 7, (3, 40, 56), dtype=torch.uint8)
    labels[torch.rand(labels.shape) < 0.2] = 255
    logits = [
        torch.randn(3, 7, 3, 4, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_() for _ in "ab"
    ]
    lean, plain = (f(x, labels, model.enlarge) for f, x in zip((pixel_loss, plain_pixel_loss), logits, strict=True))
    torch.testing.assert_close(lean, plain)
    for value in (lean, plain):
        (value * 0.37).backward()
    assert logits[0].grad.dtype == dtype
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}
    )  # sums of 256 gradients, in another order
    torch.testing.assert_close(logits[0].grad, logits[1].grad, **tolerance)


def test_a_batch_without_labels_changes_nothing_but_decay():
    row = small(weight_decay=0.0)
    run = stepper(row)
    before = weights(run.model)
    batch = batch_of(row)
    outcome = run.step(Batch(batch.images, torch.full_like(batch.labels, 255), batch.sizes), 0)
    assert outcome.loss == 0
    assert outcome.taken
    assert_same(weights(run.model), before, rtol=0, atol=0)


def test_the_loss_is_the_mean_over_valid_pixels():
    row = small()
    run, batch = stepper(row), batch_of(small())
    images = (batch.images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    for image, (h, w) in zip(images, batch.sizes.tolist(), strict=True):
        image[:, h:], image[:, :, w:] = 0, 0
    with torch.no_grad():
        expected = nn.functional.cross_entropy(run.model(images), batch.labels.long(), ignore_index=255)
    assert run.step(batch, 0).loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_gives_the_same_steps(accumulate):
    row = small(optimizer="sgd", lr=0.05, min_lr=0.0, momentum=0.9, warmup=0.0, clip=None)
    runs = [stepper(row), stepper(row, accumulate=accumulate)]
    for step in range(2):
        first, second = (run.step(batch_of(row, step), step) for run in runs)
        assert second.loss == pytest.approx(first.loss, rel=1e-5)
    assert_same(weights(runs[1].model), weights(runs[0].model), **CLOSE)


def _ranked(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    row = small(optimizer="sgd", lr=0.05, min_lr=0.0, warmup=0.0, clip=None)
    run = stepper(row, World(rank, size, torch.device("cpu")), accumulate=2)
    share = row.batch // size
    outcomes = [run.step(batch_of(row, step, slice(rank * share, (rank + 1) * share)), step) for step in range(2)]
    if rank == 0:
        torch.save((weights(run.model), [outcome.loss for outcome in outcomes]), f"{folder}/result.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_steps_of_one(tmp_path, monkeypatch):
    """2 × 4 images, in two micro-batches each, as 1 × 8."""
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    mp.spawn(_ranked, (2, str(tmp_path)), nprocs=2)  # a fork would inherit the threads of autograd, but not their work
    row = small(optimizer="sgd", lr=0.05, min_lr=0.0, warmup=0.0, clip=None)
    run = stepper(row)
    expected = [run.step(batch_of(row, step), step).loss for step in range(2)]
    theirs, found = torch.load(tmp_path / "result.pt")
    assert found == pytest.approx(expected, rel=1e-5)
    assert_same(theirs, weights(run.model), **CLOSE)


def test_recomputing_activations_changes_nothing():
    row = small(drop_path=0.2, dropout=0.1)
    runs = [stepper(row), stepper(row)]
    save_activations(runs[1].model)
    for run in runs:
        torch.manual_seed(5)
        run.step(batch_of(row), 0)
    assert_same(weights(runs[1].model), weights(runs[0].model), rtol=0, atol=0)


def test_activations_are_recomputed_for_a_gradient_alone(monkeypatch):
    """An evaluation's Engine may capture its copy as a CUDA graph, which random states that are kept would end."""
    model, _ = build_model(small(), open_dataset("shapes"))
    save_activations(model)
    calls = []
    monkeypatch.setattr(
        "segfast.train.build.checkpoint", lambda forward, *given, **_: (calls.append(1), forward(*given))[1]
    )
    with torch.no_grad():
        model(torch.zeros(1, 3, 96, 96))
    assert not calls
    model(torch.zeros(1, 3, 96, 96))
    assert len(calls) == 2  # blocks


def test_clipping_bounds_the_step():
    row = small(
        optimizer="sgd", lr=1.0, min_lr=0.0, momentum=0.0, nesterov=False, warmup=0.0, clip=0.01, weight_decay=0.0
    )
    run = stepper(row)
    before = weights(run.model)
    outcome = run.step(batch_of(row), 0)
    moved = math.sqrt(sum(float((tensor - before[name]).square().sum()) for name, tensor in weights(run.model).items()))
    assert outcome.norm > 0.01
    assert moved == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_nearly_the_same(precision):
    """Within 2 %, once fp16's loss is scaled to fit: until then its steps are left out."""
    found = {}
    for kind in ("fp32", precision):
        run = stepper(small(precision=kind, warmup=0.0))
        while kind == "fp16":
            before = run.scaler.get_scale(), weights(run.model)
            run.step(batch_of(run.recipe), 0)
            if run.scaler.get_scale() == before[0]:
                run.model.load_state_dict(before[1])
                run.optimizer.state.clear()
                break
            assert_same(weights(run.model), before[1], rtol=0, atol=0)
        found[kind] = [run.step(batch_of(run.recipe, step), step).loss for step in range(3)]
        assert all(p.dtype == torch.float32 for p in run.model.parameters())
    np.testing.assert_allclose(found[precision], found["fp32"], rtol=0.02)


def test_a_loss_that_is_no_number_changes_nothing():
    row = small()
    run = stepper(row)
    run.step(batch_of(row), 0)
    with torch.no_grad():
        run.model.decoder.mask_norm.bias[0] = math.nan
    before = weights(run.model)
    outcome = run.step(batch_of(row, 1), 1)
    assert not outcome.taken
    assert math.isnan(outcome.loss)
    assert_same(weights(run.model), before, rtol=0, atol=0, equal_nan=True)


def test_training_mode_drops_what_the_original_drops():
    """Stochastic depth on both branches, growing to its rate; dropout behind the embedding, on attention and MLP."""
    row = recipe("shapes", depth=3, width=64, drop_path=0.2, dropout=0.3, decoder_dropout=0.4, decoder_depth=2)
    model, _ = build_model(row, open_dataset("shapes"))
    assert model.training
    assert [block.drop_path.rate for block in model.encoder.blocks] == pytest.approx([0, 0.1, 0.2])
    assert [block.drop_path.rate for block in model.decoder.blocks] == [0, 0]
    encoder = {module.p for module in model.encoder.modules() if isinstance(module, nn.Dropout)}
    decoder = {module.p for module in model.decoder.modules() if isinstance(module, nn.Dropout)}
    assert (encoder, decoder) == ({0.3}, {0.4})
    block = model.encoder.blocks[2]
    calls = []
    block.drop_path.register_forward_hook(lambda *_: calls.append(1))
    block(torch.randn(2, 5, 64))
    assert len(calls) == 2


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25).train()
    torch.manual_seed(0)
    kept = drop(torch.ones(4000, 3, 2))
    per_sample = kept.reshape(4000, -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert sorted(set(per_sample[:, 0].tolist())) == pytest.approx([0, 1 / 0.75])
    assert kept.mean() == pytest.approx(1, abs=0.03)


def test_from_scratch_weights_are_the_seed_s():
    one, other, third = (build_model(small(seed=seed), open_dataset("shapes"))[0] for seed in (0, 0, 1))
    assert_same(weights(one), weights(other), rtol=0, atol=0)
    assert not torch.equal(one.encoder.pos_embed, third.encoder.pos_embed)
    assert one.config.name == "seg-custom-mask-8"
    assert (one.config.classes, one.config.palette) == (CLASSES, PALETTE)


@pytest.mark.parametrize(
    ("model", "encoder", "source"),
    [
        ("seg-b-mask-16", "augreg", "vit_base_patch16_384.augreg_in21k_ft_in1k"),
        ("seg-b-mask-16", "orig", "vit_base_patch16_384.orig_in21k_ft_in1k"),
        ("seg-b-deit-mask-16", "deit", "deit_base_distilled_patch16_384.fb_in1k"),
        ("seg-b-16", "deit", "deit_base_patch16_384.fb_in1k"),
        ("seg-b-16", "vit_base_patch16_224.dino", "vit_base_patch16_224.dino"),
        ("seg-b-16", "none", None),
    ],
)
def test_encoders_by_word(model, encoder, source):
    assert encoder_source(recipe("ade20k", model, encoder=encoder)) == source


def test_encoders_that_do_not_exist_are_refused():
    with pytest.raises(BadOption, match="no orig encoder weights for seg-s-16"):
        encoder_source(recipe("ade20k", "seg-s-16", encoder="orig"))
    with pytest.raises(BadOption, match="--encoder none"):
        build_model(recipe("shapes", "seg-ti-mask-16", encoder="augreg", width=64), open_dataset("shapes"))


def test_an_encoder_s_file_is_loaded_and_resampled(tmp_path):
    torch.manual_seed(3)
    create_model("seg-ti-16", num_classes=4, image_size=64).save(tmp_path / "pre.safetensors")
    row = recipe("shapes", "seg-ti-mask-16", encoder=str(tmp_path / "pre.safetensors"), width=None, depth=None)
    model, _ = build_model(row, open_dataset("shapes"))
    again = create_model("seg-ti-16", num_classes=4, image_size=96, pretrained=tmp_path / "pre.safetensors")
    assert model.encoder.pos_embed.shape == (1, 37, 192)  # 4 × 4 → 6 × 6 patches
    assert_same(weights(model.encoder), weights(again.encoder), rtol=0, atol=0)
    assert (model.config.decoder_depth, len(model.decoder.blocks)) == (1, 1)


def test_a_checkpoint_gets_a_new_head_loudly(tmp_path):
    old = tiny_model(seed=4)
    old.save(tmp_path / "old.safetensors")
    row = recipe("shapes", checkpoint=str(tmp_path / "old.safetensors"))
    model, notes = build_model(row, open_dataset("shapes"))
    assert any(note.startswith("ATTENTION") and "7 classes, shapes 5" in note for note in notes)
    assert model.decoder.cls_emb.shape == (1, 5, 64)
    torch.testing.assert_close(model.encoder.blocks[1].mlp.fc1.weight, old.encoder.blocks[1].mlp.fc1.weight)
    assert model.encoder.pos_embed.shape == (1, 37, 64)
    assert model.config.protocol.window == (96, 96)
    kept = tiny_model(seed=4, num_classes=5)
    kept.save(tmp_path / "kept.safetensors")
    model, notes = build_model(replace(row, checkpoint=str(tmp_path / "kept.safetensors")), open_dataset("shapes"))
    torch.testing.assert_close(model.decoder.cls_emb, kept.decoder.cls_emb)
    assert "other names" in " ".join(notes)


def test_attention_is_chosen():
    model = Segmenter(tiny_model().config).eval()
    image = torch.randn(1, 3, 64, 64)
    expected = model(image)
    set_attention(model, "sdpa", torch.device("cpu"))
    torch.testing.assert_close(model(image), expected)
    with pytest.raises(NotSupported, match="needs an NVIDIA GPU"):
        set_attention(model, "triton", torch.device("cpu"))
    with pytest.raises(BadOption, match="--attention"):
        set_attention(model, "quick", torch.device("cpu"))


def test_training_on_a_gpu_starts_with_what_was_measured():
    """Which is the engine's own choice: the table, whose answer without measurements is PyTorch's attention."""
    model = tiny_model()
    set_attention(model, "auto", torch.device("cuda"))
    assert all(module.attend is attention for module in model.modules() if isinstance(module, Attention))


@pytest.mark.parametrize("tokens", [37, 700])
def test_attention_of_training_on_cpus_is_attention(tokens):
    """In bf16 within its rounding, 2^-8, of fp32; gradients too."""
    torch.manual_seed(0)
    qkv = torch.randn(2, tokens, 3, 2, 64, dtype=torch.bfloat16).requires_grad_()
    wide = qkv.detach().float().requires_grad_()
    outer = torch.randn(2, tokens, 2, 64)
    found, expected = cpu_attention(*qkv.unbind(2)), reference.attention(*wide.unbind(2))
    found.backward(outer.bfloat16())
    expected.backward(outer)
    for ours, theirs in ((found, expected), (qkv.grad, wide.grad)):
        assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize(
    ("changes", "size", "words"),
    [
        ({"accumulate": 3}, 1, "does not divide into 1 processes × 3"),
        ({}, 3, "does not divide into 3 processes"),
        ({"workers": -1}, 1, "--workers"),
        ({"threads": 0}, 1, "--threads"),
        ({"log_every": 0}, 1, "--log-every"),
    ],
)
def test_impossible_ways_of_running(changes, size, words):
    with pytest.raises(BadOption, match=words):
        Running(**changes).check(small(), size)


def test_a_state_is_whole_or_refused(tmp_path):
    row = small(optimizer="adamw")
    run = stepper(row)
    run.step(batch_of(row), 0)
    progress = state.Progress(iteration=1, best=0.5, best_iteration=1)
    for number in (1, 2):
        progress.iteration = number
        state.save(tmp_path, progress, run.model, run.optimizer, [state.random_states(ALONE.device)])
    assert [state._read(tmp_path / name)[0].iteration for name in (state.LAST, state.OLDER)] == [2, 1]
    content = bytearray((tmp_path / state.LAST).read_bytes())
    content[-100] ^= 1  # one bit of one weight
    (tmp_path / state.LAST).write_bytes(content)
    found, tensors, notes = state.load(tmp_path)
    assert found.iteration == 1
    assert "checksum" in notes[0]
    other = stepper(row)
    state.restore(tensors, other.model, other.optimizer)
    assert_same(weights(other.model), weights(run.model), rtol=0, atol=0)
    ours, theirs = (r.optimizer.state_dict()["state"] for r in (other, run))
    assert all(torch.equal(ours[i][key], theirs[i][key]) for i in theirs for key in theirs[i])
    (tmp_path / state.OLDER).write_bytes(content[:1000])
    with pytest.raises(BadModel, match="no state of this run is whole"):
        state.load(tmp_path)
    assert state.load(tmp_path / "nothing") is None


def test_a_cudnn_that_is_wrong_is_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    with pytest.raises(BadOption, match=r"17 and 23 tokens.*use --attention auto"):
        set_attention(tiny_model(), "cudnn", torch.device("cuda"))
