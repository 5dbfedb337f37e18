from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import reference, tiny_model

import segfast
from segfast.checkpoints.encoders import read_encoder
from segfast.checkpoints.patches import resample_patches
from segfast.errors import BadModel, DownloadFailed, UnknownModel
from segfast.variants import VARIANTS


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
        "cls": vit.cls_token,
        "Transformer/posembed_input/pos_embedding": vit.pos_embed,
        "embedding/kernel": vit.patch_embed.proj.weight.permute(2, 3, 1, 0),
        "embedding/bias": vit.patch_embed.proj.bias,
        "Transformer/encoder_norm/scale": vit.norm.weight,
        "Transformer/encoder_norm/bias": vit.norm.bias,
    }
    for i, block in enumerate(vit.blocks):
        at = f"Transformer/encoderblock_{i}/"
        for n, norm in ((0, block.norm1), (2, block.norm2)):
            arrays |= {f"{at}LayerNorm_{n}/scale": norm.weight, f"{at}LayerNorm_{n}/bias": norm.bias}
        mix = f"{at}MultiHeadDotProductAttention_1/"
        weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays |= {
                f"{mix}{part}/kernel": weight.T.reshape(D, heads, D // heads),
                f"{mix}{part}/bias": bias.reshape(heads, D // heads),
            }
        arrays |= {
            f"{mix}out/kernel": block.attn.proj.weight.T.reshape(heads, D // heads, D),
            f"{mix}out/bias": block.attn.proj.bias,
        }
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


def test_npz_of_another_patch_is_resampled_only_when_it_is_asked_for(tmp_path, vit):
    """timm's own reader resamples unasked."""
    write_npz(tmp_path / "vit.npz", vit)
    with pytest.raises(BadModel, match=r"patch 16 instead of .* patch 32; .*pass patch=32"):
        segfast.create_model("seg-ti-32", image_size=64, pretrained=tmp_path / "vit.npz")
    model = segfast.create_model("seg-ti-16", image_size=64, patch=32, pretrained=tmp_path / "vit.npz")
    expected = resample_patches(vit.patch_embed.proj.weight, 32)
    torch.testing.assert_close(model.encoder.patch_embed.proj.weight, expected)


def test_npz_of_others_is_refused(tmp_path):
    np.savez(tmp_path / "siglip.npz", **{"params/img/embedding/kernel": np.zeros((16, 16, 3, 768), np.float32)})
    with pytest.raises(BadModel, match=r"no `\.npz` of the ViT authors \(its entries: params/img.*of SigLIP2"):
        segfast.create_model("seg-b-siglip2-16", image_size=64, pretrained=tmp_path / "siglip.npz")


def test_positions_of_another_grid_are_resampled_bilinearly(tmp_path, vit):
    write_npz(tmp_path / "vit.npz", vit)
    model = segfast.create_model("seg-ti-16", image_size=(64, 160), pretrained=tmp_path / "vit.npz")
    grid = vit.pos_embed[:, 1:].reshape(1, 6, 6, 192).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (4, 10), mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.encoder.pos_embed[:, 1:], expected)
    torch.testing.assert_close(model.encoder.pos_embed[:, :1], vit.pos_embed[:, :1])


def resampled(positions, old, new, prefix=1):
    """[1, prefix + h·w, D] of a grid → of another, bilinearly."""
    grid = torch.nn.functional.interpolate(
        positions[:, prefix:].unflatten(1, old).permute(0, 3, 1, 2), new, mode="bilinear"
    )
    return torch.cat([positions[:, :prefix], grid.flatten(2).transpose(1, 2)], 1)


def segfast_file(folder, donor):
    donor.save(folder / "donor.safetensors")
    return folder / "donor.safetensors"


def original_file(folder, donor):
    """A checkpoint of the original code, with its variant.yml."""
    c = donor.config
    text = (reference("official/linear-8") / "variant.yml").read_text()
    for old, new in (
        ("d_model: 64", f"d_model: {c.width}"),
        ("n_heads: 1", f"n_heads: {c.heads}"),
        ("n_layers: 2", f"n_layers: {c.depth}"),
        ("patch_size: 8", f"patch_size: {c.patch}"),
        ("n_cls: 5", f"n_cls: {c.num_classes}"),
        ("distilled: false", f"distilled: {str(c.distilled).lower()}"),
        ("  - 64\n  - 64", f"  - {c.image_size[0]}\n  - {c.image_size[1]}"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "variant.yml").write_text(text)
    torch.save({"model": donor.state_dict()}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def sized_file(folder, donor):
    """An encoder alone, which says the size that it was trained at as training scripts do."""
    state = {"epoch": 3, "args": {"img_size": list(donor.config.image_size)}, "state_dict": donor.encoder.state_dict()}
    torch.save(state, folder / "donor.pth")
    return folder / "donor.pth"


def whole_file(folder, donor):
    """The same, as its size in channels, rows and columns."""
    torch.save({**donor.encoder.state_dict(), "input_size": (3, *donor.config.image_size)}, folder / "donor.pth")
    return folder / "donor.pth"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("seg-ti-32", segfast_file),
        ("seg-ti-32", original_file),
        ("seg-ti-32", sized_file),
        ("seg-ti-deit-32", whole_file),
    ],
)
def test_positions_come_from_their_own_grid_not_from_a_square_of_as_many(tmp_path, name, write):
    """2 × 8 patches are as many as 4 × 4."""
    donor, prefix = segfast.create_model(name, num_classes=5, image_size=(64, 256)), 2 if "deit" in name else 1
    path = write(tmp_path, donor)
    positions = donor.encoder.pos_embed.detach()
    square = segfast.create_model(name, num_classes=5, image_size=128, pretrained=path).encoder.pos_embed
    torch.testing.assert_close(square.detach(), resampled(positions, (2, 8), (4, 4), prefix=prefix))
    same = segfast.create_model(name, num_classes=5, image_size=(64, 256), pretrained=path).encoder.pos_embed
    assert torch.equal(same, positions)
    if write in (segfast_file, original_file):
        assert torch.equal(segfast.load_model(path).encoder.pos_embed, positions)


def test_a_square_is_resampled_to_a_grid_of_as_many(tmp_path):
    """A file that says nothing: 4 × 4, not 2 × 8."""
    donor = segfast.create_model("seg-ti-32", image_size=128)
    torch.save({"model": donor.encoder.state_dict()}, tmp_path / "vit.pth")
    got = segfast.create_model("seg-ti-32", image_size=(64, 256), pretrained=tmp_path / "vit.pth").encoder.pos_embed
    torch.testing.assert_close(got.detach(), resampled(donor.encoder.pos_embed.detach(), (4, 4), (2, 8)))


def test_the_grid_of_a_timm_model_is_its_own(monkeypatch):
    import timm

    wide = timm.create_model("vit_tiny_patch16_224", img_size=(64, 256), num_classes=0)
    monkeypatch.setattr(timm, "create_model", lambda name, **options: wide)
    got = segfast.create_model("seg-ti-16", image_size=128, pretrained=True).encoder.pos_embed
    torch.testing.assert_close(got.detach(), resampled(wide.pos_embed.detach(), (4, 16), (8, 8)))


def test_a_count_that_is_no_square_and_says_nothing_is_refused_with_the_words_to_add(tmp_path):
    """12 patches would fill 2 × 6 and 3 × 4 alike, also where one of them is asked for."""
    donor = segfast.create_model("seg-ti-32", image_size=(96, 128))
    torch.save(donor.encoder.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(BadModel, match=r"no square grid.*does not say which grid.*'img_size': \(H, W\)"):
        segfast.create_model("seg-ti-32", image_size=(64, 192), pretrained=tmp_path / "vit.pth")


def test_registers_and_positions_of_patches_alone_are_refused(tmp_path):
    state = segfast.create_model("seg-ti-32", image_size=128).encoder.state_dict()
    torch.save({**state, "reg_token": torch.zeros(1, 4, 192)}, tmp_path / "registers.pth")
    with pytest.raises(BadModel, match="reg_token is unexpected"):
        segfast.create_model("seg-ti-32", image_size=128, pretrained=tmp_path / "registers.pth")
    torch.save({**state, "pos_embed": torch.zeros(1, 16, 192)}, tmp_path / "patches.pth")
    with pytest.raises(
        BadModel, match="no square grid after 1 prefix"
    ):  # 15 = 3 × 5 patches are asked for, as many as remain
        segfast.create_model("seg-ti-32", image_size=(96, 160), pretrained=tmp_path / "patches.pth")


def test_heads_are_those_of_the_weights(tmp_path, monkeypatch):
    """No shape says how many there are."""
    import timm

    donor = segfast.create_model("seg-ti-32", image_size=64)
    donor.config = replace(donor.config, heads=6)
    with pytest.raises(BadModel, match=r"has 6 heads, seg-ti-32 3; choose the encoder of that model"):
        segfast.create_model("seg-ti-32", image_size=64, pretrained=segfast_file(tmp_path, donor))
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_heads=4, num_classes=0)
    monkeypatch.setattr(timm, "create_model", lambda name, **options: vit)
    with pytest.raises(BadModel, match="has 4 heads"):
        segfast.create_model("seg-ti-16", image_size=64, pretrained="vit_tiny_patch16_224")


def test_an_encoder_inside_another_model(tmp_path):
    donor = segfast.create_model("seg-ti-32", image_size=64)
    for prefix in ("backbone.", "model._orig_mod.backbone."):
        state = {f"{prefix}{name}": tensor for name, tensor in donor.encoder.state_dict().items()}
        torch.save({"state_dict": {**state, "head.weight": torch.ones(2)}}, tmp_path / "m.bin")
        model = segfast.create_model("seg-ti-32", image_size=64, pretrained=tmp_path / "m.bin")
        assert torch.equal(model.encoder.norm.weight, donor.encoder.norm.weight)


def test_timm_and_deit_files(tmp_path, vit):
    torch.save({"model": {**vit.state_dict(), "head.weight": torch.zeros(1000, 192)}}, tmp_path / "deit.pth")
    model = segfast.create_model("seg-ti-mask-16", image_size=96, pretrained=str(tmp_path / "deit.pth"))
    assert torch.equal(model.encoder.norm.weight, vit.norm.weight)


def test_timm_names_go_through_timm(monkeypatch, vit):
    import timm

    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or vit)
    model = segfast.create_model("seg-ti-16", image_size=96, pretrained=True)
    assert asked[-1] == ("vit_tiny_patch16_384.augreg_in21k_ft_in1k", {"pretrained": True, "num_classes": 0})
    assert torch.equal(model.encoder.norm.weight, vit.norm.weight)
    segfast.create_model("seg-ti-16", image_size=96, pretrained="vit_tiny_patch16_224.augreg_in21k")
    assert asked[-1][0] == "vit_tiny_patch16_224.augreg_in21k"


@pytest.mark.parametrize("name", [row.encoder for row in VARIANTS.values() if row.encoder])
def test_timm_knows_every_encoder_of_the_table(name):
    import timm

    assert timm.models.is_model_pretrained(name)
    row = next(row for row in VARIANTS.values() if row.encoder == name)
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
    config, state, *_ = read_encoder(tmp_path / "tiny.safetensors")
    assert config == tiny.config
    assert {f"encoder.{name}" for name in state} == {name for name in tiny.state_dict() if name.startswith("encoder")}
    assert torch.equal(state["pos_embed"], tiny.encoder.pos_embed)


def test_mmsegmentation_encoders(tmp_path):
    path = reference("mmseg/linear-16") / "checkpoint.pth"
    whole = segfast.load_model(path)
    config, state, *_ = read_encoder(path)
    assert config.encoder_eps == 1e-6
    assert torch.equal(state["norm.weight"], whole.encoder.norm.weight)


def test_an_encoder_of_another_size_is_refused(tmp_path, vit):
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(BadModel, match=r"does not fit seg-s-16.*instead of"):
        segfast.create_model("seg-s-16", pretrained=tmp_path / "vit.pth")
    with pytest.raises(BadModel, match=r"plain ViT.*instead of a distilled DeiT"):
        segfast.create_model("seg-ti-deit-16", pretrained=tmp_path / "vit.pth")


@pytest.mark.parametrize("kind", ["original", "MMSegmentation", "encoder alone", "ours"])
def test_an_encoders_file_is_read_once(tmp_path, monkeypatch, kind):
    import safetensors

    if kind == "encoder alone":
        path = tmp_path / "vit.pth"
        torch.save(tiny_model().encoder.state_dict(), path)
    elif kind == "ours":
        path = segfast_file(tmp_path, tiny_model())
    else:
        path = reference("official/linear-8" if kind == "original" else "mmseg/linear-16") / "checkpoint.pth"
    read, load, safe_open = [], torch.load, safetensors.safe_open
    monkeypatch.setattr(torch, "load", lambda file, **options: read.append(file) or load(file, **options))
    monkeypatch.setattr(safetensors, "safe_open", lambda file, **o: read.append(file) or safe_open(file, **o))
    read_encoder(path)
    assert read == [path]


def test_the_first_blocks_of_an_encoder(tmp_path):
    donor = segfast.create_model("seg-ti-32", image_size=64)
    path = segfast_file(tmp_path, donor)
    cut = segfast.create_model("seg-ti-32", image_size=64, pretrained=path, depth=3)
    assert (cut.config.name, cut.config.depth, len(cut.encoder.blocks)) == ("seg-custom-32", 3, 3)
    wanted = donor.encoder.state_dict()
    for name, tensor in cut.encoder.state_dict().items():  # the norm after the last block among them
        assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize("depth", [0, 13, 2.0, True])
def test_no_more_blocks_than_there_are(tmp_path, depth):
    path = segfast_file(tmp_path, segfast.create_model("seg-ti-32", image_size=64))
    with pytest.raises(segfast.BadOption, match="depth must be a whole number of blocks from 1 to 12"):
        segfast.create_model("seg-ti-32", image_size=64, pretrained=path, depth=depth)


def test_an_encoder_is_cut_only_on_demand(tmp_path):
    deep = segfast.create_model("seg-ti-32", image_size=64, depth=13)  # of random ones there are as many as wanted
    assert len(deep.encoder.blocks) == 13
    with pytest.raises(segfast.BadModel, match=r"blocks\.12"):
        segfast.create_model("seg-ti-32", image_size=64, pretrained=segfast_file(tmp_path, deep))
