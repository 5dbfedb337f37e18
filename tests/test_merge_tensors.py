"""What is checked of tensors before any kernel runs, and CUDA tensors without Triton: no GPU is needed.

`_stays` is patched, so that tensors on the CPU go the way of those on a GPU.
"""

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from segfast.kernels import merge, reference  # noqa: E402
from segfast.kernels.merge import Windows, merge_scores, merge_windows, upsample_argmax  # noqa: E402

GOOD = torch.zeros(1, 3, 2, 2)
VIEW = Windows(GOOD, [(0, 0)], (8, 8), (8, 8), (8, 8))


@pytest.fixture(params=[True, False], ids=["kernels", "host"])
def anywhere(request, monkeypatch):
    """Tensors stay where they are, or are copied to the host: the same checks."""
    monkeypatch.setattr(merge, "_stays", lambda tensor: request.param)


@pytest.fixture
def no_triton(monkeypatch):
    """A CUDA tensor where Triton cannot be imported."""
    monkeypatch.setattr(merge, "_stays", lambda tensor: True)
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("merge_cuda", "merge_triton", "merge_pixels"):
        monkeypatch.delitem(sys.modules, f"segfast.kernels.{name}", raising=False)
        monkeypatch.delattr(f"segfast.kernels.{name}", raising=False)
    merge._cuda.cache_clear()
    yield
    merge._cuda.cache_clear()


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("logits", "error", "words"), [
    (GOOD[0], ValueError, "must be \\[B, K, h, w\\]"), (GOOD[None], ValueError, "must be \\[B"),
    (GOOD[:0], ValueError, "none of them 0"), (GOOD[:, :0], ValueError, "none of them 0"),
    (GOOD[..., :0], ValueError, "none of them 0"), (GOOD.double(), TypeError, "logits must be"),
    (GOOD.int(), TypeError, "logits must be"), (GOOD.to_sparse(), TypeError, "dense"),
    (torch.zeros(1, 1, 1, 1).expand(1, 65537, 1, 1), ValueError, "uint16"),
    (torch.zeros(1, 1, 1, 1).expand(2048, 1024, 32, 32), ValueError, "2\\^31"),
    (torch.zeros(1, 3, 2, 2, device="meta"), ValueError, "CUDA device; got meta"),
])  # fmt: skip
def test_bad_logits(logits, error, words):
    with pytest.raises(error, match=words):
        upsample_argmax(logits, (8, 8))
    for run in (merge_windows, merge_scores):
        with pytest.raises(error, match=words):
            run([VIEW._replace(logits=logits)], (8, 8))


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((0, 8), ValueError),
        ((8, -1), ValueError),
        ((1 << 16, 1 << 15), ValueError),
        ((1, (1 << 31) - 1), ValueError),
        ((8,), TypeError),
        ((8.0, 8), TypeError),
        (None, TypeError),
    ],
)
def test_bad_sizes(size, error):
    for run in (
        lambda: upsample_argmax(GOOD, size),
        lambda: merge_windows([VIEW], size),
        lambda: merge_scores([VIEW], size),
    ):
        with pytest.raises(error):
            run()


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"origins": [(0, 1)]}, "leave the view"),
        ({"origins": [(-1, 0)]}, "origin"),
        ({"origins": []}, "0 origins"),
        ({"origins": [(0, 0), (0, 0)]}, "1 windows but 2 origins"),
        ({"size": (8, 9)}, "do not cover"),
        ({"padded": (7, 8)}, "must cover the window"),
        ({"window": (0, 8)}, "at least 1"),
        ({"size": (8, 20), "origins": [(0, 0), (0, 12)], "logits": torch.zeros(2, 3, 2, 2)}, "do not cover"),
        ({"padded": (1 << 16, 1 << 16)}, "2\\^31"),
        ({"window": (1 << 16, 1 << 16), "padded": (1 << 16, 1 << 16), "size": (1 << 16, 1 << 16)}, "2\\^31"),
    ],
)
def test_bad_windows(changes, words):
    for run in (merge_windows, merge_scores):
        with pytest.raises(ValueError, match=words):
            run([VIEW._replace(**changes)], (8, 8))


def test_bad_views_and_out(monkeypatch):
    monkeypatch.setattr(merge, "_stays", lambda tensor: True)
    with pytest.raises(ValueError, match="differ in classes"):
        merge_windows([VIEW, VIEW._replace(logits=GOOD[:, :2])], (8, 8))
    good = torch.zeros(8, 8, dtype=torch.uint8)
    for out in (good[1:], good.int(), good.to("meta")):
        with pytest.raises(ValueError, match="out must be uint8"):
            merge_windows([VIEW], (8, 8), out)


def test_views_on_different_devices(monkeypatch):
    monkeypatch.setattr(merge, "_stays", lambda tensor: True)
    monkeypatch.setattr(merge, "DEVICES", ("cpu", "meta"))
    for run in (merge_windows, merge_scores):
        with pytest.raises(ValueError, match="different devices: \\['cpu', 'meta'\\]"):
            run([VIEW, VIEW._replace(logits=GOOD.to("meta"))], (8, 8))


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_without_triton_the_host_computes(dtype):
    assert merge._cuda() is None
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 2, 3)).astype(np.float32)).to(dtype)
    plain = x.float().numpy()
    labels = upsample_argmax(x, (16, 24))
    assert isinstance(labels, torch.Tensor)
    assert np.array_equal(labels.numpy(), reference.upsample_argmax(plain, (16, 24)))
    views = [Windows(x, [(0, 0), (0, 4)], (8, 12), (8, 12), (8, 16), flip) for flip in (False, True)]
    twins = [view._replace(logits=plain) for view in views]
    for some, expected in ((views[:1], twins[:1]), (views, twins)):
        out = torch.zeros(8, 32, dtype=torch.uint8)[:, ::2]
        assert merge_windows(some, (8, 16), out) is out
        assert np.array_equal(out.numpy(), reference.merge_windows(expected, (8, 16)))
    scores = merge_scores(views, (8, 16))
    assert isinstance(scores, torch.Tensor)
    assert np.abs(scores.numpy() - reference.merge_scores(twins, (8, 16))).max() < 1e-5


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("make", [torch.zeros, lambda shape: np.zeros(shape, np.float32)])
def test_warming_up_runs_what_merging_needs(make):
    assert merge.warm_up(make((2, 3, 2, 2))).shape == (2, 8, 8)
