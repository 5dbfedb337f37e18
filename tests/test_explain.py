"""What a model sees: the numbers behind the figures, and the figures themselves."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, tiny_model
from PIL import Image

import segfast
from segfast import explain
from segfast.classes import dataset
from segfast.errors import BadModel, BadOption, NotSupported
from segfast.explain import __main__ as command
from segfast.explain import comparison, distance, embeddings, palette, seam
from segfast.explain.regions import large_and_small, regions_of
from segfast.kernels import reference

HEADS = {"width": 64, "heads": 2, "depth": 3}


@pytest.fixture(scope="module")
def model():
    return tiny_model(**HEADS)


# attention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_rows_of_attention_sum_to_one(model, photo, part):
    found = explain.attention_maps(model, photo, part=part)
    np.testing.assert_allclose(found.maps.sum((-1, -2)) + found.others.sum(-1), 1, atol=1e-5)
    assert found.maps.min() >= 0
    assert found.maps.shape[-2:] == (4, 6)  # 60×90 becomes 64×96
    assert found.others.shape[-1] == (1 if part == "encoder" else 7)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@torch.inference_mode()
def test_rows_are_those_of_the_whole_matrix(model, photo, part):
    """Against softmax(q·kᵀ/√d) of all tokens, from the model's own qkv, layer 2, head 2."""
    view = explain.look(photo, model.config)
    block = (model.encoder if part == "encoder" else model.decoder).blocks[1]
    seen = []
    handle = block.attn.register_forward_pre_hook(lambda module, inputs: seen.append(module.qkv(inputs[0])))
    model.patch_logits(torch.from_numpy(view.inputs / 127.5 - 1).permute(2, 0, 1)[None])
    handle.remove()
    q, k, _ = seen[0][0].unflatten(-1, (3, 2, 32)).unbind(1)
    whole = (q[:, 1] @ k[:, 1].T / 32**0.5).softmax(-1)  # [N, N]
    name, first = ("class token", 1) if part == "encoder" else ("thing 3", 0)
    place = 0 if part == "encoder" else 24 + 3
    found = explain.attention_maps(model, photo, [(0, 0), (2, 5), name], part=part, layers=[2], heads=[2])
    for query, row in enumerate((first, first + 2 * 6 + 5, place)):
        np.testing.assert_allclose(found.maps[query, 0, 0].ravel(), whole[row, first : first + 24], atol=1e-5)


def test_the_model_is_left_as_it_is(model, photo):
    before = [block.attn.attend for block in model.encoder.blocks]
    explain.attention_maps(model, photo, [(0, 0)])
    assert [block.attn.attend for block in model.encoder.blocks] == before


ENCODERS = {
    "DINOv2 with registers": {"registers": 4, "layer_scale": True, "patch_positions": True},
    "DINOv3": {"registers": 4, "layer_scale": True, "rope": True, "qkv_bias": False},
    "SigLIP2": {"class_token": False, "patch_positions": True},
}


@pytest.mark.parametrize("kind", ENCODERS)
@torch.inference_mode()
def test_encoders_of_today_are_looked_into(photo, kind):
    """Against softmax of the scores that the attention itself gets, whatever turned q and k before."""
    model = tiny_model(width=128, heads=2, scale=2.0, **ENCODERS[kind])
    attention, prefix = model.encoder.blocks[1].attn, model.config.prefix_tokens
    view, whole = explain.look(photo, model.config), []

    def attend(q, k, v):
        scores = torch.einsum("bnad,bmad->banm", q, k) / q.shape[-1] ** 0.5
        whole.append(scores.softmax(-1)[0])  # [A, N, N]
        return torch.einsum("banm,bmad->bnad", scores.softmax(-1), v)

    before, attention.attend = attention.attend, attend
    mean, std = (torch.tensor(of)[:, None, None] for of in (model.config.protocol.mean, model.config.protocol.std))
    model.patch_logits(((torch.from_numpy(view.inputs).permute(2, 0, 1) / 255 - mean) / std)[None])
    attention.attend = before
    found = explain.attention_maps(model, photo, [(2, 5)], layers=[2])
    expected = whole[0][:, prefix + 2 * 6 + 5]  # [A, N]
    np.testing.assert_allclose(found.maps[0, 0].reshape(2, -1), expected[:, prefix:], atol=1e-5)
    np.testing.assert_allclose(found.others[0, 0], expected[:, :prefix], atol=1e-5)
    if prefix:
        first = explain.attention_maps(model, photo, ["class token"], layers=[2])
        np.testing.assert_allclose(first.maps[0, 0].reshape(2, -1), whole[0][:, 0, prefix:], atol=1e-5)
    else:
        assert explain.attention_maps(model, photo).queries[-1] != "class token"
        with pytest.raises(NotSupported, match="has no class token; name patches"):
            explain.attention_maps(model, photo, ["class token"])
    apart = np.hypot(*(np.indices((4, 6)).reshape(2, -1, 1) - np.indices((4, 6)).reshape(2, 1, -1))) * 16
    among = whole[0][:, prefix:, prefix:]
    among = (among / among.sum(-1, keepdim=True)).numpy()
    distances = explain.attention_distances(model, [photo])
    np.testing.assert_allclose(distances.pixels[1], (among * apart).sum(-1).mean(-1), rtol=1e-4)


def test_a_distillation_token_is_no_patch(photo):
    found = explain.attention_maps(tiny_model(distilled=True), photo, [(0, 0), "class token"])
    assert found.others.shape[-1] == 2
    np.testing.assert_allclose(found.maps.sum((-1, -2)) + found.others.sum(-1), 1, atol=1e-5)


def test_maps_lie_over_their_patches(model):
    """A picture of 70×100 becomes 64×91: the last column of patches is partly padding."""
    view = explain.look(np.zeros((70, 100, 3), np.uint8), model.config)
    assert (view.size, view.grid) == ((64, 91), (4, 6))
    hot = np.zeros((4, 6), np.float32)
    hot[1, 3] = 1
    large = view.enlarge(hot)
    assert large.shape == (70, 100)
    row, column = np.unravel_index(large.argmax(), large.shape)
    assert view.patch_at(int(column), int(row)) == (1, 3)
    left, top, width, height = view.box((1, 3))
    assert left <= column < left + width
    assert top <= row < top + height
    np.testing.assert_allclose(view.enlarge(np.full((2, 4, 6), 0.5, np.float32)), 0.5)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"queries": [(4, 0)]}, "rows go from 0 to 3, columns from 0 to 5"),
        ({"queries": [(0, -1)]}, "no patch"),
        ({"queries": [7]}, "a patch"),
        ({"queries": []}, "name a patch"),
        ({"queries": ["thing 1"]}, "part='decoder'"),
        ({"queries": ["car"], "part": "decoder"}, "its classes are thing 0"),
        ({"layers": [4]}, "layers count from 1 to 3"),
        ({"layers": [0]}, "layers count from 1"),
        ({"layers": 3}, r"a list of numbers, such as \[1, 3\]"),
        ({"queries": "class token"}, r"a list, such as \['class token'\]"),
        ({"heads": [3]}, "heads count from 1 to 2"),
        ({"heads": []}, "heads count"),
        ({"part": "head"}, "'encoder' or 'decoder'"),
        ({"size": 9999}, "between the patch, 16, and 8192"),
    ],
)
def test_what_is_not_there_is_refused(model, photo, options, remedy):
    with pytest.raises(BadOption, match=remedy):
        explain.attention_maps(model, photo, **options)


def test_pixels_outside_the_picture_are_refused(model, photo):
    with pytest.raises(BadOption, match="x goes from 0 to 89, y from 0 to 59"):
        explain.look(photo, model.config).patch_at(90, 0)


def test_engines_and_linear_decoders_say_what_they_lack(model, photo, tiny_onnx):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    for function, arguments in (
        (explain.attention_maps, (photo,)),
        (explain.attention_distances, ([photo],)),
        (explain.class_embeddings, ()),
        (explain.class_masks, (photo,)),
    ):
        with pytest.raises(NotSupported, match="pass the checkpoint"):
            function(engine, *arguments)
    linear = tiny_model(decoder="linear", name="seg-custom-16")
    for function, arguments in ((explain.class_embeddings, ()), (explain.class_masks, (photo,))):
        with pytest.raises(NotSupported, match="take a mask model"):
            function(linear, *arguments)
    with pytest.raises(NotSupported, match="ask for its encoder"):
        explain.attention_maps(linear, photo, part="decoder")


def test_patches_are_those_of_a_large_and_a_small_region():
    labels = np.zeros((6, 9), int)
    labels[1:3, 5:8] = 4  # 6 patches
    labels[4, 0:4] = 2  # 4, the smallest that counts
    labels[0, 0] = 3  # one alone
    assert [(region.area, region.label) for region in regions_of(labels)] == [(43, 0), (6, 4), (4, 2), (1, 3)]
    large, small = large_and_small(labels)
    assert labels[large] == 0
    assert labels[small] == 2
    assert large_and_small(np.zeros((2, 2), int)) == ((0, 0),)


# distance -------------------------------------------------------------------------------------------------------------


def test_distances_of_attention_that_is_known():
    N, sharp = 6, 100.0
    own = torch.zeros(N, 1, N)
    own[:, 0] = torch.eye(N) * sharp  # every patch sees itself alone
    assert distance.mean_distance(own, own, (2, 3), 16) == pytest.approx([0], abs=1e-6)
    next_to = own.roll(1, 0)  # each of a row of 6 sees the one to its right, the last sees the first
    assert distance.mean_distance(own, next_to, (1, 6), 8) == pytest.approx([8 * (5 * 1 + 5) / 6], rel=1e-5)
    nothing = torch.zeros(4, 1, 2)  # every patch sees all alike: of a square of 4, 0, 1, 1 and √2 patches away
    assert distance.mean_distance(nothing, nothing, (2, 2), 10) == pytest.approx([10 * (2 + 2**0.5) / 4], rel=1e-6)


def test_chunked_equals_whole():
    q, k = (torch.randn(35, 3, 8, generator=torch.manual_seed(seed)) for seed in (0, 1))
    whole = distance.mean_distance(q, k, (5, 7), 16, chunk=35)
    for chunk in (1, 4, 34, None):
        np.testing.assert_allclose(distance.mean_distance(q, k, (5, 7), 16, chunk=chunk), whole, rtol=1e-6)
    rows = torch.cat([seam.weights(q[start : start + 4], k) for start in range(0, 35, 4)], 1)
    torch.testing.assert_close(rows, seam.weights(q, k))


def test_distances_are_the_mean_over_pictures(model, photo):
    other = photo[::-1].copy()
    one, two = (explain.attention_distances(model, [picture]) for picture in (photo, other))
    both = explain.attention_distances(model, [photo, other])
    assert both.pixels.shape == (3, 2)
    np.testing.assert_allclose(both.pixels, (one.pixels + two.pixels) / 2)
    assert both.pixels.min() > 0
    assert both.pixels.max() < np.hypot(64, 96)
    with pytest.raises(BadOption, match="name at least one"):
        explain.attention_distances(model, [])


def test_no_matrix_of_all_tokens_is_made(model, monkeypatch):
    """Of 16 × 16 patches, whose matrix has 65,536 numbers a head, at most 32 rows are held."""
    largest, whole = [], seam.weights
    monkeypatch.setattr(distance, "_CHUNK_BYTES", 32 * 4 * 256 * 2)
    monkeypatch.setattr(seam, "weights", lambda q, k: largest.append(whole(q, k).numel()) or whole(q, k))
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    explain.attention_distances(model, [picture], size=256)
    explain.attention_maps(model, picture, [(0, 0)], size=256)
    assert max(largest) <= 32 * 256 * 2


# classes --------------------------------------------------------------------------------------------------------------


def test_embeddings_are_projected_as_numpy_does(model):
    found = explain.class_embeddings(model)
    vectors = model.decoder.cls_emb[0].detach().numpy().astype(np.float64)
    np.testing.assert_array_equal(found.vectors, vectors.astype(np.float32))
    centred = vectors - vectors.mean(0)
    _, lengths, directions = np.linalg.svd(centred)
    np.testing.assert_allclose(np.abs(found.plane), np.abs(centred @ directions[:2].T), atol=1e-6)
    np.testing.assert_allclose(found.explained, (lengths**2 / (lengths**2).sum())[:2], rtol=1e-6)
    for axis in found.plane.T:
        assert axis[np.abs(axis).argmax()] > 0
    a, b = vectors[2], vectors[5]
    assert found.similarity[2, 5] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    np.testing.assert_allclose(np.diag(found.similarity), 1)


@torch.inference_mode()
def test_class_masks_are_those_of_equation_4(model, photo):
    """Against cosines of what leaves the last block; through the LayerNorm over classes they are the logits."""
    decoder, tokens = model.decoder, []
    found = explain.class_masks(model, photo)
    handle = decoder.blocks[-1].register_forward_hook(lambda module, inputs, output: tokens.append(output))
    logits = model.patch_logits(torch.from_numpy(found.view.inputs / 127.5 - 1).permute(2, 0, 1)[None])[0]
    handle.remove()
    normed = decoder.decoder_norm(tokens[0][0])
    patches, classes = normed[:-7] @ decoder.proj_patch, normed[-7:] @ decoder.proj_classes
    cosines = torch.nn.functional.cosine_similarity(classes[:, None], patches[None], dim=-1)  # [K, N]
    np.testing.assert_allclose(found.cosines.reshape(7, -1), cosines, atol=1e-5)
    again = decoder.mask_norm(torch.from_numpy(found.cosines).permute(1, 2, 0)).permute(2, 0, 1)
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-4)
    assert found.enlarged(3).shape == photo.shape[:2]
    wins = np.bincount(found.cosines.argmax(0).ravel(), minlength=7)
    assert np.all(np.diff(wins[found.ranked()]) <= 0)
    assert sorted(found.ranked()) == list(range(7))


def test_a_single_class_has_a_place():
    plane, explained = embeddings.project(np.ones((1, 4), np.float32))
    assert plane.tolist() == [[0, 0]]
    assert explained.tolist() == [0, 0]


def test_a_safe_palette_is_safe():
    """For every eye, 12 of its colours differ by more than those of ADE20K's first 12 classes do."""
    colours = explain.safe_palette(12)
    assert len(set(colours)) == 12

    def closest(colours):
        seen = palette._as_seen(np.array(colours, float))
        return min(palette.difference(seen[:, i : i + 1], seen[:, j : j + 1])[0] for i in range(12) for j in range(i))

    assert closest(colours) > 15 > closest(dataset("ade20k")[1][:12])
    assert explain.safe_palette(150)[:12] == colours
    assert len(set(explain.safe_palette(256))) == 256
    placed = palette.apply(((0, 0, 0),) * 4, [2, 0])
    assert placed[2] == colours[0]
    assert placed[0] == colours[1]
    assert set(placed) == set(colours[:4])
    with pytest.raises(BadOption, match="from 1 to 256"):
        explain.safe_palette(0)


# scores ---------------------------------------------------------------------------------------------------------------


def test_doubt_of_scores_that_are_known():
    scores = np.array([[1, 0.25, 0.5, 0.7], [0, 0.25, 0.5, 0.1], [0, 0.25, 0, 0.1], [0, 0.25, 0, 0.1]], np.float32)
    entropy, margin = explain.doubt(scores[:, None])
    mixed = -(0.7 * np.log(0.7) + 3 * 0.1 * np.log(0.1)) / np.log(4)
    np.testing.assert_allclose(entropy, [[0, 1, 0.5, mixed]], atol=1e-6)
    np.testing.assert_allclose(margin, [[1, 0, 0, 0.6]], atol=1e-6)
    assert [part.tolist() for part in explain.doubt(np.ones((1, 1, 1), np.float32))] == [[[0]], [[1]]]
    with pytest.raises(BadOption, match=r"pass Segmentation\.scores"):
        explain.doubt(np.ones((4, 4), np.float32))


def test_scores_need_no_checkpoint(tiny_onnx, tiny_labels_onnx, photo):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    found = explain.score_maps(engine, photo)
    np.testing.assert_allclose(found.scores.sum(0), 1, atol=1e-5)
    first, second = np.sort(found.scores, 0)[[-1, -2]]
    np.testing.assert_allclose(found.margin, first - second, atol=1e-6)
    with pytest.raises(NotSupported, match="--output logits"):
        explain.score_maps(segfast.Engine(tiny_labels_onnx, device="cpu"), np.zeros((64, 64, 3), np.uint8))


# comparison -----------------------------------------------------------------------------------------------------------


def test_closeups_are_where_most_differs():
    differ = np.zeros((20, 30), bool)
    differ[2:6, 3:7] = True
    differ[12:15, 20:24] = True
    first, second = comparison.worst_boxes(differ, 5, 2)
    assert differ[first.slices].sum() == 16
    assert differ[second.slices].sum() == 12
    assert comparison.worst_boxes(differ, 5, 9)[2:] == ()
    assert comparison.worst_boxes(np.zeros((4, 4), bool), 2, 2) == ()


def test_closeups_do_not_overlap():
    boxes = comparison.worst_boxes(np.ones((10, 10), bool), 4, 9)
    covered = np.zeros((10, 10), int)
    for box in boxes:
        covered[box.slices] += 1
    assert len(boxes) == 4
    assert covered.max() == 1


def test_models_are_compared(model, photo):
    coarse = tiny_model(seed=1, patch=32, name="seg-custom-mask-32")
    engines = [segfast.Engine(of, device="cpu") for of in (model, coarse)]
    found = explain.compare(engines, photo)
    assert found.patches == (16, 32)
    first, second = (engine.segment(photo).labels for engine in engines)
    np.testing.assert_array_equal(found.disagreement, first != second)
    for box in found.boxes:
        assert found.disagreement[box.slices].any()
    with pytest.raises(BadOption, match="two models or more"):
        explain.compare(engines[:1], photo)
    other = segfast.Engine(tiny_model(classes=tuple("abcdefg")), device="cpu")
    with pytest.raises(BadModel, match="'thing 0' is 'a' there"):
        explain.compare([engines[0], other], photo)
    fewer = segfast.Engine(tiny_model(num_classes=3), device="cpu")
    with pytest.raises(BadModel, match="7 classes and 3"):
        explain.compare([engines[0], fewer], photo)


def test_boundaries_are_found():
    labels = np.zeros((9, 9), int)
    labels[:, 5:] = 1
    near = comparison._near_boundaries([labels], 2)
    assert near[0].tolist() == [False] * 3 + [True] * 5 + [False]


# the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory, model):
    """Checkpoints of two models, and a picture."""
    home = tmp_path_factory.mktemp("explain")
    model.save(home / "m.safetensors")
    tiny_model(seed=1, patch=32, name="seg-custom-mask-32").save(home / "coarse.safetensors")
    drawn = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(drawn).resize((135, 90)).save(home / "a.png")
    return home


@pytest.fixture
def run(monkeypatch):
    """The command in this process: its exit code."""
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["segfast.explain", *map(str, arguments), "--device", "cpu"])
        return command.main()

    return go


def test_the_command_draws_everything(tmp_path, files, run, capsys):
    out = tmp_path / "deep" / "out"
    arguments = (files / "m.safetensors", files / "a.png", "-o", out, "--dpi", 100)
    assert run(*arguments, "--compare", files / "coarse.safetensors", "--palette", "safe") == 0
    kinds = ("attention-encoder", "attention-decoder", "masks", "scores", "doubt", "comparison")
    pictures = [f"a-{kind}" for kind in kinds]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [f"{name}.{ending}" for name in pictures for ending in ("png", "npz")]
        + [f"{name}.{ending}" for name in ("distance", "embeddings") for ending in ("png", "json")]
    )
    assert capsys.readouterr().out.splitlines() == [
        f"{out / name}.png" for name in (*pictures, "distance", "embeddings")
    ]
    for path in out.glob("*.png"):
        shown = np.asarray(Image.open(path).convert("RGB"))
        assert min(shown.shape[:2]) > 75
        assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 100, path.name  # not blank
        assert np.mean(np.any(shown != 255, axis=-1)) > 0.02
    with np.load(out / "a-attention-encoder.npz") as saved:
        np.testing.assert_allclose(saved["maps"].sum((-1, -2)) + saved["others"].sum(-1), 1, atol=1e-5)
        assert saved["queries"][-1] == "class token"
    with np.load(out / "a-masks.npz") as saved:
        assert saved["cosines"].shape == (7, 4, 6)
    with np.load(out / "a-scores.npz") as saved:
        assert saved["scores"].shape == (7, 90, 135)
        assert saved["classes"][6] == "thing 6"
    with np.load(out / "a-comparison.npz") as saved:
        np.testing.assert_array_equal(saved["disagreement"], saved["labels"][0] != saved["labels"][1])
    assert np.shape(json.loads((out / "distance.json").read_text())["pixels"]) == (3, 2)
    assert np.shape(json.loads((out / "embeddings.json").read_text())["similarity"]) == (7, 7)


def test_an_exported_file_draws_its_scores_and_says_what_it_lacks(tmp_path, files, tiny_onnx):
    """In a process of its own, in which PyTorch cannot be imported."""
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    line = f"import sys; sys.modules['torch'] = None; sys.argv = ['', {str(tiny_onnx)!r}, *sys.argv[1:]]; "
    line += "from segfast.explain.__main__ import main; sys.exit(main())"
    arguments = [files / "a.png", "-o", tmp_path, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", line, *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("left out") == 4
    assert "name the checkpoint it was made from" in ended.stdout
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a-doubt.png", "a-scores.png"]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--figures", "comparison"], "name them with --compare"),
        (["--figures", "attention", "--layers", "9"], "layers count from 1 to 3"),
        (["--figures", "distance", "--size", "8"], "between the patch, 16, and 8192"),
    ],
)
def test_the_command_refuses_what_is_not_there(tmp_path, files, arguments, remedy, run):
    with pytest.raises(BadOption, match=remedy):
        run(files / "m.safetensors", files / "a.png", "-o", tmp_path / "out", *arguments)
    assert not list(tmp_path.glob("out/*"))


def test_pictures_that_cannot_be_drawn_are_listed(tmp_path, files, run, capsys):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    Image.new("RGB", (64, 64)).save(tmp_path / "small.png")
    pictures = (tmp_path / "bad.png", tmp_path / "small.png", files / "a.png")
    arguments = ("--figures", "distance", "attention", "--layers", "1", "--at", "100,50", "--dpi", "50")
    assert run(files / "m.safetensors", *pictures, "-o", tmp_path / "out", *arguments) == 1
    failures = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in failures] == ["failed"] * 2
    assert "small.png: (100, 50) is outside the picture; x goes from 0 to 63" in failures[1]
    assert not list(tmp_path.glob("out/small*"))
    assert (tmp_path / "out" / "a-attention-encoder.png").exists()
    assert (tmp_path / "out" / "distance.png").exists()


def test_upsampling_is_that_of_the_model(model):
    """Maps are enlarged as logits are: bilinear, corners not aligned."""
    view = explain.look(np.zeros((64, 64, 3), np.uint8), model.config)
    values = np.random.default_rng(0).random((3, 4, 4), np.float32)
    np.testing.assert_allclose(view.enlarge(values), reference.upsample(values, (64, 64)), atol=1e-6)
