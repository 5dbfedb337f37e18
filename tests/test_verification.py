"""What an engine says of itself, and whether its answer passes: pure functions of JSON in the documented format."""

import json

import numpy as np
import pytest
from helpers import tiny_config
from test_plan import made

from segfast.artifacts.golden import GATE, Golden, photo
from segfast.artifacts.plan import Nodes, Options
from segfast.artifacts.verification import FUSED, inspect, verify
from segfast.errors import BadModel

NODES = Nodes(("softmax_0", "softmax_1", "softmax_2"), ("qkv", "scores", "mix", "fc1"))


def layer(name, nodes, given="Half", returned="Half", **more):
    """A layer as NVIDIA's inspector writes it with detailed verbosity."""
    tensors = [
        [{"Name": f"{name}_{side}", "Location": "Device", "Dimensions": [1, 17, 64], "Format/Datatype": kind}]
        for side, kind in (("in", given), ("out", returned))
    ]
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {
        "Name": name,
        "LayerType": "kgen",
        "Inputs": tensors[0],
        "Outputs": tensors[1],
        "Metadata": metadata,
        **more,
    }


def text(*layers):
    return json.dumps({"Layers": list(layers), "Bindings": ["images", "logits"]})


GOOD = (
    layer("qkv_myl0_1", ["qkv"]),
    layer("_gemm_mha_v2_myl0_2", ["scores", "softmax_0", "mix"]),
    layer("fc1_myl0_3", ["fc1", "gelu"], "Row major linear FP16 format", "Row major linear FP16 format"),
)


def test_an_engine_in_half_precision():
    found = inspect(text(*GOOD), NODES)
    assert (found.layers, found.told, found.wide, found.kernels) == (3, 4, (), 1)
    assert found.fused == (True, None, None)


def test_fp16_that_came_out_fp32_is_named():
    for kind in ("Float", "Row major linear FP32"):
        found = inspect(text(*GOOD[:2], layer("fc1_myl0_3", ["fc1"], kind, kind)), NODES)
        assert found.wide == ("fc1_myl0_3",)


@pytest.mark.parametrize(
    "allowed",
    [
        layer("cast_myl0_9", ["fc1", "cast"], "Half", "Float"),                 # the way into an fp32 island
        layer("island_myl0_9", ["class_product"], "Float", "Float"),            # a product that the file has in fp32
        layer("sum_myl0_9", ["shape"], "Int64", "Int64"),
        layer("fc1_myl0_9", ["fc1"], "Float", "Float", Weights={"Type": "Half", "Count": 4096}),
        layer("reformat", [], "Float", "Float"),
    ],
)  # fmt: skip
def test_fp32_where_it_belongs(allowed):
    assert inspect(text(*GOOD, allowed), NODES).wide == ()


def test_types_that_are_not_told():
    unknown = "N/A due to dynamic shapes"
    found = inspect(text(*(layer(f"l{i}", [node], unknown, unknown) for i, node in enumerate(NODES.half))), NODES)
    assert (found.told, found.wide) == (0, ())
    assert inspect(text("layer one", "layer two"), NODES).told == 0  # an engine built with names only


def test_attention_by_block():
    found = inspect(text(*GOOD, layer("softmax_myl0_5", ["softmax_1"]), layer("__myl_Max_6", ["softmax_1"])), NODES)
    assert found.fused == (True, False, None)
    words = found.attention(tiny_config())  # two blocks in the encoder
    assert (
        words
        == f"attention: 1 of 3 fused ({FUSED}); not fused: block encoder 1; not told: block decoder 0; 1 such kernels in all"
    )
    by_tactic = layer("myelin", ["scores", "softmax_1"], TacticName="sm80_gemm_mha_v2_fp16")
    assert inspect(text(by_tactic), NODES).fused == (None, True, None)


def test_a_whole_engine_says_so_in_one_line():
    layers = [layer(f"_gemm_mha_v2_myl0_{i}", [f"softmax_{i}"]) for i in range(3)]
    assert inspect(text(*layers), NODES).attention(tiny_config()) == f"attention: 3 of 3 fused ({FUSED})"


@pytest.mark.parametrize("bad", ["", "[]", "{}", "null", '{"Layers": 7}', "not JSON"])
def test_what_is_no_inspection(bad):
    with pytest.raises(BadModel, match="inspector gives no layers"):
        inspect(bad, NODES)


# The golden answer -----------------------------------------------------------------------------------------------------------


def logits(seed=0, shape=(1, 7, 9, 11)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_same_answer_passes():
    for output, answer in (("logits", logits()), ("labels", np.full((1, 99, 101), 3, np.uint8))):
        compared = Golden.of(output, answer).compare(answer)
        assert compared.passed
        assert compared.labels == 1
        assert (compared.relative_error or 0) < 5e-4  # float16 keeps that much


@pytest.mark.parametrize(("scale", "passes"), [(GATE / 2, True), (GATE * 2, False)])
def test_the_gate_is_on_the_ratio_of_norms(scale, passes):
    noise = logits(1)
    compared = Golden.of("logits", logits()).compare(logits() + scale * noise)
    assert compared.relative_error == pytest.approx(scale, rel=0.2)
    assert compared.passed is passes


def test_one_clear_label_that_differs_is_enough():
    given = np.zeros((1, 7, 8, 8), np.float32)
    given[0, 3] = 100
    changed = given.copy()
    changed[0, :, 0, 0] = [0, 0, 0, 99.9, 100, 0, 0]
    compared = Golden.of("logits", given).compare(changed)
    assert compared.wrong == 1
    assert not compared.passed
    unclear = given.copy()
    unclear[0, 4] = 99.9
    assert Golden.of("logits", unclear).compare(changed).wrong == 0


def test_labels_may_differ_at_a_few_pixels_only():
    given = np.zeros((1, 100, 100), np.uint8)
    changed = given.copy()
    changed[0, :4] = 1
    assert Golden.of("labels", given).compare(changed).passed
    changed[0, :6] = 1
    assert not Golden.of("labels", given).compare(changed).passed


def test_nan_never_passes():
    assert not Golden.of("logits", logits()).compare(np.full_like(logits(), np.nan)).passed


def test_another_shape_is_refused():
    with pytest.raises(BadModel, match="build it again"):
        Golden.of("logits", logits()).compare(logits(shape=(1, 8, 9, 11)))


def test_a_photo_of_any_size():
    assert photo((30, 50)).shape == (30, 50, 3)
    assert photo((64, 64)).std() > 20


# The verification ----------------------------------------------------------------------------------------------------------


def judged(tmp_path, *layers, answer=None, engine="tensorrt"):
    plan = made(
        tmp_path / "x.engine", nodes=NODES, options=Options(engine, ("sm89",)), golden=Golden.of("logits", logits())
    )
    return verify(plan, text(*layers), logits() if answer is None else answer).failure


def test_verdicts(tmp_path):
    assert judged(tmp_path, *GOOD) is None
    assert "fp16 was asked, but 1 layers compute in fp32 (fc1)" in judged(
        tmp_path, *GOOD[:2], layer("fc1", ["fc1"], "Float", "Float")
    )
    assert "cannot be confirmed" in judged(tmp_path, "names", "only")
    assert judged(tmp_path, "names", "only", engine="rtx") is None  # whose kernels are compiled when they first run
    assert "not that of tiny.onnx: relative error 2.0e+00" in judged(tmp_path, *GOOD, answer=-logits())
