import json
import shutil
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import reference, tiny_config, tiny_model
from safetensors import safe_open

import segfast
from segfast.errors import BadModel


def test_our_format_keeps_everything(tmp_path):
    protocol = replace(tiny_config().protocol, mean=(0.1, 0.2, 0.3), stride=(20, 31), small_windows=True)
    model = tiny_model(
        protocol=protocol,
        decoder_depth=1,
        position_mode="bicubic",
        encoder_eps=1e-6,
        distilled=True,
        provenance={"weights": "a test", "note": "ünïcode"},
    )
    model.save(tmp_path / "m.safetensors")
    loaded = segfast.load_model(tmp_path / "m.safetensors")
    assert replace(loaded.config, provenance={}) == replace(model.config, provenance={})
    assert loaded.config.provenance["note"] == "ünïcode"
    assert not loaded.training
    images = torch.randn(1, 3, 50, 70)
    assert torch.equal(loaded(images), model(images))


def test_our_format_is_readable_by_others(tmp_path):
    tiny_model().save(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="np") as file:
        metadata = json.loads(file.metadata()["segfast"])
        assert "encoder.blocks.0.attn.qkv.weight" in file.keys()  # noqa: SIM118
    assert metadata["format"] == 1
    assert metadata["protocol"]["window"] == [64, 64]
    assert metadata["classes"][2] == "thing 2"


def test_one_layer_decoders_and_custom_classes_survive(tmp_path):
    model = tiny_model(decoder_depth=1, num_classes=300)
    model.save(tmp_path / "m.safetensors")
    assert segfast.load_model(tmp_path / "m.safetensors").config.decoder_depth == 1


def test_provenance_records_the_digest_of_the_file():
    import hashlib

    path = reference("official/linear-8") / "checkpoint.pth"
    provenance = segfast.load_model(path).config.provenance
    assert provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert provenance["backbone"] == "vit_tiny_patch8_384"


def test_original_checkpoints_also_load_by_their_folder():
    folder = reference("official/linear-8")
    assert segfast.load_model(folder).config == segfast.load_model(folder / "checkpoint.pth").config


def test_known_datasets_bring_their_classes(tmp_path):
    """A variant.yml that names Cityscapes gives its classes, whatever the count is elsewhere."""
    source = reference("official/linear-8")
    settings = (source / "variant.yml").read_text()
    model = segfast.load_model(source)
    config = replace(model.config, num_classes=19, classes=("?",) * 19, palette=((0, 0, 0),) * 19)
    other = segfast.Segmenter(config)
    state = {**other.state_dict(), "encoder.head.weight": torch.zeros(1000, 64)}
    torch.save({"model": state, "n_cls": 19}, tmp_path / "checkpoint.pth")
    text = settings.replace("n_cls: 5", "n_cls: 19").replace("dataset: ade20k", "dataset: cityscapes")
    (tmp_path / "variant.yml").write_text(text)
    loaded = segfast.load_model(tmp_path / "checkpoint.pth").config
    assert loaded.classes[0] == "road"
    assert loaded.palette[0] == (128, 64, 128)
    (tmp_path / "variant.yml").write_text(text.replace("dataset: cityscapes", "dataset: my_satellite"))
    assert segfast.load_model(tmp_path / "checkpoint.pth").config.classes[0] == "class 0"


def mmseg_checkpoint():
    return torch.load(reference("mmseg/linear-16") / "checkpoint.pth", weights_only=True)


def test_mmsegmentation_1x_training_checkpoints_load_with_inert_logs(tmp_path, monkeypatch):
    """1.x keeps its log as objects of mmengine, full of NumPy arrays; loading runs nothing of theirs."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    ran = []

    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.arange(3.0)

        def __setstate__(self, state):
            ran.append(state)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        content = mmseg_checkpoint()
        content["meta"] = {
            "epoch": 3,
            "mmengine_version": "0.10.3",
            "seed": np.int64(7),
            "dataset_meta": {"classes": ("a", "b", "c", "d", "e"), "palette": [[i, i, i] for i in range(5)]},
        }
        content["message_hub"] = {"log_scalars": {"train/loss": HistoryBuffer(), "lr": np.float64(0.1)}}
        torch.save(content, tmp_path / "iter_160000.pth")
    model = segfast.load_model(tmp_path / "iter_160000.pth")
    assert not ran
    assert model.config.classes == ("a", "b", "c", "d", "e")
    assert model.config.palette[4] == (4, 4, 4)
    before = segfast.load_model(reference("mmseg/linear-16") / "checkpoint.pth")
    assert torch.equal(model.encoder.pos_embed, before.encoder.pos_embed)


def test_mmsegmentation_files_without_meta_fall_back_to_the_class_count(tmp_path):
    torch.save(mmseg_checkpoint()["state_dict"], tmp_path / "bare.pth")
    assert segfast.load_model(tmp_path / "bare.pth").config.classes == tuple(f"class {i}" for i in range(5))


def test_dataparallel_prefixes_are_dropped(tmp_path):
    state = {f"module.{name}": t for name, t in mmseg_checkpoint()["state_dict"].items()}
    torch.save({"state_dict": state}, tmp_path / "parallel.pth")
    assert segfast.load_model(tmp_path / "parallel.pth").config.num_classes == 5


def test_mismatches_name_the_first_tensors(tmp_path):
    content = mmseg_checkpoint()
    state = content["state_dict"]
    del state["backbone.ln1.weight"]
    state["backbone.layers.0.ffn.layers.1.bias"] = torch.zeros(3)
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(BadModel, match=r"encoder\.norm\.weight is missing.*fc2\.bias is \[3\] instead of \[64\]"):
        segfast.load_model(tmp_path / "odd.pth")


def test_half_precision_checkpoints_become_fp32(tmp_path):
    content = mmseg_checkpoint()
    content["state_dict"] = {name: t.half() for name, t in content["state_dict"].items()}
    torch.save(content, tmp_path / "half.pth")
    assert segfast.load_model(tmp_path / "half.pth").encoder.pos_embed.dtype == torch.float32


def test_the_mmsegmentation_engine_takes_small_images_as_they_are(tmp_path, photo):
    shutil.copy(reference("mmseg/linear-16") / "checkpoint.pth", tmp_path / "m.pth")
    engine = segfast.Engine(tmp_path / "m.pth", device="cpu")
    small = photo[:40, :50]
    answer = engine.segment(small)
    images = (torch.from_numpy(small.copy()).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = segfast.load_model(tmp_path / "m.pth")(images)[0]
    np.testing.assert_allclose(answer.scores, expected.softmax(0).numpy(), atol=1e-5)


def test_classes_of_one_name_are_told_apart_wherever_they_come_from(tmp_path, photo):
    from segfast.classes import unique
    from segfast.config import from_json

    assert unique(("road", "car", "road", "road (2)", "road")) == ("road", "car", "road (3)", "road (2)", "road (4)")
    content = mmseg_checkpoint()
    content["meta"]["CLASSES"] = ("road", "road", "car", "x", "car")
    torch.save(content, tmp_path / "m.pth")
    told = ("road", "road (2)", "car", "x", "car (2)")
    answer = segfast.Engine(tmp_path / "m.pth", device="cpu").segment(photo)
    assert sum(answer.areas.values()) == pytest.approx(1)
    assert set(answer.areas) <= set(answer.classes) == set(told)
    assert [answer.areas.get(name, 0) * photo[..., 0].size for name in told] == np.bincount(
        answer.labels.ravel(), minlength=5
    ).tolist()
    model = tiny_model(num_classes=5, classes=("road", "road", "car", "x", "car"))
    model.save(tmp_path / "m.safetensors")
    assert segfast.load_model(tmp_path / "m.safetensors").config.classes == told
    written = tiny_config(num_classes=5).to_json().replace("thing 4", "thing 3")
    assert from_json(written, "an older file")[0].classes[3:] == ("thing 3", "thing 3 (2)")


def test_many_classes_of_one_name_are_told_apart_quickly():
    from segfast.classes import unique

    assert len(set(unique(("x",) * 65536))) == 65536
