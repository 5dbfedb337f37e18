import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import tiny_config, tiny_model

import segfast
from segfast.artifacts.onnx import read_artifact
from segfast.errors import BadOption, ExportFailed
from segfast.export import check, export_onnx, onnx_file, peaks
from segfast.export.graph import at_size


def run(path, windows):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": windows})[0]


def pixels(n=3, size=(64, 64), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), np.uint8)


def normalised(windows, protocol):
    mean, std = torch.tensor(protocol.mean)[:, None, None], torch.tensor(protocol.std)[:, None, None]
    return (torch.from_numpy(windows).permute(0, 3, 1, 2) / 255 - mean) / std


@pytest.mark.parametrize("output", ["logits", "labels"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ["seg-ti-mask-16", "seg-s-32"])
def test_small_members_pass_their_gate_in_both_runtimes(tmp_path, name, precision, output):
    torch.manual_seed(0)
    model = segfast.create_model(name)
    report = export_onnx(model, tmp_path / "m.onnx", precision=precision, output=output)
    strict, default = report.checks
    assert strict.runtime == f"ONNX Runtime on cpu in {precision}"
    assert strict.relative_error <= {"fp16": 5e-3, "fp32": 1e-4}[precision]
    assert strict.labels > 0.98
    assert default.runtime.startswith("OpenVINO on cpu in ")
    if precision == "fp32":
        assert default.runtime.endswith("fp32")
        assert default.relative_error <= 1e-4
    shape = (1, 512, 512) if output == "labels" else (1, 150, *model.config.grid)
    for runtime in ("openvino", "onnxruntime"):
        engine = segfast.Engine(tmp_path / "m.onnx", runtime=runtime, device="cpu")
        assert engine.run(check.photo((512, 512))[None]).shape == shape


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_file_is_self_contained_standard_and_clean(tmp_path, opset):
    report = export_onnx(tiny_model(), tmp_path / "m.onnx", opset=opset)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.domain == ""] == [("", opset)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert model.producer_name == "segfast"
    text = model.SerializeToString()
    assert b"/segfast/" not in text  # no paths and source lines of the machine that wrote it
    assert b"stack_trace" not in text
    assert report.bytes == (tmp_path / "m.onnx").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_input_is_bytes_cast_before_the_transpose(tiny_onnx):
    graph = onnx.load(tiny_onnx).graph
    (images,) = graph.input
    dims = images.type.tensor_type.shape.dim
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert dims[0].dim_param == "B"
    assert [dim.dim_value for dim in dims[1:]] == [64, 64, 3]
    assert {node.op_type for node in graph.node if "images" in node.input} == {"Shape", "Cast"}  # Shape: B
    assert [output.name for output in graph.output] == ["logits"]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_types_in_the_graph_are_what_was_asked(tmp_path, precision):
    export_onnx(tiny_model(), tmp_path / "m.onnx", precision=precision)
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m.onnx")).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    wide = {onnx.TensorProto.FLOAT}
    half = {onnx.TensorProto.FLOAT16}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv", "Softmax", "Erf")]
    assert len(products) > 20
    # All but the last three: the projections of patches and classes, and their product.
    assert {kinds[node.output[0]] for node in products[:-3]} == (half if precision == "fp16" else wide)
    assert {kinds[node.output[0]] for node in products[-3:]} == wide
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {stored[name] for node in products[:-3] for name in node.input if name in stored}
    assert weights == (half if precision == "fp16" else wide)
    if precision == "fp16":
        # One fp32 island: the mask decoder from its last norm on, with its two L2 norms.
        islands = Counter(node.op_type for node in graph.node if kinds.get(node.output[0]) == onnx.TensorProto.FLOAT)
        assert islands["LayerNormalization"] == islands["ReduceL2"] == islands["Div"] == 2
        assert islands["MatMul"] == 3
        assert set(islands) <= {"LayerNormalization", "ReduceL2", "Div", "MatMul", "Cast", "Slice", "Transpose"}
        assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


def test_q_is_scaled_before_its_product_with_k(tiny_onnx):
    """The pattern that TensorRT fuses: MatMul(Mul(q, scale), kᵀ) → Softmax, with nothing between."""
    graph = onnx.load(tiny_onnx).graph
    maker = {name: node for node in graph.node for name in node.output}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 4
    for softmax in softmaxes:
        product = maker[softmax.input[0]]
        assert product.op_type == "MatMul"
        ancestors = [maker[product.input[0]]]
        if ancestors[0].op_type == "Transpose":
            ancestors.append(maker[ancestors[0].input[0]])
        assert "Mul" in [node.op_type for node in ancestors]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch(tiny_onnx, batch):
    model, windows = tiny_model(), pixels(batch)
    expected = model.patch_logits(normalised(windows, model.config.protocol)).detach().numpy()
    np.testing.assert_allclose(run(tiny_onnx, windows), expected, atol=1e-4)


@pytest.mark.parametrize("size", [48, (64, 96), (50, 70)])
def test_another_size_resamples_positions_and_keeps_the_overlap(tmp_path, size):
    model = tiny_model()
    export_onnx(model, tmp_path / "m.onnx", size=size, precision="fp32")
    artifact = read_artifact(tmp_path / "m.onnx")
    H, W = (size, size) if isinstance(size, int) else size
    assert artifact.size == artifact.config.protocol.window == (H, W)
    assert artifact.config.protocol.stride == (H - 16, W - 16)
    windows = pixels(2, (H, W))
    expected = model.patch_logits(normalised(windows, model.config.protocol)).detach().numpy()
    np.testing.assert_allclose(run(tmp_path / "m.onnx", windows), expected, atol=1e-4)


@pytest.mark.parametrize("crop_padding", [True, False])
def test_labels_are_those_of_the_model(tmp_path, crop_padding):
    protocol = replace(tiny_config().protocol, crop_padding=crop_padding)
    model = tiny_model(protocol=protocol)
    export_onnx(model, tmp_path / "m.onnx", size=(50, 70), precision="fp32", output="labels")
    windows = pixels(2, (50, 70))
    logits = model(normalised(windows, protocol)).detach()
    labels = run(tmp_path / "m.onnx", windows)
    assert labels.dtype == np.uint8
    best, second = logits.topk(2, 1).values.unbind(1)
    clear = (best - second > 1e-4).numpy()
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(labels[clear], logits.argmax(1).numpy()[clear])


def test_many_classes_need_wider_labels(tmp_path):
    export_onnx(tiny_model(num_classes=300), tmp_path / "m.onnx", precision="fp32", output="labels")
    labels = run(tmp_path / "m.onnx", pixels(1))
    assert labels.dtype == np.int32
    engine = segfast.Engine(tmp_path / "m.onnx", device="cpu")
    assert engine.segment(pixels(1)[0]).labels.dtype == np.uint16


def test_imagenet_normalisation_is_inside(tmp_path):
    protocol = replace(tiny_config().protocol, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    model = tiny_model(protocol=protocol)
    export_onnx(model, tmp_path / "m.onnx", precision="fp32")
    windows = pixels(1)
    expected = model.patch_logits(normalised(windows, protocol)).detach().numpy()
    np.testing.assert_allclose(run(tmp_path / "m.onnx", windows), expected, atol=1e-4)


def test_metadata_is_the_documented_json(tmp_path):
    model = tiny_model(provenance={"weights": "a test"})
    export_onnx(model, tmp_path / "m.onnx", size=(64, 96), precision="fp16", output="labels")
    entries = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    metadata = json.loads(entries["segfast"])
    assert metadata["format"] == 1
    assert (metadata["size"], metadata["precision"], metadata["output"]) == ([64, 96], "fp16", "labels")
    assert metadata["protocol"] == {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "window": [64, 96],
        "stride": [48, 80],
        "small_windows": False,
        "crop_padding": True,
    }
    assert metadata["provenance"] == {"weights": "a test"}
    assert (metadata["name"], metadata["patch"], metadata["num_classes"]) == ("seg-custom-mask-16", 16, 7)
    assert metadata["digest"] == onnx_file.digest(model)
    documented = set(re.findall(r"`([a-z_.]+)`", (onnx_docs()).split("## From a picture")[0]))
    assert {"format", "size", "precision", "output", "digest", "classes", "palette", "provenance"} <= documented


def onnx_docs():
    from helpers import REPOSITORY

    return (REPOSITORY / "docs" / "onnx.md").read_text(encoding="utf-8")


def test_the_digest_is_of_the_weights(tmp_path):
    model = tiny_model()
    model.save(tmp_path / "m.safetensors")
    assert onnx_file.digest(segfast.load_model(tmp_path / "m.safetensors")) == onnx_file.digest(model)
    assert onnx_file.digest(tiny_model(seed=1)) != onnx_file.digest(model)


def test_export_leaves_the_model_alone(tmp_path):
    model = tiny_model()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx", size=96)
    assert all(torch.equal(before[name], t) and t.dtype == torch.float32 for name, t in model.state_dict().items())
    assert model.config == tiny_model().config


def test_an_imprecise_file_is_not_published(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"what was there")
    monkeypatch.setitem(onnx_file.GATES, "fp16", 1e-7)
    with pytest.raises(ExportFailed, match=r"errs by .* in ONNX Runtime on cpu in fp16.*--fp32"):
        export_onnx(tiny_model(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_nan_weights_are_not_published(tmp_path):
    model = tiny_model()
    model.encoder.norm.weight.data[0] = float("nan")
    for precision in ("fp16", "fp32"):
        with pytest.raises(ExportFailed):
            export_onnx(model, tmp_path / "m.onnx", precision=precision)
    assert not list(tmp_path.iterdir())


def test_activations_near_the_end_of_fp16_are_not_published(tmp_path):
    model = tiny_model()
    model.encoder.blocks[1].mlp.fc2.weight.data *= 5000
    with pytest.raises(ExportFailed, match=r"fp16 ends at 65504.*--fp32"):
        export_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_peak_activation_sees_attention_scores():
    model = at_size(tiny_model(), (64, 64))
    images = {"noise": pixels(1)[0]}
    before = peaks.peak_activation(model, images)
    qkv = model.encoder.blocks[0].attn.qkv.weight.data
    qkv[:128] *= 40  # q and k: the scores grow with the square
    after = peaks.peak_activation(model, images)
    assert after.value > 20 * before.value
    assert after.operation in ("bmm", "matmul", "baddbmm")
    assert after.image == "noise"


def test_check_images_are_photos_and_extremes():
    images = check.images((40, 50))
    assert list(images) == ["coffee.jpg", "cat.jpg", "rocket.jpg", "black", "white", "noise"]
    assert all(image.shape == (40, 50, 3) and image.dtype == np.uint8 for image in images.values())
    assert 20 < images["coffee.jpg"].std() < 120


@pytest.mark.parametrize(
    "options",
    [
        {"size": 8},
        {"size": 10_000},
        {"size": (64,)},
        {"size": 64.0},
        {"size": True},
        {"precision": "int4"},
        {"output": "scores"},
        {"opset": 17},
        {"opset": 23},
    ],
)
def test_impossible_options(tmp_path, options):
    with pytest.raises(BadOption, match=next(iter(options))):
        export_onnx(tiny_model(), tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def random_model():
    return tiny_model(provenance={"weights": "random"})


def test_random_weights_do_not_replace_trained_ones_unasked(tmp_path):
    path = tmp_path / "m.onnx"
    export_onnx(tiny_model(provenance={"weights": "best.safetensors"}), path, precision="fp32")
    before = path.read_bytes()
    with pytest.raises(BadOption, match=r"holds trained weights \(best.safetensors\).*--force"):
        export_onnx(random_model(), path, precision="fp32")
    assert path.read_bytes() == before
    report = export_onnx(random_model(), path, precision="fp32", force=True)
    assert report.replaced == "seg-custom-mask-16, 7 classes, fp32, logits, weights: best.safetensors"
    assert f"it replaced a file of that name: {report.replaced}" in str(report).splitlines()


def test_other_replacements_are_said(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"something else")
    assert (
        export_onnx(random_model(), path, precision="fp32").replaced == "a file that is none of segfast's, or damaged"
    )
    assert "weights: random" in export_onnx(tiny_model(), path, precision="fp32", output="labels").replaced
    path.unlink()
    report = export_onnx(tiny_model(), path, precision="fp32")
    assert report.replaced is None
    assert "replaced" not in str(report)


def test_names_carry_the_kind_of_output():
    assert onnx_file.file_name("seg-b-16", (512, 512), "fp16", "logits") == "seg-b-16-512-fp16.onnx"
    assert onnx_file.file_name("seg-b-16", (512, 640), "fp32", "labels") == "seg-b-16-512x640-fp32-labels.onnx"
