"""What tests/test_attention.py runs with TRITON_INTERPRET=1, which Triton reads when it is imported: kernels in NumPy."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch

from segfast.kernels import reference
from segfast.kernels.attention_configs import BackwardConfig, LaunchConfig, Tile
from segfast.kernels.attention_cuda import _parts, launch_backward, launch_forward

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NaN and infinities, which are meant

TILE = Tile(16, 16, 4, 2)
# Error as a ratio of norms: half precision rounds the weights and the result once each (2^-11 at most,
# half of it on average); fp32 a sum of up to 50 terms.
FORWARD = {torch.float16: 5e-4, torch.float32: 1e-6}
BACKWARD = {torch.float16: 1e-3, torch.float32: 2e-6}


def error(x, true):
    return ((x.double() - true).norm() / true.norm()).item()


def draw(B, N, heads, d, dtype, layout="packed"):
    """q, k, v [B, N, heads, d] and the gradient of their attention."""
    torch.manual_seed(N)
    qkv = torch.randn(B, N, 3, heads, d, dtype=torch.float32).to(dtype)
    if layout == "heads first":
        qkv = qkv.permute(2, 0, 3, 1, 4).contiguous().permute(1, 3, 0, 2, 4)
    if layout == "last not contiguous":
        qkv = qkv.permute(4, 0, 1, 2, 3).contiguous().permute(1, 2, 3, 4, 0)
    if layout == "expanded":
        qkv = qkv[:1, :, :, :1].expand(B, N, 3, heads, d)
    if layout == "unaligned":
        qkv = torch.cat([qkv.new_zeros(1), qkv.flatten()])[1:].view(qkv.shape)
    return *qkv.unbind(2), torch.randn(B, N, heads, d).to(dtype)


def compare(q, k, v, grad, splits=1, descriptors=False, scale=None, tile=TILE):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    true = reference.attention(*leaves, scale)
    true.backward(grad.double())
    gradients = torch.stack([x.grad for x in leaves], 2)
    lse = (leaves[0].detach().transpose(1, 2) @ leaves[1].detach().permute(0, 2, 3, 1) * scale).logsumexp(-1)

    out, logsumexp = launch_forward(q, k, v, scale, LaunchConfig(tile, splits, descriptors))
    packed = launch_backward(grad, q, k, v, out, logsumexp, scale, BackwardConfig(tile, tile, descriptors))
    assert out.is_contiguous()
    assert out.shape == q.shape
    assert out.dtype == packed.dtype == q.dtype
    assert packed.is_contiguous()
    assert error(out, true) < FORWARD[q.dtype]
    assert error(logsumexp, lse) < 1e-5
    for x, expected in zip(packed.unbind(2), gradients.unbind(2), strict=True):
        # of one key the scores have no gradient: what rounding leaves is compared with the gradient of v
        assert (x.double() - expected).norm() < BACKWARD[q.dtype] * max(expected.norm(), 0.1 * gradients.norm())


def assert_forward(q, k, v, plan):
    scale = q.shape[-1] ** -0.5
    wide = q.double(), k.double(), v.double()
    out, logsumexp = launch_forward(q, k, v, scale, plan)
    assert error(out, reference.attention(*wide)) < FORWARD[q.dtype]
    scores = wide[0].transpose(1, 2) @ wide[1].permute(0, 2, 3, 1) * scale
    assert error(logsumexp, scores.logsumexp(-1)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("N", [1, 2, 15, 16, 17, 31, 37])
def test_every_tail(N, dtype):
    compare(*draw(1, N, 2, 16, dtype))


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("d", [16, 64, 80, 96, 128])
def test_head_sizes(d, descriptors):
    compare(*draw(1, 19, 2, d, torch.float16), descriptors=descriptors)


@pytest.mark.parametrize("d", [1, 8, 20])
def test_head_sizes_below_the_matrix_units(d):
    compare(*draw(1, 19, 1, d, torch.float32))


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize(("N", "splits"), [(47, 2), (48, 3), (17, 2), (50, 9)])
def test_splits(N, splits, descriptors):
    compare(*draw(1, N, 2, 16, torch.float16), splits=splits, descriptors=descriptors)


def test_splits_of_a_padded_head_in_fp32():
    compare(*draw(1, 37, 2, 24, torch.float32), splits=2)


@pytest.mark.parametrize("layout", ["packed", "heads first", "last not contiguous", "expanded", "unaligned"])
def test_strides(layout):
    compare(*draw(2, 21, 3, 16, torch.float16, layout))


@pytest.mark.parametrize("tile", [Tile(32, 16, 4, 2), Tile(16, 32, 4, 2)])
def test_tiles_that_are_not_square(tile):
    compare(*draw(1, 45, 1, 16, torch.float32), tile=tile)


OPTIONS = [
    {"carried": True},
    {"extra_key": True},
    {"extra_query": True},
    {"carried": True, "extra_key": True, "extra_query": True},
]


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("N", [1, 16, 17, 50])
def test_options_of_a_tile(N, options, descriptors):
    """One key or query over whole blocks, and other lengths, where some options change nothing."""
    q, k, v, _ = draw(1, N, 2, 16, torch.float16)
    assert_forward(q, k, v, LaunchConfig(TILE._replace(**options), 1, descriptors))
    if "extra_key" not in options:  # not a bit
        plain = launch_forward(q, k, v, 0.25, LaunchConfig(TILE, 1, descriptors))
        found = launch_forward(q, k, v, 0.25, LaunchConfig(TILE._replace(**options), 1, descriptors))
        assert all(torch.equal(*pair) for pair in zip(found, plain, strict=True))


def test_options_of_a_tile_with_splits_padded_heads_and_fp32():
    tile = TILE._replace(**OPTIONS[-1])
    assert_forward(*draw(1, 49, 2, 16, torch.float16)[:3], LaunchConfig(tile, 2, False))
    assert_forward(*draw(2, 33, 2, 24, torch.float16)[:3], LaunchConfig(tile, 1, True))
    assert_forward(*draw(2, 33, 2, 20, torch.float32)[:3], LaunchConfig(tile, 1, False))
    for rows, columns in ((32, 16), (16, 32)):
        assert_forward(
            *draw(1, 33, 2, 16, torch.float32)[:3], LaunchConfig(Tile(rows, columns, 4, 2, **OPTIONS[-1]), 1, False)
        )


def test_one_query_too_many_goes_alone():
    tile = Tile(128, 64, 4, 3, extra_query=True)
    assert _parts(tile, 1025) == [(tile, 0, 1024), (tile._replace(rows=16), 1024, 1)]
    for other, N in ((tile, 1024), (tile, 1026), (tile, 1), (TILE, 1025)):
        assert _parts(other, N) == [(other, 0, N)]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0])
def test_scales(scale):
    compare(*draw(1, 21, 1, 16, torch.float32), scale=scale)


def test_the_gradient_of_the_answer_may_have_any_strides():
    q, k, v, grad = draw(1, 18, 2, 16, torch.float32)
    compare(q, k, v, grad.transpose(1, 2).contiguous().transpose(1, 2))
    compare(q, k, v, grad[:1, :1, :1, :1].expand(q.shape))


def test_large_scores_do_not_overflow():
    q, k, v, _ = draw(1, 21, 1, 16, torch.float16)
    out, logsumexp = launch_forward(q * 200, k * 200, v, 1.0, LaunchConfig(TILE, 2, False))
    true = reference.attention((q * 200).double(), (k * 200).double(), v.double(), 1.0)
    assert error(out, true) < FORWARD[torch.float16]
    assert logsumexp.isfinite().all()


@pytest.mark.parametrize(("N", "splits", "token", "options"), [
    (37, 1, 20, {}), (37, 2, 20, {}), (33, 1, 20, OPTIONS[-1]), (33, 1, 32, OPTIONS[-1]),
])  # fmt: skip
def test_nan_goes_where_the_formula_sends_it(N, splits, token, options):
    for place in range(3):
        x = list(draw(1, N, 2, 16, torch.float32)[:3])
        x[place] = x[place].clone()
        x[place][0, token, 1, 3] = torch.nan
        out, _ = launch_forward(*x, 0.25, LaunchConfig(TILE._replace(**options), splits, False))
        assert torch.equal(out.isnan(), reference.attention(*x, 0.25).isnan())


@pytest.mark.parametrize("splits", [1, 3])
def test_a_score_of_minus_infinity_weighs_nothing(splits):
    q, k, v, _ = draw(1, 37, 1, 16, torch.float32)
    q, k = q.abs(), k.clone()
    k[0, :18, 0, 0] = -torch.inf  # the whole first block, and some of the second
    out, _ = launch_forward(q, k, v, 0.25, LaunchConfig(TILE, splits, False))
    assert error(out, reference.attention(q.double(), k.double(), v.double(), 0.25)) < 1e-6


@pytest.mark.parametrize("keys", [slice(0, 18), slice(32, 33), slice(None)])
def test_scores_of_minus_infinity_beside_an_extra_key(keys):
    q, k, v, _ = draw(1, 33, 1, 16, torch.float32)
    q, k = q.abs(), k.clone()
    k[0, keys, 0, 0] = -torch.inf  # the extra key's own, and every key's, whose weights are NaN
    out, _ = launch_forward(q, k, v, 0.25, LaunchConfig(TILE._replace(**OPTIONS[-1]), 1, False))
    true = reference.attention(q.double(), k.double(), v.double(), 0.25)
    assert torch.allclose(out.double(), true, atol=1e-5, equal_nan=True)


def test_results_are_the_same_bits_each_time():
    q, k, v, _ = draw(1, 37, 2, 16, torch.float16)
    first = launch_forward(q, k, v, 0.25, LaunchConfig(TILE, 2, False))
    again = launch_forward(q, k, v, 0.25, LaunchConfig(TILE, 2, False))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_empty_tensors_give_empty_answers():
    for shape in [(0, 5, 2, 16), (2, 0, 2, 16), (2, 5, 0, 16)]:
        q = torch.empty(shape, dtype=torch.float16)
        out, logsumexp = launch_forward(q, q, q, 0.25)
        assert out.shape == shape
        assert launch_backward(q, q, q, q, out, logsumexp, 0.25).shape == (*shape[:2], 3, *shape[2:])


def test_rows_too_far_apart_are_an_error():
    far = torch.empty_strided((1, 2, 1, 16), (2**31, 2**30, 16, 1), dtype=torch.float16, device="meta")
    with pytest.raises(ValueError, match=r"2\^31"):
        launch_forward(far, far, far, 0.25, LaunchConfig(TILE, 1, False))
