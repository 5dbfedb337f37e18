"""Encoders of today compute what timm's do: random weights of every family, and DINOv2's real ones."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segfast.config import family_config
from segfast.model import Segmenter
from segfast.variants import variant

# Every kind of encoder there is, each with the timm model it must equal.
ENCODERS = {
    "seg-s-dinov2-14": "vit_small_patch14_dinov2",
    "seg-s-dinov2reg-mask-14": "vit_small_patch14_reg4_dinov2",
    "seg-s-dinov3-16": "vit_small_patch16_dinov3",
    "seg-splus-dinov3-mask-16": "vit_small_plus_patch16_dinov3",
    "seg-b-siglip2-16": "vit_base_patch16_siglip_512",
    "seg-l-siglip2-16": "vit_large_patch16_siglip_512",
}
NAMES = (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))  # of DINOv3 in timm


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


def ours(vit, name, grid, **changes):
    """Our encoder of that name with the weights of timm's."""
    config = family_config(variant(name), 5, patches(grid, variant(name).patch))
    encoder = Segmenter(replace(config, **changes)).encoder
    state = {}
    for key, tensor in vit.state_dict().items():
        if not key.startswith("attn_pool."):
            for old, new in NAMES:
                key = key.replace(old, new)
            state[key] = tensor
    encoder.load_state_dict(state)
    return encoder.eval()


def features(vit, images):
    return vit.forward_features(images)[:, vit.num_prefix_tokens :]


@pytest.mark.parametrize("name", ENCODERS)
@torch.inference_mode()
def test_features_are_timms(name):
    P, grid = variant(name).patch, (6, 6)
    vit = random_weights(timm_encoder(ENCODERS[name], P, grid, depth=2))
    encoder = ours(vit, name, grid, depth=2)
    for window in (grid, (4, 9), (9, 5)):  # their own; as many patches, which are not at the same places; others
        images = torch.randn(1, 3, *patches(window, P))
        expected = features(vit, images)
        assert expected.std() > 0.1
        torch.testing.assert_close(encoder(images), expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_features_of_the_real_dinov2_are_timms():
    from safetensors.torch import load_file

    path = Path(os.environ.get("SEGFAST_TEST_DATA", "")) / "encoder" / "dinov2_vits14.safetensors"
    if not path.is_file():
        pytest.skip("a real DINOv2 is only below $SEGFAST_TEST_DATA, which is not set")
    vit = timm_encoder("vit_small_patch14_dinov2", 14, (37, 37)).eval()
    vit.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    encoder = ours(vit, "seg-s-dinov2-14", (37, 37))
    for window in ((37, 37), (18, 18), (10, 44)):
        images = torch.randn(1, 3, *patches(window, 14))
        torch.testing.assert_close(encoder(images), features(vit, images), atol=1e-4, rtol=0)
