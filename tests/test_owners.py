"""Encoders in the names of timm, of their owners and of Transformers are the same encoder; what is none of ours is refused."""

import re
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import timm
import torch
from safetensors.torch import save_file

import segfast
from segfast.checkpoints.encoders import start_from
from segfast.config import family_config
from segfast.errors import BadModel, BadOption, DownloadFailed, MissingRuntime, UnknownModel
from segfast.variants import at_patch, variant

TIMM = {
    "seg-s-dinov2-14": "vit_small_patch14_dinov2",
    "seg-s-dinov2reg-14": "vit_small_patch14_reg4_dinov2",
    "seg-s-dinov3-16": "vit_small_patch16_dinov3_qkvb",
    "seg-splus-dinov3-16": "vit_small_plus_patch16_dinov3",
    "seg-b-siglip2-16": "vit_base_patch16_siglip_512",
}
GRID = (4, 4)


@pytest.fixture(scope="module")
def encoders():
    """timm's model of every family, two blocks deep, no weight neutral; made once."""
    made = {}

    def get(name):
        if name not in made:
            P = variant(name).patch
            vit = timm.create_model(TIMM[name], img_size=GRID[0] * P, dynamic_img_size=True, num_classes=0, depth=2)
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in vit.parameters():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            made[name] = vit.eval()
        return made[name]

    return get


def config_of(name, **changes):
    row = variant(name)
    return replace(family_config(row, 3, GRID[0] * row.patch), depth=2, **changes)


def renamed(state, *rules):
    """A state under other names, as regular expressions say."""
    for pattern, other in rules:
        state = {re.sub(pattern, other, name): tensor for name, tensor in state.items()}
    return state


def split(state, pattern, parts):
    """q, k and v apart: each tensor whose name matches becomes three."""
    out = {}
    for name, tensor in state.items():
        found = re.search(pattern, name)
        pieces = zip(parts, tensor.chunk(3), strict=True) if found else [(None, tensor)]
        out |= {name if part is None else name.replace(found[0], part): piece.clone() for part, piece in pieces}
    return out


def with_class_position(state):
    """DINOv2's own files with registers have a position for the class token, too."""
    state = dict(state)
    extra = torch.full_like(state["cls_token"], 0.5)
    state["cls_token"] = state["cls_token"] - extra
    state["pos_embed"] = torch.cat([extra, state["pos_embed"]], 1)
    return state


def as_timm(state):
    return state


def as_dinov2(state):
    if "reg_token" in state:
        state = with_class_position(state)
    return renamed(state, ("reg_token", "register_tokens")) | {"mask_token": torch.ones(1, 384)}


def in_chunks(state):
    return renamed(as_dinov2(state), (r"^blocks\.(\d)", r"blocks.0.\1"))


def as_dinov2_of_transformers(state):
    state = split(as_dinov2(state), r"attn\.qkv", [f"attention.attention.{part}" for part in ("query", "key", "value")])
    return renamed(
        state,
        (r"attn\.proj", "attention.output.dense"),
        (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
        (r"^blocks", "encoder.layer"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^pos_embed", "embeddings.position_embeddings"),
        (r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1"),
        (r"^norm", "layernorm"),
        (r"^", "dinov2."),
    ) | {"classifier.weight": torch.ones(2, 2)}


def with_biases(state):
    """DINOv3's own files have a bias of q, k and v and say in a mask that k's does not count."""
    out = dict(state)
    for name, tensor in state.items():
        if name.endswith("attn.q_bias"):
            block = name.removesuffix("q_bias")
            q, v = out.pop(name), out.pop(f"{block}v_bias")
            out[f"{block}qkv.bias"] = torch.cat([q, torch.full_like(q, 7.0), v])
        elif name.endswith("attn.qkv.weight") and f"{name.removesuffix('qkv.weight')}q_bias" not in state:
            out[f"{name.removesuffix('weight')}bias"] = torch.zeros(len(tensor))
    masks = {f"{name}_mask": torch.ones(len(t)) for name, t in out.items() if name.endswith("qkv.bias")}
    return out | masks


def as_dinov3(state):
    return renamed(
        with_biases(state),
        (r"gamma_(\d)", r"ls\1.gamma"),
        ("reg_token", "storage_tokens"),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
        (r"mlp\.fc2", "mlp.w3" if any("fc1_g" in name for name in state) else "mlp.fc2"),
    ) | {"mask_token": torch.ones(1, 384), "rope_embed.periods": torch.ones(16)}


def as_dinov3_of_transformers(state):
    state = {name: tensor for name, tensor in with_biases(state).items() if not name.endswith("_mask")}
    state = split(state, r"attn\.qkv", [f"attention.{part}_proj" for part in "qkv"])
    state = {name: tensor for name, tensor in state.items() if not name.endswith("k_proj.bias")}
    gated = any("fc1_g" in name for name in state)
    return renamed(
        state,
        (r"attn\.proj", "attention.o_proj"),
        (r"gamma_(\d)", r"layer_scale\1.lambda1"),
        (r"mlp\.fc1_g", "mlp.gate_proj"),
        (r"mlp\.fc1_x" if gated else r"mlp\.fc1", "mlp.up_proj"),
        (r"mlp\.fc2", "mlp.down_proj"),
        (r"^blocks", "layer"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings"),
        (r"^cls_token", "embeddings.cls_token"),
        (r"^reg_token", "embeddings.register_tokens"),
    ) | {"embeddings.mask_token": torch.ones(1, 1, 384)}


def as_siglip_of_transformers(state):
    state = {name: tensor for name, tensor in state.items() if not name.startswith("attn_pool")}
    state = {**state, "pos_embed": state["pos_embed"][0].clone()}
    return renamed(
        split(state, r"attn\.qkv", [f"self_attn.{part}_proj" for part in "qkv"]),
        (r"attn\.proj", "self_attn.out_proj"),
        (r"\.norm(\d)", r".layer_norm\1"),
        (r"^blocks", "encoder.layers"),
        (r"^patch_embed\.proj", "embeddings.patch_embedding"),
        (r"^pos_embed", "embeddings.position_embedding.weight"),
        (r"^norm", "post_layernorm"),
        (r"^", "vision_model."),
    ) | {
        "vision_model.head.probe": torch.ones(1, 1, 768),
        "text_model.final_layer_norm.weight": torch.ones(768),
        "logit_scale": torch.ones(1),
    }


FORMS = [
    *((name, as_timm) for name in TIMM),
    ("seg-s-dinov2-14", as_dinov2),
    ("seg-s-dinov2-14", in_chunks),
    ("seg-s-dinov2-14", as_dinov2_of_transformers),
    ("seg-s-dinov2reg-14", as_dinov2),
    ("seg-s-dinov2reg-14", as_dinov2_of_transformers),
    ("seg-s-dinov3-16", as_dinov3),
    ("seg-s-dinov3-16", as_dinov3_of_transformers),
    ("seg-splus-dinov3-16", as_dinov3),
    ("seg-splus-dinov3-16", as_dinov3_of_transformers),
    ("seg-b-siglip2-16", as_siglip_of_transformers),
]


@pytest.mark.parametrize(("name", "form"), FORMS, ids=lambda value: getattr(value, "__name__", value))
@torch.inference_mode()
def test_every_form_of_names_is_the_same_encoder(tmp_path, encoders, name, form):
    suffix = ".pth" if form in (as_dinov2, in_chunks, as_dinov3) else ".safetensors"  # as their owners publish them
    vit, path = encoders(name), tmp_path / f"encoder{suffix}"
    state = {key: tensor.contiguous() for key, tensor in form(dict(vit.state_dict())).items()}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    model = start_from(str(path), config_of(name)).eval()
    images = torch.randn(1, 3, *(side * variant(name).patch for side in GRID))
    expected = vit.forward_features(images)[:, vit.num_prefix_tokens :]
    assert expected.std() > 0.1
    torch.testing.assert_close(model.encoder(images), expected, atol=1e-4, rtol=1e-4)


def test_biases_that_are_0_are_left_out(tmp_path, encoders):
    torch.save(as_dinov3(dict(encoders("seg-splus-dinov3-16").state_dict())), tmp_path / "a.pth")
    assert not start_from(str(tmp_path / "a.pth"), config_of("seg-splus-dinov3-16")).config.qkv_bias
    torch.save(as_dinov3(dict(encoders("seg-s-dinov3-16").state_dict())), tmp_path / "b.pth")
    assert start_from(str(tmp_path / "b.pth"), config_of("seg-s-dinov3-16")).config.qkv_bias


REFUSED = {
    "another family": ("seg-s-dinov2-14", "seg-s-dinov2reg-14", r"DINOv2 without registers.*seg-s-dinov2-14"),
    "registers": ("seg-s-dinov2reg-14", "seg-s-dinov2-14", r"DINOv2 with registers.*choose seg-s-dinov2reg-14"),
    "SwiGLU": ("seg-splus-dinov3-16", "seg-s-dinov3-16", r"DINOv3 with SwiGLU.*choose seg-splus-dinov3-16"),
    "a plain ViT's name": ("seg-b-siglip2-16", "seg-b-16", r"SigLIP.*instead of a plain ViT.*choose seg-b-siglip2-16"),
    "another size": ("seg-s-dinov3-16", "seg-b-dinov3-16", r"width 384.*instead of.*768.*choose seg-s-dinov3-16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_encoder_is_named(tmp_path, encoders, case):
    theirs, wanted, message = REFUSED[case]
    torch.save(dict(encoders(theirs).state_dict()), tmp_path / "e.pth")
    with pytest.raises(BadModel, match=message):
        start_from(str(tmp_path / "e.pth"), config_of(wanted))


def test_half_a_checkpoint_lists_what_is_missing(tmp_path, encoders):
    state = {k: t for k, t in encoders("seg-s-dinov2-14").state_dict().items() if not k.startswith("blocks.1.")}
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(BadModel, match=r"blocks\.1\.norm1\.weight is missing.*and \d+ more"):
        start_from(str(tmp_path / "half.pth"), config_of("seg-s-dinov2-14"))


LARGE = {
    "DINOv2-g": {
        "patch_embed.proj.weight": (1536, 3, 14, 14),
        "cls_token": (1, 1, 1536),
        "blocks.0.ls1.gamma": (1536,),
    },
    r"DINOv3-H\+": {"patch_embed.proj.weight": (1280, 3, 16, 16), "storage_tokens": (1, 4, 1280)},
    "DINOv3-7B": {"embeddings.patch_embeddings.weight": (4096, 3, 16, 16), "embeddings.register_tokens": (1, 4, 4096)},
    "So400m": {"vision_model.embeddings.patch_embedding.weight": (1152, 3, 16, 16)},
    "ConvNeXt": {"downsample_layers.0.0.weight": (96, 3, 4, 4), "stages.0.0.dwconv.weight": (96, 1, 7, 7)},
    "Swin": {"patch_embed.proj.weight": (96, 3, 4, 4), "layers.0.blocks.0.attn.qkv.weight": (288, 96)},
}


@pytest.mark.parametrize("what", LARGE)
def test_files_of_encoders_that_there_are_not_are_refused_by_name(tmp_path, what):
    torch.save({name: torch.zeros(shape) for name, shape in LARGE[what].items()}, tmp_path / "large.pth")
    with pytest.raises(BadModel, match=what):
        segfast.create_model("seg-l-dinov3-16", image_size=64, pretrained=tmp_path / "large.pth")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vit_giant_patch14_dinov2.lvd142m", "DINOv2-g"),
        ("vit_huge_plus_patch16_dinov3.lvd1689m", r"DINOv3-H\+"),
        ("vit_7b_patch16_dinov3.lvd1689m", "DINOv3-7B"),
        ("vit_so400m_patch16_siglip_512.v2_webli", "So400m"),
        ("convnext_base", "no plain ViT"),
        ("swin_tiny_patch4_window7_224", "no plain ViT"),
        ("vit_small_patch14_dinov2.lvd142m", "choose seg-s-dinov2-14"),
        ("vit_base_patch16_dinov3.lvd1689m", "width 768"),
    ],
)
def test_timm_names_are_refused_before_anything_is_fetched(monkeypatch, name, why):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: pytest.fail("it was fetched"))
    with pytest.raises(BadModel, match=why):
        segfast.create_model("seg-s-dinov3-16", image_size=64, pretrained=name)


@pytest.mark.parametrize(
    ("name", "mlp"), [("vit_large_patch16_siglip_384", "gelu"), ("vit_large_patch16_siglip_512", "gelu-tanh")]
)
def test_timm_names_bring_their_gelu(monkeypatch, name, mlp):
    """Of the same sizes, timm gives one the exact GELU and one its approximation."""
    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **more: made(name, depth=1, img_size=64, **more))
    config = replace(family_config(variant("seg-l-siglip2-16"), 3, 64), depth=1)
    assert start_from(f"{name}.v2_webli", config).config.mlp == mlp


@pytest.mark.parametrize(
    "name", ["seg-g-dinov2-14", "seg-hplus-dinov3-mask-16", "seg-7b-dinov3-16", "seg-so400m-siglip2-16"]
)
def test_names_of_members_that_there_are_not_say_why(name):
    with pytest.raises(UnknownModel, match=r"2 GB|heads are 72"):
        segfast.create_model(name)


def test_an_old_timm_is_said_to_be_one(monkeypatch):
    monkeypatch.setattr(timm.models, "is_model_pretrained", lambda name: False)
    with pytest.raises(MissingRuntime, match=r"older than vit_small_patch16_dinov3.*--upgrade timm"):
        segfast.create_model("seg-s-dinov3-16", image_size=64, pretrained=True)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_download_says_where_access_is_asked_for(tmp_path, monkeypatch, status):
    class Gate(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    try:
        with pytest.raises(
            DownloadFailed, match=r"ask for access at https://huggingface\.co/.*ai\.meta\.com.*pretrained=FILE"
        ):
            segfast.create_model("seg-s-dinov3-16", image_size=64, pretrained=True)
    finally:
        server.shutdown()


# Patches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [8, 32])
@torch.inference_mode()
def test_an_encoder_of_another_patch_gives_what_timms_gives(tmp_path, encoders, patch):
    """timm's own loader resamples patch and positions alike."""
    name = "seg-s-dinov2-14"
    vit = encoders(name)
    torch.save(dict(vit.state_dict()), tmp_path / "e.pth")
    row = at_patch(variant(name), patch)
    config = replace(family_config(row, 3, 6 * patch), depth=2)
    model = start_from(str(tmp_path / "e.pth"), config, resize=True).eval()
    assert model.config.name == f"seg-s-dinov2-{patch}"
    theirs = timm.create_model(TIMM[name], img_size=6 * patch, patch_size=patch, num_classes=0, depth=2)
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(vit.state_dict()), theirs))
    images = torch.randn(1, 3, 6 * patch, 6 * patch)
    expected = theirs.eval().forward_features(images)[:, 1:]
    torch.testing.assert_close(model.encoder(images), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_an_enlarged_picture_has_the_embedding_of_the_picture(encoders):
    """FlexiViT: patches of 28 see an enlarged picture as those of 14 the picture."""
    from segfast.checkpoints.patches import resample_patches

    weight = encoders("seg-s-dinov2-14").patch_embed.proj.weight
    picture = torch.randn(1, 3, 14, 14)
    large = torch.nn.functional.interpolate(picture, size=(28, 28), mode="bicubic", align_corners=False, antialias=True)
    small, same = (weight * picture).sum((1, 2, 3)), (resample_patches(weight, 28) * large).sum((1, 2, 3))
    torch.testing.assert_close(same, small, atol=1e-3, rtol=1e-4)


def test_a_patch_is_resampled_only_when_it_is_asked_for(tmp_path, encoders):
    torch.save(dict(encoders("seg-s-dinov2-14").state_dict()), tmp_path / "e.pth")
    config = replace(family_config(at_patch(variant("seg-s-dinov2-14"), 16), 3, 64), depth=2)
    with pytest.raises(BadModel, match=r"patch 14 instead of.*patch 16.*pass patch=16 \(--patch 16\)"):
        start_from(str(tmp_path / "e.pth"), config)


def test_a_model_by_name_at_another_patch():
    config = segfast.create_model("seg-ti-16", num_classes=3, image_size=64, patch=32).config
    assert (config.name, config.patch, config.grid) == ("seg-ti-32", 32, (2, 2))
    with pytest.raises(BadOption, match="patch must be one of 8, 14, 16, 32"):
        segfast.create_model("seg-ti-16", patch=12)
