"""What MMSegmentation's checkpoints say of themselves, honoured or refused by name."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import reference

import segfast
from segfast.checkpoints import literals
from segfast.checkpoints.encoders import read_encoder
from segfast.errors import BadModel

WHOLE = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
backbone_norm_cfg = dict(type='LN', eps=1e-06, requires_grad=True)
model = dict(
    type='EncoderDecoder',
    pretrained=None,
    backbone=dict(
        type='VisionTransformer', img_size=(64, 64), patch_size=16, in_channels=3, embed_dims=64, num_layers=2,
        num_heads=1, drop_path_rate=0.1, attn_drop_rate=0.0, drop_rate=0.0, final_norm=True, norm_cfg=backbone_norm_cfg,
        with_cls_token=True, interpolate_mode='bicubic'),
    decode_head=dict(
        type='FCNHead', in_channels=64, channels=64, num_convs=0, dropout_ratio=0.0, concat_input=False, num_classes=5,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32)))
img_norm_cfg = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)
data = dict(samples_per_gpu=1, test=dict(type='ADE20KDataset', pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(2048, 512), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='Normalize', mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)])]))
"""
PREPROCESSOR = (
    "data_preprocessor = dict(type='SegDataPreProcessor', mean=[10, 20, 30], std=[40, 50, 60], bgr_to_rgb={})"
)


def content():
    return torch.load(reference("mmseg/linear-16") / "checkpoint.pth", weights_only=True)


def plain():
    return segfast.load_model(reference("mmseg/linear-16") / "checkpoint.pth")


def load(folder, said, change=lambda state: state, **meta):
    """The reference's checkpoint with settings, its state and `meta` changed."""
    checkpoint = content()
    meta = {**checkpoint["meta"], "cfg": said, **meta}
    torch.save({"meta": meta, "state_dict": change(dict(checkpoint["state_dict"]))}, folder / "iter.pth")
    return segfast.load_model(folder / "iter.pth")


def but(old, new):
    assert old in WHOLE
    return WHOLE.replace(old, new)


@pytest.mark.parametrize("place", ["cfg", "config"])
def test_a_whole_config_of_a_plain_segmenter_changes_nothing(tmp_path, place):
    checkpoint = content()
    torch.save({**checkpoint, "meta": {**checkpoint["meta"], place: WHOLE}}, tmp_path / "iter.pth")
    ours, expected = segfast.load_model(tmp_path / "iter.pth"), plain()
    assert replace(ours.config, provenance={}) == replace(expected.config, provenance={})
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("kind", ["text", "json", "dictionary"])
def test_settings_that_are_honoured(tmp_path, kind):
    said = {
        "model": {
            "backbone": {
                "type": "mmseg.VisionTransformer",
                "num_heads": 4,
                "interpolate_mode": "bilinear",
                "norm_cfg": {"type": "LN"},
            },
            "test_cfg": {"mode": "slide", "crop_size": [96, 128], "stride": [48, 100]},
            "data_preprocessor": {
                "mean": [123.675, 116.28, 103.53],
                "std": [58.395, 57.12, 57.375],
                "bgr_to_rgb": True,
            },
        }
    }
    text = {"text": f"model = {said['model']!r}", "json": json.dumps(said), "dictionary": said}
    config = load(tmp_path, text[kind]).config
    assert (config.heads, config.position_mode, config.encoder_eps) == (4, "bilinear", 1e-5)
    assert (config.protocol.window, config.protocol.stride) == ((96, 128), (48, 100))
    assert config.protocol.mean == pytest.approx((0.485, 0.456, 0.406))
    assert config.protocol.std == pytest.approx((0.229, 0.224, 0.225))


def test_the_pipeline_of_0x_says_mean_and_deviation(tmp_path):
    config = load(
        tmp_path, but("dict(type='Normalize', mean=[127.5, 127.5, 127.5]", "dict(type='Normalize', mean=[10, 20, 30]")
    ).config
    assert config.protocol.mean == pytest.approx((10 / 255, 20 / 255, 30 / 255))
    config = load(tmp_path, "img_norm_cfg = dict(mean=[127.5] * 3, std=[255 / 4, 51, 51], to_rgb=True)").config
    assert (config.protocol.mean, config.protocol.std) == ((0.5,) * 3, (0.25, 0.2, 0.2))


def logits(model, images):
    """Of RGB images in 0 … 255, as an Engine normalises them."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (model.config.protocol.mean, model.config.protocol.std)
    )
    with torch.inference_mode():
        return model.patch_logits((images / 255 - mean) / std)


@pytest.mark.parametrize(
    "said",
    [
        PREPROCESSOR.format(False),
        PREPROCESSOR.replace(", bgr_to_rgb={}", ""),
        "img_norm_cfg = dict(mean=[10, 20, 30], std=[40, 50, 60], to_rgb=False)",
    ],
)
def test_a_network_for_bgr_answers_as_in_mmsegmentation(tmp_path, said):
    images = 255 * torch.rand(2, 3, 64, 64)
    numbers = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1), torch.tensor([40.0, 50.0, 60.0]).view(3, 1, 1)
    with torch.inference_mode():
        expected = plain().patch_logits((images.flip(1) - numbers[0]) / numbers[1])
    torch.testing.assert_close(logits(load(tmp_path, said), images), expected, atol=2e-5, rtol=1e-5)


def test_rgb_and_no_normalisation(tmp_path):
    assert load(tmp_path, PREPROCESSOR.format(True)).config.protocol.mean == pytest.approx(
        (10 / 255, 20 / 255, 30 / 255)
    )
    images = 255 * torch.rand(1, 3, 64, 64)
    bare = load(tmp_path, "data_preprocessor = dict(type='SegDataPreProcessor', bgr_to_rgb=True)")
    with torch.inference_mode():
        torch.testing.assert_close(logits(bare, images), plain().patch_logits(images), atol=2e-4, rtol=1e-4)


def one_row(state):
    return {name: tensor[2:3] if "conv_seg" in name else tensor for name, tensor in state.items()}


@pytest.mark.parametrize(("said", "threshold"), [("threshold=0.5", 0.5), ("threshold=0.45", 0.45), ("", 0.3)])
def test_one_channel_is_a_sigmoid_and_a_threshold(tmp_path, photo, said, threshold):
    cfg = f"model = dict(decode_head=dict(type='FCNHead', num_classes=2, out_channels=1, {said}))"
    model = load(tmp_path, cfg, one_row, CLASSES=("background", "polyp"))
    assert (model.config.num_classes, model.config.classes) == (2, ("background", "polyp"))
    assert f"above {threshold:g}" in model.config.provenance["binary"]
    photo = photo[:, :64]  # one window
    images, reference = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float(), plain()
    with torch.inference_mode():
        x = reference.enlarge(logits(reference, images)[:, 2:3], (60, 64))[0, 0]
    expected = x.sigmoid() > threshold
    assert 0.05 < expected.float().mean() < 0.95 or threshold != 0.5
    clear = (x - math.log(threshold / (1 - threshold))).abs() > 1e-4
    labels = segfast.Engine(model, device="cpu").segment(photo).labels.astype(bool)
    np.testing.assert_array_equal(labels[clear.numpy()], expected.numpy()[clear.numpy()])


def test_one_class_names_the_foreground(tmp_path):
    model = load(tmp_path, "decode_head = dict(num_classes=1)", one_row, CLASSES=("polyp",))
    assert model.config.classes == ("background", "polyp")


def positions(state):
    return {**state, "backbone.pos_embed": torch.randn(1, 17, 64)}


def test_positions_of_a_crop_that_is_no_square(tmp_path):
    """2 × 8 patches are as many as 4 × 4."""
    model = load(tmp_path, "model = dict(backbone=dict(img_size=(32, 128)))", positions)
    assert (model.config.image_size, model.config.grid) == ((32, 128), (2, 8))
    assert (model.config.protocol.window, model.config.protocol.stride) == ((32, 128), (32, 96))
    stored = torch.load(tmp_path / "iter.pth", weights_only=True)["state_dict"]["backbone.pos_embed"]
    assert torch.equal(model.encoder.pos_embed, stored)
    assert load(tmp_path, "crop_size = (32, 128)").config.grid == (2, 8)
    assert load(tmp_path, "data_preprocessor = dict(size=(128, 32))").config.grid == (8, 2)
    assert load(tmp_path, "x = 1").config.grid == (4, 4)


def six_positions(state):
    return {**state, "backbone.pos_embed": torch.randn(1, 7, 64)}


def test_a_count_that_is_no_square_needs_its_grid(tmp_path):
    assert load(tmp_path, "backbone = dict(img_size=(32, 48))", six_positions).config.grid == (2, 3)
    with pytest.raises(BadModel, match=r"6 position embeddings, which are no square.*img_size=\(H, W\)"):
        load(tmp_path, None, six_positions)


REFUSED = {
    "heads that do not divide": ("backbone = dict(num_heads=5)", "heads cannot be 5"),
    "another backbone": (but("'VisionTransformer'", "'BEiT'"), "backbone.type = 'BEiT'"),
    "another head": (but("'FCNHead'", "'SETRUPHead'"), "decode_head.type = 'SETRUPHead'"),
    "heads in a cascade": ("model = dict(decode_head=[dict(type='FCNHead')])", "decode_head = "),
    "a neck": ("model = dict(neck=dict(type='MultiLevelNeck'))", "model.neck"),
    "no class token": (but("with_cls_token=True", "with_cls_token=False"), "with_cls_token = False"),
    "padding on all sides": (but("in_channels=3,", "patch_pad='same',"), "patch_pad = 'same'"),
    "another activation": (but("in_channels=3,", "act_cfg=dict(type='ReLU'),"), "backbone.act_cfg.type = 'ReLU'"),
    "another layer": (but("in_channels=3,", "out_indices=(0,),"), r"out_indices = \(0,\)"),
    "corners": (but("num_convs=0,", "align_corners=True,"), "align_corners = True"),
    "another patch": (but("patch_size=16", "patch_size=32"), "patch_size = 32, but its tensors have 16"),
    "another width": (but("embed_dims=64", "embed_dims=192"), "embed_dims = 192, but its tensors have 64"),
    "another class count": (but("num_classes=5", "num_classes=7"), "num_classes = 7, but its tensors have 5"),
    "another grid": (but("img_size=(64, 64)", "img_size=(64, 128)"), r"img_size = \(64, 128\), but has 16"),
    "one channel, five rows": (
        "decode_head = dict(num_classes=2, out_channels=1)",
        "out_channels = 1, but its tensors have 5",
    ),
    "three channels of five": (but("num_classes=5", "num_classes=5, out_channels=3"), "out_channels = 3"),
    "whole pictures": (but("mode='slide'", "mode='whole'"), "test_cfg.mode = 'whole'.*crop_size="),
    "windows without a size": ("model = dict(test_cfg=dict(mode='slide'))", "test_cfg.crop_size = None"),
    "gaps between windows": (but("stride=(32, 32)", "stride=(80, 80)"), "stride cannot be"),
    "a mean alone": ("data_preprocessor = dict(mean=[1, 2, 3])", "data_preprocessor.std = None"),
    "four channels": ("data_preprocessor = dict(mean=[1, 2, 3, 4], std=[1, 2, 3, 4])", "data_preprocessor.mean"),
    "padded pictures": ("data_preprocessor = dict(test_cfg=dict(size_divisor=32))", "size_divisor"),
    "an unknown value": ("heads = len('ab')\nmodel = dict(backbone=dict(num_heads=heads))", r"num_heads = len\('ab'\)"),
    "a value of its base": (
        "model = dict(backbone=dict(img_size={{_base_.crop_size}}))",
        r"img_size = \{\{_base_.crop_size\}\}",
    ),
    "a base for a part": ("model = dict(backbone=_base_.backbone)", "backbone = _base_.backbone"),
    "no Python": ("model = dict(", "settings that cannot be read .line 1 is no Python"),
    "code": ("import os\nfor x in range(3):\n    model = dict()", "line 2 is no plain assignment"),
    "a changed part": ("model = dict()\nmodel['backbone'] = dict(num_heads=4)", "line 2 is no plain assignment"),
    "two models": ("model = dict(a=1)\nmodel = dict(b=1)", "line 2 gives model a second value"),
    "a number": (7, "it is an object, int"),
    "nested too deeply": ("model = " + "[" * 5000 + "]" * 5000, "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path, case):
    said, words = REFUSED[case]
    with pytest.raises(BadModel, match=words):
        load(tmp_path, said)


@pytest.mark.parametrize("depth", ["'12'", "[12]", "-1", "1.5", "False"])
@pytest.mark.parametrize("out", ["", "out_indices=(1,), "])
def test_impossible_depths(tmp_path, depth, out):
    with pytest.raises(BadModel, match=r"backbone\.num_layers"):
        load(tmp_path, but("num_layers=2,", f"{out}num_layers={depth},"))


@pytest.mark.parametrize("threshold", ["0", "1", "-0.5", "'half'", "True", "1e999"])
def test_impossible_thresholds(tmp_path, threshold):
    with pytest.raises(BadModel, match=r"decode_head\.threshold"):
        load(tmp_path, f"decode_head = dict(num_classes=2, out_channels=1, threshold={threshold})", one_row)


def test_one_row_without_a_word_is_refused_with_the_words_to_add(tmp_path):
    with pytest.raises(BadModel, match="one channel") as caught:
        load(tmp_path, None, one_row)
    said = str(caught.value).split("a text: ")[1].split(" (")[0]
    assert load(tmp_path, said, one_row).config.num_classes == 2


def test_an_encoder_is_taken_whatever_is_said_of_the_head(tmp_path):
    for said, change in ((REFUSED["whole pictures"][0], dict), (None, one_row)):
        checkpoint = content()
        torch.save({"meta": {"cfg": said}, "state_dict": change(checkpoint["state_dict"])}, tmp_path / "iter.pth")
        encoder = read_encoder(tmp_path / "iter.pth")
        assert torch.equal(encoder.state["norm.weight"], checkpoint["state_dict"]["backbone.ln1.weight"])
        assert encoder.grids == [(4, 4)]


def test_nothing_in_a_text_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = literals.read(
        "x = open('executed', 'w')\ny = dict(a=__import__('os').system('touch executed'), b=2)\n'words'\nz = f'{x}'"
    )
    assert not (tmp_path / "executed").exists()
    assert repr(values["x"]) == "open('executed', 'w')"
    assert values["y"]["b"] == 2


def test_literals():
    text = "/configs/a.py\nimport os\nn = 3\nsize = (n * 2, -1)\nd = dict({'a': 1}, b=[0.5] * 2, **{'c': None})\ne = {**d, 'a': list((1, 2))}\nt = 255 / 2"
    assert literals.read(text) == {
        "n": 3,
        "size": (6, -1),
        "d": {"a": 1, "b": [0.5, 0.5], "c": None},
        "e": {"a": [1, 2], "b": [0.5, 0.5], "c": None},
        "t": 127.5,
    }
    for bomb in ("a = [0] * 10**9", "a = [0] * 9999999999", "a = [0] * 65536\nb = a + a", "a = 1 / 0", "a = 9**9**9"):
        assert isinstance(list(literals.read(bomb).values())[-1], literals.Opaque)
