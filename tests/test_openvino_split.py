"""Matrix products split by rows compute what they computed whole."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import REPOSITORY, openvino_core, tiny_model

import segfast
from segfast.export import export_onnx
from segfast.protocol import Protocol
from segfast.runtimes import openvino_split
from segfast.runtimes.openvino_split import split_rows

pytest.importorskip("openvino")


def network(path, size, batch=1, **split):
    """What an exported file gives for images [B, H, W, 3], and how many of its products are split."""
    core = openvino_core()
    model = core.read_model(path)
    model.reshape({0: [batch, *size, 3]})
    count = split_rows(model, **split) if split else 0
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled({0: images})[0].copy(), count, model


def products(model):
    """Tokens and weights of the products with constants."""
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    shapes = [[list(place.get_shape()) for place in node.inputs()] for node in found]
    return [(tokens[1], weights) for tokens, weights in shapes if len(tokens) == 3 and len(weights) == 2]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("decoder", ["linear", "mask"])
@pytest.mark.parametrize("output", ["logits", "labels"])
def test_parts_give_what_the_whole_gives(tmp_path, decoder, output, batch):
    model = tiny_model(decoder=decoder)
    size, path = model.config.protocol.window, tmp_path / "tiny.onnx"
    export_onnx(model, path, precision="fp32", output=output)
    images = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
    whole, _, unsplit = network(path, size, batch)
    parts, count, split = network(path, size, batch, rows=8, width=8)
    wide = [(N, weights) for N, weights in products(unsplit) if min(weights) >= 8 and N > 8 and N % 8]
    assert count == len(wide) > 0
    assert all(N % 8 == 0 or N < 8 for N, weights in products(split) if min(weights) >= 8)
    expected, given = whole(images), parts(images)
    assert given.dtype == expected.dtype
    np.testing.assert_allclose(given, expected, atol=0 if output == "labels" else 1e-5 * np.abs(expected).max())


def test_narrow_models_stay_as_they_are(tmp_path, tiny_onnx):
    size = tiny_model().config.protocol.window
    _, count, model = network(tiny_onnx, size, rows=256, width=768)
    assert count == 0
    assert not [node for node in model.get_ordered_ops() if node.get_type_name() == "VariadicSplit"]


def test_weights_may_be_shared_and_lie_either_way():
    """One constant, taken as [D, M] by a product and as [M, D] by another."""
    import openvino
    import openvino.opset13 as ops

    rng = np.random.default_rng(0)
    weights, images = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 16), (1, 9, 16)))
    tokens, constant = ops.parameter(images.shape, np.float32), ops.constant(weights)
    both = [ops.matmul(tokens, constant, False, turned) for turned in (False, True)]
    model = openvino.Model([ops.subtract(*both)], [tokens])
    assert split_rows(model, rows=8, width=8) == 2
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled({0: images})[0], images @ weights - images @ weights.T, atol=1e-5)


def test_an_engine_in_bf16_splits_and_gives_the_same(tmp_path, monkeypatch):
    wide = {
        "width": 768,
        "depth": 1,
        "heads": 12,
        "image_size": (272, 272),
        "protocol": Protocol((0.5,) * 3, (0.5,) * 3, (272, 272), (272, 272)),
    }
    path, called = tmp_path / "wide.onnx", []
    export_onnx(tiny_model(**wide, scale=1.0), path)
    monkeypatch.setattr(openvino_split, "split_rows", lambda model: called.append(split_rows(model)))
    monkeypatch.setattr(openvino_split, "THREADS", 1 << 20)
    engine = segfast.Engine(path, runtime="openvino", device="cpu")
    if not engine.runtime.endswith("bf16"):
        assert not called
        pytest.skip("this CPU has no bf16")
    assert called == [4 + 2 * 4 + 2]  # a block of the encoder, two of the decoder, its projections
    monkeypatch.setattr(openvino_split, "THREADS", 0)
    whole = segfast.Engine(path, runtime="openvino", device="cpu")
    assert len(called) == 1
    image = np.random.default_rng(0).integers(0, 256, (272, 272, 3), np.uint8)
    np.testing.assert_array_equal(engine.run(image[None]), whole.run(image[None]))


def test_the_first_constants_may_be_read_by_several_threads(tiny_onnx):
    """In a process that has read none yet: OpenVINO's binding would hang."""
    program = (
        "import sys, threading, openvino\n"
        "from segfast.runtimes import openvino_split\n"
        "ready = threading.Barrier(4)\n"
        "def work():\n"
        "    model = openvino.Core().read_model(sys.argv[1])\n"
        "    model.reshape({0: [1, 64, 64, 3]})\n"
        "    ready.wait()\n"
        "    assert openvino_split.split_rows(model, rows=8, width=8)\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print('done')\n"
    )
    line = [sys.executable, "-c", program, str(tiny_onnx)]
    ended = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "done\n", ended.stderr
