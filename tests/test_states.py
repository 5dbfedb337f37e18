"""Checkpoints as training scripts leave them: the same model under wrappers, words and beside averages."""

import re
import shutil

import pytest
import torch
from helpers import reference, tiny_model

import segfast
from segfast.errors import BadModel


@pytest.fixture(scope="module")
def state():
    return torch.load(reference("official/linear-8") / "checkpoint.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def expected():
    return segfast.load_model(reference("official/linear-8") / "checkpoint.pth")


def write(folder, content):
    shutil.copy(reference("official/linear-8") / "variant.yml", folder)
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def under(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def others(state):
    """Weights of another state of the training."""
    return {name: tensor + 1 for name, tensor in state.items()}


def same(model, expected):
    return all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


WRAPPED = {
    "compiled": lambda s: {"model": under("_orig_mod.", s)},
    "parallel": lambda s: {"model": under("module.", s)},
    "compiled in parallel": lambda s: {"model": under("module._orig_mod.", s)},
    "parallel, compiled": lambda s: {"model": under("_orig_mod.module.", s)},
    "twice parallel": lambda s: {"model": under("module.module.", s)},
    "compiled encoder": lambda s: {
        "model": {re.sub(r"^encoder\.", "encoder._orig_mod.", name): t for name, t in s.items()}
    },
    "recomputed blocks": lambda s: {
        "model": {re.sub(r"(blocks\.\d)", r"\1._checkpoint_wrapped_module", name): t for name, t in s.items()}
    },
    "sharded": lambda s: {"model": under("_fsdp_wrapped_module.", s)},
    "a framework's": lambda s: {"state_dict": under("model.", s), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "a framework's, compiled": lambda s: {"state_dict": under("model._orig_mod.", s)},
    "a net": lambda s: {"state_dict": under("net.", s)},
    "a bare state": lambda s: dict(s),
    "a bare state of a wrapper": lambda s: under("model.", s),
    "words below words": lambda s: {"model": {"state_dict": under("net.", s)}},
    "another word": lambda s: {
        "model_state_dict": s,
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}},
    },
    "of DeepSpeed": lambda s: {"module": s},
    "with a loss and scores": lambda s: {
        "state_dict": {
            **under("model.", s),
            "criterion.weight": torch.ones(5),
            "val_metrics.confusion": torch.zeros(5, 5),
        }
    },
    "averages alone": lambda s: {"model_ema": under("module.", s)},
    "averages of timm alone": lambda s: {"state_dict_ema": s},
    "averages by PyTorch": lambda s: {"model": {**under("module.", s), "n_averaged": torch.tensor(3)}},
    "beside averages": lambda s: {"ema": others(s), "model": s},
    "beside averages of a wrapper": lambda s: {
        "state_dict": s,
        "ema_state_dict": {**under("module.", others(s)), "steps": torch.tensor(3)},
    },
    "averages in one dictionary": lambda s: {
        "state_dict": {**under("model.", s), **under("model_ema.module.", others(s))}
    },
    "twice the same": lambda s: {"model": s, "state_dict": s},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers_are_taken_off(tmp_path, state, expected, case):
    assert same(segfast.load_model(write(tmp_path, WRAPPED[case](state))), expected)


def test_what_was_not_taken_is_said(tmp_path, state, expected):
    provenance = segfast.load_model(write(tmp_path, {"model": state, "model_ema": others(state)})).config.provenance
    assert provenance["tensors"] == "model; not model_ema"
    assert "tensors" not in expected.config.provenance


UNCLEAR = {
    "a word that is not known": (lambda s: {"student": s}, r"under student, and .*checkpoint\['student'\]"),
    "a part of another": (
        lambda s: {"state_dict": under("student.", s)},
        r"under state_dict.student.*k\[8:\].*k.startswith\('student\.'\)",
    ),
    "two in one dictionary": (
        lambda s: {"state_dict": {**under("model.", s), **under("net.", s)}},
        "under state_dict.model, state_dict.net",
    ),
    "two averages": (lambda s: {"model_ema": s, "swa_model": others(s)}, "under model_ema, swa_model"),
    "one name twice": (
        lambda s: {"model": {**s, "module.encoder.norm.bias": s["encoder.norm.bias"]}},
        "encoder.norm.bias twice",
    ),
    "something beside it": (
        lambda s: {"state_dict": {**under("model.", s), "refine.weight": torch.ones(3)}},
        "refine.weight is unexpected",
    ),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_refused_by_name(tmp_path, state, case):
    change, words = UNCLEAR[case]
    with pytest.raises(BadModel, match=words):
        segfast.load_model(write(tmp_path, change(state)))


def test_mmsegmentations_wrappers(tmp_path):
    source = reference("mmseg/linear-16") / "checkpoint.pth"
    content, expected = torch.load(source, weights_only=True), segfast.load_model(source)
    flat = {f"ema_{name.replace('.', '_')}": t + 1 for name, t in content["state_dict"].items()}
    for changed in (under("module._orig_mod.", content["state_dict"]), {**content["state_dict"], **flat}):
        torch.save({**content, "state_dict": changed}, tmp_path / "iter.pth")
        assert same(segfast.load_model(tmp_path / "iter.pth"), expected)


class Compiled(torch.nn.Module):
    """Names its parameters as torch.compile does, at once."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module


def test_a_compiled_part_is_saved_under_plain_names(tmp_path):
    model = tiny_model()
    images = torch.randn(1, 3, 64, 64)
    expected = model(images)
    model.encoder = Compiled(model.encoder)
    model.save(tmp_path / "m.safetensors")
    assert torch.equal(segfast.load_model(tmp_path / "m.safetensors")(images), expected)


def test_our_files_with_a_wrappers_names_load(tmp_path):
    from safetensors.torch import save_file

    model = tiny_model()
    save_file(under("_orig_mod.", model.state_dict()), tmp_path / "m.safetensors", {"segfast": model.config.to_json()})
    assert same(segfast.load_model(tmp_path / "m.safetensors"), model)


def test_a_checkpoint_that_refers_to_itself_a_million_times_is_read_once(tmp_path, state):
    content = {"x": torch.ones(1)}
    for _ in range(6):
        content = {f"entry {number}": content for number in range(30)}
    assert same(segfast.load_model(write(tmp_path, {"more": content, "model": state})), segfast.load_model(tmp_path))
