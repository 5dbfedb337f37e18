import numpy as np
import pytest
import torch
from helpers import reference, tiny_model

import segfast
from segfast import create
from segfast.errors import BadModel, DownloadFailed, UnknownModel


def test_a_random_model_answers_at_its_size():
    model = segfast.create_model("seg-ti-mask-32", num_classes=3, image_size=96)
    assert not model.training
    assert model.config.random_weights
    assert model.config.grid == (3, 3)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 3, 96, 96)


def test_default_classes_are_ade20ks():
    config = segfast.create_model("seg-ti-32").config
    assert config.classes[:3] == ("wall", "building", "sky")
    assert config.protocol.window == (512, 512)


def test_unknown_names_list_the_near_ones():
    with pytest.raises(UnknownModel, match="seg-b-mask-16"):
        segfast.create_model("seg-b-mask16")


def test_members_without_public_encoder_say_so():
    with pytest.raises(BadModel, match=r"seg-ti-mask-8 has no public encoder weights.*seg-ti-16"):
        segfast.create_model("seg-ti-mask-8", pretrained=True)


def write_npz(path, vit):
    """A timm ViT in the layout of the ViT authors' files (JAX: kernels are transposed, heads apart)."""
    heads, D = 3, vit.embed_dim
    arrays = {
        "cls": vit.cls_token, "Transformer/posembed_input/pos_embedding": vit.pos_embed,
        "embedding/kernel": vit.patch_embed.proj.weight.permute(2, 3, 1, 0), "embedding/bias": vit.patch_embed.proj.bias,
        "Transformer/encoder_norm/scale": vit.norm.weight, "Transformer/encoder_norm/bias": vit.norm.bias,
    }  # fmt: skip
    for i, block in enumerate(vit.blocks):
        at = f"Transformer/encoderblock_{i}/"
        for n, norm in ((0, block.norm1), (2, block.norm2)):
            arrays |= {f"{at}LayerNorm_{n}/scale": norm.weight, f"{at}LayerNorm_{n}/bias": norm.bias}
        mix = f"{at}MultiHeadDotProductAttention_1/"
        weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays |= {f"{mix}{part}/kernel": weight.T.reshape(D, heads, D // heads),
                       f"{mix}{part}/bias": bias.reshape(heads, D // heads)}  # fmt: skip
        arrays |= {f"{mix}out/kernel": block.attn.proj.weight.T.reshape(heads, D // heads, D),
                   f"{mix}out/bias": block.attn.proj.bias}  # fmt: skip
        for n, layer in ((0, block.mlp.fc1), (1, block.mlp.fc2)):
            arrays |= {f"{at}MlpBlock_3/Dense_{n}/kernel": layer.weight.T, f"{at}MlpBlock_3/Dense_{n}/bias": layer.bias}
    np.savez(path, **{name: tensor.detach().numpy() for name, tensor in arrays.items()})


@pytest.fixture(scope="module")
def vit():
    import timm

    torch.manual_seed(1)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=0)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vit


def test_npz_encoders_of_the_vit_authors(tmp_path, vit):
    write_npz(tmp_path / "vit.npz", vit)
    model = segfast.create_model("seg-ti-16", num_classes=4, image_size=96, pretrained=tmp_path / "vit.npz")
    assert model.config.provenance["weights"] == f"encoder {tmp_path / 'vit.npz'}, decoder random"
    assert model.config.random_weights  # its answers mean nothing before the decoder is trained
    ours, theirs = model.encoder.state_dict(), vit.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_positions_of_another_grid_are_resampled_bilinearly(tmp_path, vit):
    write_npz(tmp_path / "vit.npz", vit)
    model = segfast.create_model("seg-ti-16", image_size=(64, 160), pretrained=tmp_path / "vit.npz")
    grid = vit.pos_embed[:, 1:].reshape(1, 6, 6, 192).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (4, 10), mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.encoder.pos_embed[:, 1:], expected)
    torch.testing.assert_close(model.encoder.pos_embed[:, :1], vit.pos_embed[:, :1])


def test_timm_and_deit_files(tmp_path, vit):
    torch.save({"model": {**vit.state_dict(), "head.weight": torch.zeros(1000, 192)}}, tmp_path / "deit.pth")
    model = segfast.create_model("seg-ti-mask-16", image_size=96, pretrained=str(tmp_path / "deit.pth"))
    assert torch.equal(model.encoder.norm.weight, vit.norm.weight)


def test_timm_names_go_through_timm(monkeypatch, vit):
    import timm

    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or vit)
    model = segfast.create_model("seg-ti-16", image_size=96, pretrained=True)
    assert asked == [("vit_tiny_patch16_384.augreg_in21k_ft_in1k", {"pretrained": True, "num_classes": 0})]
    assert torch.equal(model.encoder.norm.weight, vit.norm.weight)
    segfast.create_model("seg-ti-16", image_size=96, pretrained="vit_tiny_patch16_224.augreg_in21k")
    assert asked[1][0] == "vit_tiny_patch16_224.augreg_in21k"


@pytest.mark.parametrize("name", [row.encoder for row in create.VARIANTS.values() if row.encoder])
def test_timm_knows_every_encoder_of_the_table(name):
    import timm

    assert timm.models.is_model_pretrained(name)
    row = next(row for row in create.VARIANTS.values() if row.encoder == name)
    config = timm.get_pretrained_cfg(name)
    assert config.mean == row.mean
    assert config.std == row.std
    with torch.device("meta"):
        vit = timm.create_model(name.split(".")[0], num_classes=0)
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads) == (row.width, row.depth, row.heads)
    assert vit.patch_embed.patch_size == (row.patch, row.patch)
    assert (getattr(vit, "dist_token", None) is not None) == row.distilled


def test_failing_downloads_say_what_to_do(monkeypatch):
    import timm

    def fail(name, **options):
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(DownloadFailed, match=r"offline.*pretrained=FILE"):
        segfast.create_model("seg-ti-16", pretrained=True)


def test_unknown_timm_names_list_the_near_ones():
    with pytest.raises(UnknownModel, match="vit_tiny_patch16_224"):
        segfast.create_model("seg-ti-16", pretrained="vit_tiny_patch16_225")


def test_encoders_of_segmenter_checkpoints(tmp_path):
    tiny = tiny_model()
    tiny.save(tmp_path / "tiny.safetensors")
    config, state, _ = create.read_encoder(tmp_path / "tiny.safetensors")
    assert config == tiny.config
    assert {f"encoder.{name}" for name in state} == {name for name in tiny.state_dict() if name.startswith("encoder")}
    assert torch.equal(state["pos_embed"], tiny.encoder.pos_embed)


def test_mmsegmentation_encoders(tmp_path):
    path = reference("mmseg/linear-16") / "checkpoint.pth"
    whole = segfast.load_model(path)
    config, state, _ = create.read_encoder(path)
    assert config.encoder_eps == 1e-6
    assert torch.equal(state["norm.weight"], whole.encoder.norm.weight)


def test_an_encoder_of_another_size_is_refused(tmp_path, vit):
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(BadModel, match=r"does not fit seg-s-16.*instead of"):
        segfast.create_model("seg-s-16", pretrained=tmp_path / "vit.pth")
    with pytest.raises(BadModel, match="no square grid after 2 prefix"):
        segfast.create_model("seg-ti-deit-16", pretrained=tmp_path / "vit.pth")
