import pytest
import torch
from helpers import tiny_config, tiny_model

from segfast.kernels import attention, reference
from segfast.model import Block, DropPath, Segmenter, resample_positions, unit


@pytest.mark.parametrize("size", [(64, 64), (50, 83), (1, 1), (96, 32), (128, 128)])
@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_any_size_gives_logits_of_that_size(size, decoder):
    model = tiny_model(decoder=decoder)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        assert model(images).shape == (2, 7, *size)
        assert model.patch_logits(images).shape == (2, 7, -(-size[0] // 16), -(-size[1] // 16))


def test_padding_is_zero_after_normalisation_and_cropped_off():
    model, images = tiny_model(), torch.randn(1, 3, 50, 60)
    padded = torch.zeros(1, 3, 64, 64)
    padded[..., :50, :60] = images
    with torch.inference_mode():
        torch.testing.assert_close(model(images), model(padded)[..., :50, :60])


def test_mmsegmentation_stretches_logits_straight_to_the_window():
    from dataclasses import replace

    protocol = replace(tiny_config().protocol, crop_padding=False)
    model, images = tiny_model(protocol=protocol), torch.randn(1, 3, 50, 60)
    with torch.inference_mode():
        stretched = torch.nn.functional.interpolate(model.patch_logits(images), (50, 60), mode="bilinear")
        torch.testing.assert_close(model(images), stretched)
        assert not torch.allclose(model(images), tiny_model()(images))


def test_positions_are_resampled_only_for_another_count():
    encoder = tiny_model().encoder
    assert encoder.positions(2, 8) is encoder.pos_embed  # 16 patches as in training: used as they are
    assert encoder.positions(4, 6).shape == (1, 25, 64)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resampling_keeps_the_prefix(mode):
    positions = torch.randn(1, 2 + 16, 8)
    resampled = resample_positions(positions, 2, (4, 4), (3, 5), mode)
    torch.testing.assert_close(resampled[:, :2], positions[:, :2])
    grid = positions[:, 2:].reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (3, 5), mode=mode).flatten(2).transpose(1, 2)
    torch.testing.assert_close(resampled[:, 2:], expected)


@pytest.mark.parametrize("N", [1, 2, 17, 65])
def test_attention_equals_its_twin_on_packed_views(N):
    packed = torch.randn(2, N, 3 * 3 * 64, dtype=torch.float64)
    q, k, v = (t.unflatten(-1, (3, 64)) for t in packed.chunk(3, -1))
    torch.testing.assert_close(attention(q, k, v), reference.attention(q, k, v))
    torch.testing.assert_close(attention(q, k, v, scale=0.3), reference.attention(q, k, v, scale=0.3))


def test_the_mask_head_survives_half_precision():
    """1024 squares of 8 sum up to 65536, which fp16 does not hold: the head computes in fp32."""
    model = tiny_model(width=1024, heads=16)
    with torch.no_grad():
        model.decoder.proj_patch.mul_(8 / model.decoder.proj_patch.std())
        images = torch.randn(1, 3, 64, 64)
        expected = model.patch_logits(images)
        answer = model.half().patch_logits(images.half())
    assert answer.dtype == torch.float16
    assert answer.isfinite().all()
    assert (answer.float() - expected).norm() < 0.02 * expected.norm()


def test_unit_has_norm_one():
    torch.testing.assert_close(unit(torch.full((1, 1024), 8.0)), torch.full((1, 1024), 1 / 32))


def test_initialisation_is_the_original_one():
    torch.manual_seed(0)
    model = Segmenter(tiny_config(width=256, heads=4))
    qkv, decoder = model.encoder.blocks[0].attn.qkv, model.decoder
    assert qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert qkv.weight.abs().max() < 0.12
    assert not qkv.bias.any()
    assert decoder.proj_patch.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert decoder.cls_emb.std().item() == pytest.approx(0.02, rel=0.1)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, branch = DropPath(0.25).train(), torch.ones(4000, 2, 3)
    kept = drop(branch)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(kept.amin((1, 2)), kept.amax((1, 2)))
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(branch), branch)


def test_stochastic_depth_grows_linearly_and_spares_the_decoder():
    model = Segmenter(tiny_config(depth=5, drop_path=0.1))
    rates = [block.drop_path.rate for block in model.encoder.blocks]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert all(block.drop_path.rate == 0 for block in model.decoder.blocks)


def test_dropout_is_active_in_training_only():
    torch.manual_seed(0)
    block, tokens = Block(64, 1, 1e-5, 0.5, 0.0), torch.randn(1, 9, 64)
    assert not torch.equal(block.train()(tokens), block(tokens))
    assert torch.equal(block.eval()(tokens), block(tokens))


def test_every_parameter_gets_a_gradient():
    model = tiny_model(distilled=True, name="seg-custom-deit-mask-16").train()
    model(torch.randn(2, 3, 50, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_batch_of_one_equals_its_row_in_a_batch():
    model, images = tiny_model(), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]), atol=1e-5, rtol=1e-5)
