"""The end of the pipeline on a GPU, at real sizes: `pytest -m gpu`."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU", allow_module_level=True)
pytest.importorskip("triton", reason="Triton exists for Linux only")

from segfast.kernels import merge_layout, merge_windows, reference, upsample_argmax  # noqa: E402
from segfast.kernels.merge import Windows, merge_scores  # noqa: E402
from segfast.protocol import Protocol, views  # noqa: E402

pytestmark = pytest.mark.gpu


def field(*shape, seed=0, coarse=True):
    random = np.random.default_rng(seed)
    if not coarse:
        return random.standard_normal(shape).astype(np.float32)
    return np.ascontiguousarray(reference.upsample(4 * random.standard_normal((*shape[:2], 5, 5)), shape[2:]))


def windows(K, size, window, stride, mirrored=False, seed=0):
    protocol = Protocol((0, 0, 0), (1, 1, 1), window, stride, small_windows=True)
    origins, (H, W) = protocol.windows(size)
    h, w = -(-H // 16), -(-W // 16)
    logits = field(len(origins), K, h, w, seed=seed)
    return Windows(logits, origins, (H, W), (h * 16, w * 16), size, mirrored)


def cuda(view):
    return view._replace(logits=torch.from_numpy(view.logits).cuda())


def shortfall(labels, scores):
    chosen = np.take_along_axis(scores, labels.cpu().numpy()[None].astype(np.intp), 0)[0]
    return float((scores.max(0) - chosen).max())


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(("K", "patches", "size"), [
    (150, (32, 32), (512, 512)), (150, (64, 64), (512, 512)), (150, (16, 16), (512, 512)), (1, (32, 32), (512, 512)),
    (19, (48, 48), (768, 768)), (300, (30, 30), (480, 480)), (60, (30, 41), (427, 640)), (2, (1, 1), (333, 111)),
    (19, (64, 64), (20, 30)), (1000, (14, 14), (224, 224)),
])  # fmt: skip
def test_upsample_argmax_is_the_twin(K, patches, size, coarse):
    x = field(2, K, *patches, coarse=coarse)
    labels = upsample_argmax(torch.from_numpy(x).cuda(), size)
    assert labels.is_cuda
    assert labels.dtype == (torch.uint8 if K <= 256 else torch.uint16)
    for image, found in zip(x, labels, strict=True):
        assert shortfall(found, reference.upsample(image, size)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_dtype_and_layout(dtype):
    x = torch.from_numpy(field(2, 150, 32, 32)).cuda().to(dtype)
    expected = reference.upsample_argmax(x.float().cpu().numpy(), (512, 512))
    sectors = merge_layout.empty(x.shape, dtype, "cuda")
    sectors.untyped_storage().fill_(0x7F)  # what lies behind the last class is no class
    sectors.copy_(x)
    for other in (x, sectors, x.contiguous(memory_format=torch.channels_last), x.repeat_interleave(2, 3)[..., ::2]):
        assert np.array_equal(upsample_argmax(other, (512, 512)).cpu().numpy(), expected)


@pytest.mark.parametrize("spot", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_nan_and_infinities_are_the_twins(spot):
    x = field(1, 19, 16, 16)
    x[0, 7, 5, 6] = x[0, 3, 0, 0] = spot
    with np.errstate(all="ignore"):
        for size in ((256, 256), (200, 300)):
            expected = reference.upsample_argmax(x, size)
            assert np.array_equal(upsample_argmax(torch.from_numpy(x).cuda(), size).cpu().numpy(), expected)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("view", "window", "stride", "size"), [
    ((1024, 2048), (768, 768), (512, 512), (1024, 2048)), ((512, 767), (512, 512), (512, 512), (427, 640)),
    ((640, 1000), (480, 480), (320, 320), (640, 1000)), ((375, 500), (375, 500), (375, 500), (375, 500)),
    ((512, 683), (512, 512), (480, 480), (1200, 1600)),
])  # fmt: skip
def test_one_view_is_the_twin(view, window, stride, size, mirrored):
    answer = windows(19, view, window, stride, mirrored)
    labels = merge_windows([cuda(answer)], size)
    assert shortfall(labels, reference.view_logits(answer, size, 0, size[0])) == 0


def test_12_views_are_the_twin():
    size = (300, 400)
    answers = [
        windows(60, view, (128, 128), (96, 96), flip, seed) for seed, (view, flip) in enumerate(views(size, True))
    ]
    scores = reference.view_scores(answers, size, 0, size[0])
    assert shortfall(merge_windows([cuda(view) for view in answers], size), scores) <= 1e-5
    assert np.abs(merge_scores([cuda(view) for view in answers], size).cpu().numpy() - scores).max() <= 1e-5


def test_any_stream():
    x, stream = torch.from_numpy(field(4, 150, 32, 32)).cuda(), torch.cuda.Stream()
    expected = upsample_argmax(x, (512, 512))
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        torch.cuda._sleep(10_000_000)  # work on another stream would overtake it, and see zeros
        late.copy_(x)
        labels = upsample_argmax(late, (512, 512))
    stream.synchronize()
    assert torch.equal(labels, expected)


def test_captured_in_a_graph_and_replayed_with_other_inputs():
    size = (640, 1000)
    answers = [windows(19, size, (480, 480), (320, 320), seed=seed) for seed in (0, 100)]
    x, merged = (
        torch.from_numpy(field(2, 150, 32, 32)).cuda(),
        [cuda(answers[0]), cuda(answers[0])._replace(mirrored=True)],
    )

    def step():
        return upsample_argmax(x, (512, 512)), merge_windows(merged[:1], size), merge_windows(merged, size)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    x.copy_(torch.from_numpy(field(2, 150, 32, 32, seed=9)))
    for view in merged:
        view.logits.copy_(torch.from_numpy(answers[1].logits))
    graph.replay()
    torch.cuda.synchronize()
    replayed = [labels.clone() for labels in found]
    assert all(torch.equal(a, b) for a, b in zip(replayed, step(), strict=True))


def test_memory_is_never_that_of_the_scores():
    K, size = 150, (2048, 2048)
    answers = [cuda(windows(K, size, (512, 512), (480, 480), flip)) for flip in (False, True)]
    for some, extra in ((answers[:1], 1 << 20), (answers, 80 << 20)):
        merge_windows(some, size)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        labels = merge_windows(some, size)
        assert torch.cuda.max_memory_allocated() - before <= labels.nbytes + extra  # the scores are 2.5 GB


def test_out():
    view = cuda(windows(19, (64, 100), (64, 64), (40, 40)))
    expected = merge_windows([view], (64, 100))
    plain = torch.zeros(64, 100, dtype=torch.uint8, device="cuda")
    strided = torch.zeros(64, 200, dtype=torch.uint8, device="cuda")[:, ::2]
    for out in (plain, strided):
        assert merge_windows([view], (64, 100), out) is out
        assert torch.equal(out, expected)
    for out in (plain.cpu(), plain.int(), plain[1:]):
        with pytest.raises(ValueError, match="out must be"):
            merge_windows([view], (64, 100), out)


def test_views_on_two_devices():
    view = windows(19, (64, 100), (64, 64), (40, 40))
    for run in (merge_windows, merge_scores):
        with pytest.raises(ValueError, match="devices"):
            run([view, cuda(view)], (64, 100))


@pytest.mark.parametrize(
    ("shape", "error"), [((3, 2, 2), ValueError), ((0, 3, 2, 2), ValueError), ((1, 3, 0, 2), ValueError)]
)
def test_bad_shapes(shape, error):
    with pytest.raises(error):
        upsample_argmax(torch.zeros(shape, device="cuda"), (8, 8))


def test_bad_dtypes_and_too_many_elements():
    with pytest.raises(TypeError, match="logits must be"):
        upsample_argmax(torch.zeros(1, 3, 2, 2, device="cuda", dtype=torch.float64), (8, 8))
    with pytest.raises(ValueError, match="2\\^31"):
        upsample_argmax(torch.zeros(1, 1, 1, 1, device="cuda").expand(2048, 1024, 32, 32), (8, 8))
    with pytest.raises(ValueError, match="2\\^31"):
        upsample_argmax(torch.zeros(1, 3, 2, 2, device="cuda"), (1 << 16, 1 << 15))
