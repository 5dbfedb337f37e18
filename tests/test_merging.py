"""Merged tokens, held against loops over cells; what a Config and its files say of them; what is refused."""

import json
import math
from dataclasses import replace

import old_reader
import pytest
import torch
from helpers import tiny_config, tiny_model

import segfast
from segfast import explain
from segfast.config import family_config, from_json
from segfast.errors import BadModel, BadOption, NotSupported
from segfast.kernels import rotary
from segfast.model import Segmenter
from segfast.models import flops
from segfast.network.merging import Merged, layout, rank_cells, spread
from segfast.token_merge import ROWS, Merge, cells
from segfast.variants import variant


def plain_of(size, **changes):
    """A tiny Segmenter whose LayerScale, if it has one, hides nothing."""
    model = tiny_model(image_size=size, depth=3, **changes)
    for name, parameter in model.named_parameters():
        if "gamma" in name:
            torch.nn.init.constant_(parameter, 0.5)
    return model


def model_of(grid, merge="0.5@1", **changes):
    """A tiny Segmenter for a grid of patches, with a merge."""
    h, w = grid
    merge = Merge.parse(merge)
    model = plain_of((16 * h, 16 * w), **changes)
    return model.merge_tokens(merge.fraction, merge.block)


ROPE = {"rope": True, "position_mode": "bicubic", "registers": 2, "layer_scale": True}


# The oracle: loops over cells -----------------------------------------------------------------------------------------


def cells_by_loops(grid):
    """The patches (row, column) of every whole cell of 2 × 2."""
    h, w = grid
    corners = [(r, c) for r in range(0, h - 1, 2) for c in range(0, w - 1, 2)]
    return [[(r, c), (r, c + 1), (r + 1, c), (r + 1, c + 1)] for r, c in corners]


def most_alike(patches, grid, count):
    """The cells with the highest mean cosine of their tokens to their mean."""

    def alike(cell):
        tokens = torch.stack([patches[r * grid[1] + c] for r, c in cell])
        return torch.cosine_similarity(tokens, tokens.mean(0, keepdim=True)).mean().item()

    return sorted(cells_by_loops(grid), key=alike, reverse=True)[:count]


def angles_at(places, grid, config):
    """The angles [n, d/2] of RoPE at mean places (row, column) in patches, which may be halves."""
    d = config.width // config.heads
    periods = config.rope_temperature ** (torch.arange(d // 4) / (d // 4))
    at = torch.tensor([[(2 * r + 1) / grid[0] - 1, (2 * c + 1) / grid[1] - 1] for r, c in places])
    return (2 * math.pi * at[..., None] / periods).flatten(1)


def rotation_at(places, grid, config):
    angles = torch.nn.functional.pad(angles_at(places, grid, config), (0, 0, config.prefix_tokens, 0))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1).unsqueeze(1), torch.cat([-sin, sin], -1).unsqueeze(1)


def encoded_by_loops(model, image):
    """What the encoder should say of one image [1, 3, H, W]: [1, h·w, D]."""
    encoder, config, merge = model.encoder, model.config, model.config.merge
    patches = encoder.patch_embed.proj(image)
    grid = tuple(patches.shape[-2:])
    tokens = encoder.embed(patches.flatten(2).transpose(1, 2), grid)
    groups = [[(r, c)] for r in range(grid[0]) for c in range(grid[1])]
    for number, block in enumerate(encoder.blocks, start=1):
        middles = [tuple(sum(at) / len(group) for at in zip(*group, strict=True)) for group in groups]
        tokens = block(tokens, rotation_at(middles, grid, config) if config.rope else None)
        if number == merge.block:
            before, whole = tokens[0, : config.prefix_tokens], tokens[0, config.prefix_tokens :]
            chosen = most_alike(whole, grid, merge.count(grid, config.prefix_tokens))
            taken = {patch for cell in chosen for patch in cell}
            groups = chosen + [group for group in groups if group[0] not in taken]
            merged = [torch.stack([whole[r * grid[1] + c] for r, c in group]).mean(0) for group in groups]
            tokens = then = torch.cat([before, torch.stack(merged)])[None]
    where = {patch: number for number, group in enumerate(groups) for patch in group}
    back = [config.prefix_tokens + where[r, c] for r in range(grid[0]) for c in range(grid[1])]
    return encoder.norm(whole + (tokens - then)[:, back])


GRIDS = [(4, 4), (4, 7), (5, 4), (5, 7)]


@pytest.mark.parametrize("changes", [{}, ROPE, {"class_token": False}], ids=["plain", "rope", "no prefix"])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_encoder_is_that_of_loops(grid, changes):
    model = model_of(grid, **changes)
    images = torch.randn(3, 3, 16 * grid[0], 16 * grid[1])
    got = model.encoder(images)
    expected = torch.cat([encoded_by_loops(model, image[None]) for image in images])  # of cells of their own each
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
    plain = plain_of(model.config.image_size, **changes)
    assert not torch.allclose(got, plain.encoder(images), atol=1e-2)


def test_gradients_are_those_of_loops():
    model = model_of((5, 4))
    images, weight = torch.randn(1, 3, 80, 64), torch.randn(1, 20, 64)
    (model.encoder(images) * weight).sum().backward()
    got = {name: parameter.grad.clone() for name, parameter in model.encoder.named_parameters()}
    model.zero_grad()
    (encoded_by_loops(model, images) * weight).sum().backward()
    for name, parameter in model.encoder.named_parameters():
        torch.testing.assert_close(
            got[name], parameter.grad, atol=1e-3, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_of_equally_alike_cells_the_first_are_merged():
    grid = (4, 6)
    cell_by_cell = torch.randn(2, 6, 64).repeat_interleave(4, 1)
    order = rank_cells(cell_by_cell[:, layout(grid).back], grid)
    assert order.tolist() == [list(range(6))] * 2


def test_what_is_undone_is_what_was_and_takes_what_was_added():
    grid, D = (5, 7), 8
    whole = torch.randn(2, 3 + 35, D)
    merged = Merged(whole, rank_cells(whole[:, 3:], grid), layout(grid), 3, 2)
    assert merged.tokens.shape == (2, 3 + 35 - 2 * 3, D)
    assert torch.equal(merged.tokens[:, :3], whole[:, :3])
    assert torch.equal(merged.undo(merged.tokens), whole[:, 3:])
    torch.testing.assert_close(merged.undo(merged.tokens + 1), whole[:, 3:] + 1)
    moved = merged.undo(merged.tokens + torch.arange(32)[:, None])[0, :, 0] - whole[0, 3:, 0]
    counts = moved.round().int().unique(return_counts=True)
    assert counts[0].tolist() == list(range(3, 32))  # each of the 29 tokens behind those before
    assert counts[1].tolist() == [4, 4] + [1] * 27


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_how_far_apart_tokens_are_is_twice_their_cosines_distance(dtype):
    patches = (torch.randn(1, 4, 16) + 3 * torch.randn(1, 1, 16)).to(dtype)
    tokens = patches[0].double()
    cosines = torch.cosine_similarity(tokens, tokens.mean(0, keepdim=True))
    found = spread(patches, (2, 2))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0, 0].double(), 2 * (1 - cosines).sum(), rtol=1e-4, atol=0)


def test_rotations_of_a_batch_of_places():
    x, angle = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 1, 4)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([-angle.sin(), angle.sin()], -1)
    got = rotary.rotate(x, (cos, sin))
    for one in range(2):
        torch.testing.assert_close(got[one : one + 1], rotary.rotate(x[one : one + 1], (cos[one], sin[one])))
    with pytest.raises(ValueError, match="cosines and sines"):
        rotary.rotate(x[:1], (cos, sin))


def test_grids_without_two_cells_are_left_alone():
    """The model runs on pictures of any size; a strip of patches has no cells."""
    model, plain = model_of((4, 4)), tiny_model(image_size=(64, 64), depth=3)
    for size in ((16, 160), (32, 32), (16, 16)):
        images = torch.randn(1, 3, *size)
        torch.testing.assert_close(model.patch_logits(images), plain.patch_logits(images))


def test_none_takes_it_back_and_nothing_else_changes():
    model = model_of((4, 4))
    before = model.patch_logits(images := torch.randn(1, 3, 64, 64))
    assert model.config.merge == Merge(0.5, 1)
    plain = tiny_model(image_size=(64, 64), depth=3).patch_logits(images)
    torch.testing.assert_close(model.merge_tokens(None).patch_logits(images), plain)
    assert model.config.merge is None
    assert not torch.allclose(before, plain)


# How many tokens are left ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize(
    ("grid", "prefix"), [((32, 32), 1), ((32, 32), 0), ((37, 37), 5), ((64, 64), 1), ((48, 32), 2)]
)
def test_what_is_left_fills_blocks_of_rows(grid, prefix, fraction):
    merge = Merge(fraction, 1)
    count = merge.count(grid, prefix)
    assert merge.tokens(grid, prefix) == prefix + grid[0] * grid[1] - 3 * count
    assert merge.tokens(grid, prefix) % ROWS == 0
    assert abs(count / cells(grid) - fraction) <= 1 / 32 + 1e-9


def test_small_grids_take_the_fraction_as_it_is():
    assert Merge(0.25, 1).count((8, 8), 1) == 4
    assert Merge(0.01, 1).count((8, 8), 1) == 1
    assert Merge(0.99, 1).count((8, 8), 1) == 15  # one cell at least stays
    assert [Merge(0.5, 1).count(grid) for grid in ((1, 9), (3, 3), (2, 4), (3, 5))] == [0, 0, 1, 1]


def test_flops_count_the_fewer_tokens():
    config = family_config(variant("seg-b-mask-16"))
    quarter, half = (flops(replace(config, merge=Merge(fraction, 1))) for fraction in (0.25, 0.5))
    assert flops(config) > quarter > half > 0.5 * flops(config)
    assert config.encoder_tokens((32, 32)) == (1025,) * 12
    assert replace(config, merge=Merge(0.5, 3)).encoder_tokens((32, 32)) == (1025,) * 3 + (656,) * 9


# Words, options and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "merge", "tag"),
    [
        ("0.25@1", Merge(0.25, 1), "merge25at1"),
        (".5@12", Merge(0.5, 12), "merge50at12"),
        ("0.125@3", Merge(0.125, 3), "merge12p5at3"),
    ],
)
def test_words(text, merge, tag):
    assert Merge.parse(text) == merge
    assert Merge.parse(str(merge)) == merge
    assert merge.tag == tag


@pytest.mark.parametrize(
    "text", ["", "0.25", "@1", "0.25@", "0.25@1.5", "a@1", "-0.5@1", "0.25@-1", "nan@1", "0.25@1@2"]
)
def test_words_that_say_no_merge(text):
    with pytest.raises(BadOption, match=r"FRACTION@BLOCK, such as 0\.25@1"):
        Merge.parse(text)


WRONG = {
    "nothing": ((0.0, 1), {}, "fraction of merged cells must lie over 0 and below 1; got 0.0"),
    "all": ((1.0, 1), {}, "over 0 and below 1"),
    "no number": (("half", 1), {}, "got 'half'"),
    "not finite": ((math.nan, 1), {}, "got nan"),
    "block 0": ((0.5, 0), {}, "counts from 1; got 0"),
    "half a block": ((0.5, 1.5), {}, "counts from 1; got 1.5"),
    "the last block": ((0.5, 2), {}, "from 1 to 1 of seg-custom-mask-16, not its last; got 2"),
    "one row": ((0.5, 1), {"image_size": (16, 256)}, "1×16 patches has no two cells"),
    "one cell": ((0.5, 1), {"image_size": (48, 48)}, "3×3 patches has no two cells"),
}


@pytest.mark.parametrize("case", WRONG)
def test_impossible_merges(case):
    (fraction, block), changes, message = WRONG[case]
    model = Segmenter(tiny_config(**changes))
    with pytest.raises(BadOption, match=message):
        model.merge_tokens(fraction, block)
    assert model.config.merge is None
    with pytest.raises(BadModel, match=f"merge cannot be .*{message}"):
        tiny_config(merge=Merge(fraction, block), **changes)


def test_saved_and_loaded_as_format_2(tmp_path):
    model = model_of((4, 6))
    model.save(tmp_path / "m.safetensors")
    again = segfast.load_model(tmp_path / "m.safetensors")
    assert again.config == model.config
    torch.testing.assert_close(
        again.eval().patch_logits(x := torch.randn(1, 3, 64, 96)), model.patch_logits(x), atol=0, rtol=0
    )
    values = json.loads(text := model.config.to_json())
    assert (values["format"], values["merge"]) == (2, {"fraction": 0.5, "block": 1})
    with pytest.raises(old_reader.Refused, match="format 2"):
        old_reader.from_json(text)
    assert "merge" not in json.loads(model.merge_tokens(None).config.to_json())


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"fraction": 2, "block": 1}, "merge cannot be 2@1"),
        ({"fraction": 0.5, "block": 9}, "not its last; got 9"),
        ({"fraction": 0.5}, "damaged"),
        ({"fraction": 0.5, "block": 1, "how": "max"}, "merge.how, which this segfast does not know"),
        ("0.5@1", "damaged"),
        ([0.5, 1], "damaged"),
    ],
)
def test_files_that_say_what_no_encoder_does(merge, message):
    values = json.loads(model_of((4, 4)).config.to_json()) | {"merge": merge}
    with pytest.raises(BadModel, match=message):
        from_json(json.dumps(values), "x")


def test_the_engine_of_a_checkpoint_merges():
    model = model_of((4, 4))
    picture = (torch.rand(70, 90, 3) * 255).byte().numpy()
    merged = segfast.Engine(model, device="cpu").segment(picture).labels
    plain = segfast.Engine(model.merge_tokens(None), device="cpu").segment(picture).labels
    assert merged.shape == plain.shape == (70, 90)
    assert (merged != plain).any()


def test_layers_behind_the_merge_are_not_explained():
    model = model_of((4, 4))
    picture = (torch.rand(64, 64, 3) * 255).byte().numpy()
    assert explain.attention_maps(model, picture, [(0, 0)], layers=[1]).maps.shape[-2:] == (4, 4)
    assert explain.attention_maps(model, picture, [(0, 0)], part="decoder").maps.shape[-2:] == (4, 4)
    for call in (
        lambda: explain.attention_maps(model, picture, [(0, 0)]),
        lambda: explain.attention_distances(model, [picture]),
    ):
        with pytest.raises(NotSupported, match=r"behind block 1 .*0\.5@1.* up to 1, or .*merge_tokens\(None\)"):
            call()
