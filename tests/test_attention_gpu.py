"""The attention kernels on a GPU, against float64 and beside PyTorch's own attention."""

import pytest
import torch

from segfast.kernels import attend_packed, attention_backend, attention_configs, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

# An error may be this many times that of PyTorch's attention on the same input: both round in half precision
# at the same places, but sum in a different order.
ALLOWED = 1.5
LENGTHS = [1, 31, 257, 509, 1025, 1174, 4097, 6401, 9217, 16385]
FAMILY = [(1, 3), (1, 6), (2, 12), (1, 16), (16, 12)]  # B, heads
DTYPES = [torch.float16, torch.bfloat16]


def launch_forward(*args):
    """Imported late: Triton may be missing where this file is collected."""
    from segfast.kernels.attention_cuda import launch_forward

    return launch_forward(*args)


def error(x, true):
    return ((x.double() - true).norm() / true.norm()).item()


def exact(qkv, grad, device="cuda"):
    """Answer and gradient in float64, head by head: 16385² scores are 2 GB."""
    answers, gradients = torch.empty_like(grad, dtype=torch.float64), torch.empty_like(qkv, dtype=torch.float64)
    for b in range(qkv.shape[0]):
        for h in range(qkv.shape[3]):
            x = qkv[b : b + 1, :, :, h : h + 1].detach().double().requires_grad_()
            answer = reference.attention(*x.unbind(2))
            gradients[b : b + 1, :, :, h : h + 1] = torch.autograd.grad(
                answer, x, grad[b : b + 1, :, h : h + 1].double()
            )[0]
            answers[b : b + 1, :, h : h + 1] = answer.detach()
    return answers, gradients


def draw(B, N, heads, d, dtype):
    generator = torch.Generator("cuda").manual_seed(N)
    qkv = torch.randn(B, N, 3, heads, d, device="cuda", generator=generator).to(dtype).requires_grad_()
    return qkv, torch.randn(B, N, heads, d, device="cuda", generator=generator).to(dtype)


def compare(B, N, heads, d, dtype):
    qkv, grad = draw(B, N, heads, d, dtype)
    true = exact(qkv, grad)
    errors = []
    for name in ("triton", "sdpa"):
        answer = attend_packed(attention_backend(name), qkv)
        gradient = torch.autograd.grad(answer, qkv, grad)[0]
        errors.append([error(x, y) for x, y in zip((answer, gradient), true, strict=True)])
    floor = torch.finfo(dtype).eps / 8
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= ALLOWED * max(theirs, floor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", LENGTHS)
def test_lengths(N, dtype):
    compare(1, N, 2, 64, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "heads"), FAMILY)
def test_batches_of_the_family(B, heads, dtype):
    compare(B, 1025, heads, 64, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [16, 24, 32, 80, 96, 128])
def test_head_sizes(d, dtype):
    compare(2, 257, 3, d, dtype)


@pytest.mark.parametrize("N", [1, 257, 1025])
def test_fp32_is_not_tf32(N):
    compare(1, N, 2, 64, torch.float32)


@pytest.mark.parametrize("N", [1024, 1025, 1174, 4097])
def test_candidates(N):
    """Every tile that is only waiting for its measurement."""
    qkv, _ = draw(2, N, 3, 64, torch.float16)
    views = qkv.detach().unbind(2)
    expected, plan = attention_backend("triton")(*views), attention_configs.forward_config(*views)
    for tile in attention_configs.CANDIDATES[attention_configs.architecture(torch.cuda.get_device_capability())]:
        found, _ = launch_forward(*views, 64**-0.5, plan._replace(tile=tile, splits=1))
        assert error(found, expected.double()) < 1e-3, tile


def test_unaligned_and_transposed_tensors():
    qkv, _ = draw(2, 300, 3, 64, torch.float16)
    expected = attention_backend("triton")(*qkv.unbind(2))
    moved = torch.cat([qkv.new_zeros(1), qkv.flatten()])[1:].view(qkv.shape)
    turned = qkv.permute(2, 0, 3, 1, 4).contiguous().permute(1, 3, 0, 2, 4)
    for x in (moved, turned):
        assert torch.allclose(attention_backend("triton")(*x.unbind(2)), expected, atol=1e-3)


def test_results_are_the_same_bits_each_time():
    qkv, grad = draw(1, 1025, 6, 64, torch.float16)
    runs = [torch.autograd.grad(attend_packed(attention_backend("triton"), qkv), qkv, grad)[0] for _ in range(3)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@torch.no_grad()
def test_other_streams_and_graphs():
    qkv, _ = draw(1, 1025, 6, 64, torch.float16)
    attend = attention_backend("triton")
    expected = attend_packed(attend, qkv)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.equal(attend_packed(attend, qkv), expected)
    torch.cuda.current_stream().wait_stream(stream)
    graph, still = torch.cuda.CUDAGraph(), qkv.detach().clone()
    with torch.cuda.graph(graph):
        answer = attend_packed(attend, still)
    still.copy_(qkv.flip(1))
    graph.replay()
    assert torch.equal(answer, attend_packed(attend, qkv.flip(1)))


def test_compiled_training_step():
    qkv, grad = draw(1, 257, 2, 64, torch.float16)
    attend = attention_backend("triton")
    compiled = torch.compile(lambda x: attend_packed(attend, x) * 2, fullgraph=True)
    expected = torch.autograd.grad(attend_packed(attend, qkv) * 2, qkv, grad)[0]
    assert torch.equal(torch.autograd.grad(compiled(qkv), qkv, grad)[0], expected)


def test_more_than_2_31_elements():
    B = 2**31 // (4097 * 3 * 16 * 64) + 1
    qkv = torch.zeros(B, 4097, 3, 16, 64, dtype=torch.float16, device="cuda")
    qkv[-1] = torch.randn(4097, 3, 16, 64, device="cuda")
    answer = attend_packed(attention_backend("triton"), qkv)
    assert torch.allclose(answer[-1:], attend_packed(attention_backend("triton"), qkv[-1:].clone()), atol=1e-3)
