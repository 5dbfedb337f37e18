"""Encoders of today compute what timm's do: random weights of every family, and DINOv2's real ones."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import tiny_config
from safetensors.torch import load_file, save_file

import segfast
from segfast.checkpoints.encoders import start_from
from segfast.config import family_config, from_json
from segfast.errors import BadModel, BadOption
from segfast.export import export_onnx, onnx_file
from segfast.kernels import attend_packed, attention, attention_backend, rotary
from segfast.kernels.attend import sdpa_attention
from segfast.model import Segmenter
from segfast.network.positions import rotation
from segfast.variants import VARIANTS, family_name, kind_of, variant

# Every kind of encoder there is, each with the timm model it must equal.
ENCODERS = {
    "seg-s-dinov2-14": "vit_small_patch14_dinov2",
    "seg-s-dinov2reg-mask-14": "vit_small_patch14_reg4_dinov2",
    "seg-s-dinov3-16": "vit_small_patch16_dinov3",
    "seg-splus-dinov3-mask-16": "vit_small_plus_patch16_dinov3",
    "seg-b-siglip2-16": "vit_base_patch16_siglip_512",
    "seg-l-siglip2-16": "vit_large_patch16_siglip_512",
}


def patches(count, patch):
    return tuple(side * patch for side in count)


def random_weights(module, seed=0):
    """Weights of which none is neutral: an encoder that leaves one out, or adds one twice, shows it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            near_one = "gamma" in name or ("norm" in name and name.endswith("weight"))
            parameter.copy_(1 + 0.3 * noise if near_one else 0.05 * noise if parameter.ndim != 3 else 0.5 * noise)
    return module.eval()


def timm_encoder(name, patch, grid, **more):
    import timm

    return timm.create_model(name, img_size=patches(grid, patch), dynamic_img_size=True, num_classes=0, **more)


def ours(vit, folder, name, grid, **changes):
    """Our encoder of that name with the weights of timm's, from a file."""
    save_file(vit.state_dict(), folder / "encoder.safetensors")
    config = replace(family_config(variant(name), 5, patches(grid, variant(name).patch)), **changes)
    return start_from(str(folder / "encoder.safetensors"), config).eval().encoder


def features(vit, images):
    return vit.forward_features(images)[:, vit.num_prefix_tokens :]


@pytest.mark.parametrize("name", ENCODERS)
@torch.inference_mode()
def test_features_are_timms(tmp_path, name):
    P, grid = variant(name).patch, (6, 6)
    vit = random_weights(timm_encoder(ENCODERS[name], P, grid, depth=2))
    encoder = ours(vit, tmp_path, name, grid, depth=2)
    assert (encoder.config.encoder_eps, variant(name).encoder.split(".")[0]) == (vit.norm.eps, ENCODERS[name])
    assert (variant(name).mean, variant(name).std) == (vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"])
    for window in (grid, (4, 9), (9, 5)):  # their own; as many patches, which are not at the same places; others
        images = torch.randn(1, 3, *patches(window, P))
        expected = features(vit, images)
        assert expected.std() > 0.1
        torch.testing.assert_close(encoder(images), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_features_of_the_real_dinov2_are_timms():
    path = Path(os.environ.get("SEGFAST_TEST_DATA", "")) / "encoder" / "dinov2_vits14.safetensors"
    if not path.is_file():
        pytest.skip("a real DINOv2 is only below $SEGFAST_TEST_DATA, which is not set")
    vit = timm_encoder("vit_small_patch14_dinov2", 14, (37, 37)).eval()
    vit.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    encoder = segfast.create_model("seg-s-dinov2-14", num_classes=7, pretrained=path).encoder
    for window in ((37, 37), (18, 18), (8, 20)):
        images = torch.randn(1, 3, *patches(window, 14))
        torch.testing.assert_close(encoder(images), features(vit, images), atol=1e-4, rtol=0)


# What a Config says ---------------------------------------------------------------------------------------------------

TODAY = [name for name in VARIANTS if any(kind in name for kind in ("dino", "siglip"))]


@pytest.mark.parametrize("name", TODAY)
def test_members_are_found_again_by_what_their_files_say(name):
    config = family_config(variant(name))
    text = config.to_json()
    assert text.startswith('{"format": 2')
    again = from_json(text, "x")[0]
    assert again == config
    sizes = {"width": again.width, "depth": again.depth, "heads": again.heads, "patch": again.patch}
    for kind in (again, replace(again, qkv_bias=True), kind_of(again)):
        assert family_name(**sizes, decoder=again.decoder, kind=kind) == name
    named = family_name(**sizes | {"depth": 3}, decoder="linear", kind=again)
    assert named == f"seg-custom-{kind_of(again).name}-{again.patch}"
    assert again.width == 64 * again.heads


def test_a_models_grid_is_what_it_makes():
    assert variant("seg-s-dinov2-14").window == 518
    assert family_config(variant("seg-s-dinov2-14")).grid == (37, 37)
    config = replace(family_config(variant("seg-s-dinov2-14"), 5, (100, 64)), depth=1)
    assert (config.image_size, config.protocol.window) == ((112, 70), (100, 64))
    model = Segmenter(config).eval()
    with torch.inference_mode():
        assert model.patch_logits(torch.zeros(1, 3, *config.protocol.window)).shape[-2:] == config.grid == (8, 5)
        assert model(torch.zeros(1, 3, 100, 64)).shape == (1, 5, 100, 64)


IMPOSSIBLE = {
    "no class token beside DeiT's": ({"class_token": False, "distilled": True}, "distilled cannot be set without"),
    "RoPE and positions of patches": ({"rope": True, "patch_positions": True}, "patch_positions cannot be .* rope"),
    "antialiasing with bilinear": ({"position_antialias": True}, "position_antialias cannot be set with bilinear"),
    "heads of 72": ({"width": 72, "rope": True}, "heads cannot be 1 of 72 channels"),
    "an unknown MLP": ({"mlp": "relu"}, "mlp cannot be relu"),
    "registers by word": ({"registers": "four"}, "registers cannot be four"),
    "a temperature of nothing": ({"rope_temperature": 0.0}, "rope_temperature cannot be 0"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_fields_that_do_not_go_together(case):
    changes, message = IMPOSSIBLE[case]
    with pytest.raises(BadModel, match=message):
        tiny_config(**changes)


def test_a_window_below_the_patch():
    with pytest.raises(BadOption, match="image_size must lie between the patch, 14"):
        segfast.create_model("seg-s-dinov2-14", image_size=13)


# RoPE -----------------------------------------------------------------------------------------------------------------


def turned(qkv, cos, sin):
    """q, k and v of qkv [B, N, 3, heads, d], the first two rotated as complex numbers."""
    d = qkv.shape[-1] // 2
    turn = torch.complex(cos[..., :d], sin[..., d:])
    pairs = torch.complex(qkv[:, :, :2, :, :d], qkv[:, :, :2, :, d:]) * turn[:, None]
    q, k = torch.cat([pairs.real, pairs.imag], -1).unbind(2)
    return q, k, qkv[:, :, 2]


@pytest.mark.parametrize("attend", [attention, sdpa_attention, attention_backend("triton")])
def test_attention_of_rotated_tokens_forward_and_backward(attend):
    """Against complex numbers; `triton` runs the operators' formulas here."""
    torch.manual_seed(0)
    cos, sin = rotation((3, 4), 2, 16, 100.0)
    assert torch.equal(cos[:2], torch.ones(2, 1, 16))
    assert not sin[:2].any()
    ours, twin = (
        torch.randn(2, 14, 3, 2, 16, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in "ab"
    )
    grad = torch.randn(2, 14, 2, 16)
    got = attend_packed(attend, ours, (cos, sin))
    got.backward(grad)
    expected = sdpa_attention(*turned(twin, cos, sin))
    expected.backward(grad)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours.grad, twin.grad)
    assert not torch.allclose(got, attend_packed(attend, ours))


def test_a_rotation_of_other_tokens_is_refused():
    with pytest.raises(ValueError, match=r"take cosines and sines \[N, 1, d\]"):
        rotary.rotate(torch.randn(1, 5, 2, 16), rotation((2, 3), 0, 16, 100.0))


# Export ---------------------------------------------------------------------------------------------------------------

EXPORTED = {"seg-s-dinov2reg-14": "fp16", "seg-splus-dinov3-mask-16": "fp32"}


@pytest.mark.parametrize("name", EXPORTED)
def test_from_a_member_to_labels(name, tmp_path):
    """At a window that is no multiple of the patch, and on a picture of several windows."""
    precision = EXPORTED[name]
    torch.manual_seed(0)
    model = Segmenter(replace(family_config(variant(name), 5, (90, 120)), depth=2))
    random_weights(model.encoder)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    report = export_onnx(model, tmp_path / "m.onnx", precision=precision)
    assert report.checks[0].relative_error < report.gate
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

    graph = onnx.load(tmp_path / "m.onnx").graph
    assert not {"If", "Sin", "Cos", "Resize"} & {node.op_type for node in graph.node}
    assert not [tensor.name for tensor in graph.initializer if "gamma" in tensor.name]

    engine = segfast.Engine(tmp_path / "m.onnx", runtime="onnxruntime", device="cpu")
    assert engine.config.layer_scale
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    expected = segfast.Engine(model, device="cpu").segment(picture).labels
    assert len(np.unique(expected)) > 2
    assert (engine.segment(picture).labels == expected).mean() > (0.98 if precision == "fp16" else 0.9999)


def test_what_no_onnx_file_holds_is_refused_before_any_work(tmp_path, monkeypatch):
    model = Segmenter(tiny_config())
    fp16 = 2 * sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(onnx_file, "LARGEST", fp16)
    with pytest.raises(BadOption, match=r"weights in fp32, and an .onnx file holds 2 GB; export with --fp16"):
        export_onnx(model, tmp_path / "m.onnx", precision="fp32")
    monkeypatch.setattr(onnx_file, "LARGEST", fp16 - 1)
    with pytest.raises(BadOption, match="choose a smaller encoder"):
        export_onnx(model, tmp_path / "m.onnx", precision="fp16")
    assert not list(tmp_path.iterdir())
