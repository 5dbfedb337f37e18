"""Attention without a GPU: the kernels in Triton's interpreter, the operators on a CPU, bad input."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_model

from segfast.kernels import attend_packed, attention, attention_backend, attention_op, attention_table, reference
from segfast.kernels.attend import choose, sdpa_choice
from segfast.kernels.attention_configs import HALF, architecture, fill, padded

HERE = Path(__file__).parent
NAMES = ["auto", "triton", "cudnn", "flash", "sdpa"]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton exists for Linux only")


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return torch.randn(2, 7, 3, 2, 16, requires_grad=True)


@needs_triton
def test_the_kernels_in_the_interpreter():
    import triton

    version = tuple(int(x) for x in triton.__version__.split(".")[:2])
    if version < (3, 7) and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("the interpreter of Triton 3.6 needs NumPy before 2.4")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "attention_interpreted.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-5000:]
    assert "skipped" not in answer.stdout


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_operators_pass_opcheck(qkv, dtype):
    qkv = qkv.detach().to(dtype).requires_grad_()
    torch.library.opcheck(torch.ops.segfast.attention_packed, (qkv, 0.25))
    q, k, v = (x.detach().requires_grad_() for x in qkv.unbind(2))
    torch.library.opcheck(torch.ops.segfast.attention, (q, k, v, 0.25))
    out, logsumexp = torch.ops.segfast.attention(*qkv.detach().unbind(2), 0.25)
    views = qkv.detach().unbind(2)
    torch.library.opcheck(torch.ops.segfast.attention_backward, (torch.ones_like(out), *views, out, logsumexp, 0.25))


@needs_triton
def test_gradients_are_those_of_the_twin(qkv):
    grad = torch.randn(2, 7, 2, 16)
    expected = torch.autograd.grad(reference.attention(*qkv.unbind(2)), qkv, grad)[0]
    ours = attention_backend("triton")
    for answer in (attend_packed(ours, qkv), ours(*qkv.unbind(2))):
        assert torch.allclose(answer, reference.attention(*qkv.unbind(2)), atol=1e-6)
        assert torch.allclose(torch.autograd.grad(answer, qkv, grad)[0], expected, atol=2e-6)


def copies_in_backward(answer, qkv):
    """Names of the copying operators that ran in the backward outside of our own operator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(answer, qkv, torch.ones_like(answer))
    assert any("segfast::attention_backward" in event.name for event in profile.events())
    found = []
    for event in profile.events():
        parent = event
        while parent is not None and "segfast::" not in parent.name:
            parent = parent.cpu_parent
        if parent is None and event.name in ("aten::cat", "aten::stack", "aten::add", "aten::add_", "aten::copy_"):
            found.append(event.name)
    return found


@needs_triton
def test_the_packed_gradient_is_not_copied(qkv):
    """Nothing but the operator moves data between the gradient of the answer and that of qkv; unpacked, autograd does."""
    ours = attention_backend("triton")
    assert not copies_in_backward(attend_packed(ours, qkv), qkv)
    assert copies_in_backward(ours(*qkv.unbind(2)), qkv)


@needs_triton
def test_model_compiles_and_exports_with_the_operator():
    model = tiny_model().set_attention(attention_backend("triton"))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x), expected, atol=1e-5)
        program = torch.export.export(model, (x,))
        assert sum("segfast" in str(node.target) for node in program.graph.nodes) == 4
        plain = program.run_decompositions(attention_op.decompositions())
        assert not [node for node in plain.graph.nodes if "segfast" in str(node.target)]
        assert torch.allclose(plain.module()(x), expected, atol=1e-5)


@needs_triton
def test_an_exported_operator_becomes_onnx(qkv, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")

    class Model(torch.nn.Module):
        def forward(self, qkv):
            return attend_packed(attention_backend("triton"), qkv)

    qkv = qkv.detach()
    plain = torch.export.export(Model(), (qkv,)).run_decompositions(attention_op.decompositions())
    torch.onnx.export(plain, (qkv,), tmp_path / "a.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    answer = session.run(None, {session.get_inputs()[0].name: qkv.numpy()})[0]
    assert np.allclose(answer, reference.attention(*qkv.unbind(2)).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["auto", "sdpa"])
def test_attention_on_a_cpu_is_the_twin(qkv, name):
    q, k, v = qkv.detach().unbind(2)
    assert torch.allclose(attention_backend(name)(q, k, v, 0.3), reference.attention(q, k, v, 0.3), atol=1e-6)
    assert torch.allclose(attend_packed(attention, qkv), reference.attention(q, k, v), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_an_error(name):
    if name == "triton" and find_spec("triton") is None:
        pytest.skip("Triton exists for Linux only")
    attend, q = attention_backend(name), torch.zeros(2, 7, 2, 16)
    for args in [(q[0], q, q), (q, q[:, :3], q), (q, q, q[..., :8]), (q[0], q[0], q[0]), (q, q, q.to("meta"))]:
        with pytest.raises(ValueError, match="attention takes"):
            attend(*args)
    with pytest.raises(TypeError, match="one dtype"):
        attend(q, q.half(), q)


@needs_triton
def test_what_the_kernels_do_not_take_is_an_error():
    attend, q = attention_backend("triton"), torch.zeros(1, 3, 1, 16)
    with pytest.raises(ValueError, match="at most 128"):
        attend(*[torch.zeros(1, 3, 1, 144).half()] * 3)
    with pytest.raises(ValueError, match="at most 64"):
        attend(*[torch.zeros(1, 3, 1, 80)] * 3)
    with pytest.raises(TypeError, match="fp16, bf16 or fp32"):
        attend(q.double(), q.double(), q.double())
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive, finite scale"):
            attend(q, q, q, scale)
    with pytest.raises(ValueError, match="3, heads, d"):
        attend_packed(attend, torch.zeros(1, 3, 2, 1, 16))
    with pytest.raises(ValueError, match="auto, triton, cudnn, flash, sdpa"):
        attention_backend("flsh")


def test_the_table_names_the_fastest_at_the_nearest_length():
    rows = (
        attention_table.Row(90, 64, 1025, 1.0, 2.0, 3.0, "made up"),
        attention_table.Row(90, 64, 4097, 3.0, 2.0, 1.0, "made up"),
    )
    assert attention_table.fastest(90, 64, 1174, rows) == "triton"
    assert attention_table.fastest(90, 64, 16385, rows) == "cudnn"
    assert attention_table.fastest(80, 64, 1025, rows) == "sdpa"
    assert all(row.measured for row in attention_table.ROWS)


def test_training_is_chosen_by_forward_and_backward_together():
    forward_only = attention_table.Row(90, 64, 1025, 1.0, 2.0, 3.0, "made up")
    both = attention_table.Row(90, 64, 4097, 1.0, 2.0, 3.0, "made up", backward=(1.0, 2.0, 0.5))
    assert attention_table.fastest(90, 64, 1025, (forward_only,), training=True) == "sdpa"
    assert attention_table.fastest(90, 64, 1025, (forward_only, both), training=True) == "flash"
    assert attention_table.fastest(90, 64, 4097, (forward_only, both)) == "triton"


class OnAGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.fixture
def measured(monkeypatch):
    """A GPU of capability 9.0 whose table has the cuDNN's forward, and Triton's backward, as the fastest."""
    rows = (attention_table.Row(90, 64, 1024, 9.0, 2.0, 3.0, "made up", backward=(1.0, 2.0, 9.0)),)
    monkeypatch.setattr(attention_table, "ROWS", rows)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91501)


@pytest.mark.usefixtures("measured")
def test_auto_means_the_table_in_inference_and_in_training(monkeypatch):
    x = torch.zeros(1, 1025, 2, 64, dtype=torch.float16).as_subclass(OnAGpu)
    assert choose(x) == "cudnn"
    assert choose(x.requires_grad_()) == "triton"
    with torch.no_grad():
        assert choose(x) == "cudnn"
    monkeypatch.setattr(attention_table, "ROWS", ())
    assert choose(x) == "sdpa"


@pytest.mark.usefixtures("measured")
def test_a_cudnn_that_is_wrong_is_refused_by_name(monkeypatch):
    x = torch.zeros(1, 1025, 2, 64, dtype=torch.float16).as_subclass(OnAGpu)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91500)
    with pytest.raises(ValueError, match=r"cuDNN 91500 .* 1025 tokens, which 128 does not divide: choose 'flash'"):
        attention_backend("cudnn")(x, x, x)
    assert choose(x) == "sdpa"
    assert choose(x[:, :1024]) == "cudnn"


def test_pytorchs_own_choice_has_a_name(qkv):
    assert sdpa_choice(qkv.detach().unbind(2)[0]) in ("flash", "math")


def test_few_tiles_are_split_until_they_fill_the_gpu():
    tiles = HALF[90, 64]
    assert fill(tiles, 16 * 12, 1025, 132) == (tiles.forward, 1)
    assert fill(tiles, 6, 1025, 132) == (tiles.small, 2)
    assert fill(tiles, 3, 257, 132) == (tiles.small, 1)
    assert [padded(d) for d in (1, 16, 17, 64, 80, 128)] == [16, 16, 32, 64, 128, 128]


def test_architectures():
    capabilities = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1)]
    assert [architecture(x) for x in capabilities] == [80, 86, 86, 90, 100, 100, 120, 120, 120]
    with pytest.raises(ValueError, match="or later"):
        architecture((7, 5))
