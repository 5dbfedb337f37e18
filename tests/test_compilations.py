"""Nothing is compiled after the warm-up, whatever the sizes: Triton's launches are recorded, no GPU is needed."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton exists for Linux only")

from launches import Launches  # noqa: E402

from segfast.kernels import attention_configs, merge, merge_cuda, merge_layout  # noqa: E402
from segfast.kernels.attention_configs import Tile, Tiles  # noqa: E402
from segfast.kernels.attention_cuda import launch_backward, launch_forward  # noqa: E402
from segfast.kernels.attention_warm_up import warm_up as warm_up_attention  # noqa: E402
from segfast.kernels.merge import Windows, merge_scores, merge_windows, upsample_argmax  # noqa: E402
from segfast.protocol import Protocol, views  # noqa: E402

SIZES = 400
PATCH = 16


@pytest.fixture
def launches(monkeypatch):
    """Tensors on the CPU go the way of those on a GPU."""
    monkeypatch.setattr(merge, "_stays", lambda tensor: True)
    monkeypatch.setattr(merge_cuda, "BAND", 1 << 17)  # several bands, at all addresses
    gpu = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return Launches(monkeypatch)


def sizes(seed=0):
    return np.random.default_rng(seed).integers(1, 130, (SIZES, 2)).tolist()


def answers(size, multiscale, protocol, make):
    """What the network gives for an image; `make` makes the logits of n windows of h × w patches."""
    for view, mirrored in views(tuple(size), multiscale):
        working = protocol.working_size(view)
        origins, window = protocol.windows(working)
        h, w = (-(-side // PATCH) for side in window)
        padded = (h * PATCH, w * PATCH) if protocol.crop_padding else window
        yield Windows(make(len(origins), h, w), origins, window, padded, working, mirrored)


PROTOCOLS = {
    "original": Protocol((0,) * 3, (1,) * 3, (64, 64), (40, 40)),
    "mmsegmentation": Protocol((0,) * 3, (1,) * 3, (64, 64), (40, 40), small_windows=True, crop_padding=False),
}


@pytest.mark.parametrize(
    ("K", "dtype", "name"),
    [
        (19, torch.float16, "original"),
        (257, torch.bfloat16, "original"),
        (150, torch.float32, "mmsegmentation"),
    ],
)
def test_labels_of_images_of_any_size(launches, K, dtype, name):
    def make(n, h, w):
        return merge_layout.empty((n, K, h, w), dtype, "cpu")

    merge_cuda.warm_up(K, dtype, "cpu")
    compiled = set(launches.compiled)
    assert launches.names() == ["first_best_kernel"] + ["label_kernel"] * 6 + ["softmax_kernel"] * 4
    for i, size in enumerate(sizes()):
        for multiscale in (False, True) if i % 20 == 0 else (False,):
            given = list(answers(size, multiscale, PROTOCOLS[name], make))
            merge_windows(given, size)
            if i % 40 == 0:
                merge_scores(given, size)
        if i % 10 == 0:  # neighbouring images share a batch, in which one may begin anywhere
            upsample_argmax(make(3, 1 + i % 7, 1 + i % 5)[1:], size)
    assert launches.count > SIZES
    assert launches.compiled == compiled


def test_labels_of_contiguous_logits_are_compiled_once(launches):
    """Classes first, as a caller's own may be: not warmed up, but of few kinds too, wherever in memory they begin."""
    memory, begin = torch.empty(1 << 18, dtype=torch.float16), 0

    def make(n, h, w):
        return memory[begin % 9 :][: n * 19 * h * w].view(n, 19, h, w)

    for size in sizes():
        begin += 1
        merge_windows(list(answers(size, False, PROTOCOLS["original"], make)), size)
    assert len(launches.compiled) <= 6


TABLES = {
    "table": attention_configs.HALF[90, 64],
    "options": Tiles(
        Tile(128, 64, 4, 3, carried=True, extra_key=True, extra_query=True),
        Tile(64, 64, 4, 3, extra_key=True),
        Tile(128, 64, 8, 2),
        Tile(128, 64, 8, 2),
    ),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("heads", "d"), [(12, 64), (1, 16), (3, 20)])
def test_attention_of_any_batch_and_length(launches, monkeypatch, name, heads, d):
    monkeypatch.setitem(attention_configs.HALF, (90, 64), TABLES[name])
    warm_up_attention(heads, d, torch.float16, "cpu")
    compiled = set(launches.compiled)
    random = np.random.default_rng(1)
    for _ in range(SIZES):
        B, N = int(random.integers(1, 5)), int(random.choice([1, 64, 65, 1025, random.integers(2, 700)]))
        packed = torch.empty((B, N, 3, heads, d), dtype=torch.float16)
        launch_forward(*packed.unbind(2), 0.125)
    assert launches.count > SIZES
    assert launches.compiled == compiled


def test_attentions_gradient_is_compiled_once(launches):
    for N in (1, 16, 17, 257, 1025, 1040):
        packed = torch.empty((2, N, 3, 3, 64), dtype=torch.float16)
        out, logsumexp = torch.empty(2, N, 3, 64, dtype=torch.float16), torch.empty(2, 3, N)
        launch_backward(torch.empty_like(out), *packed.unbind(2), out, logsumexp, 0.125)
    assert launches.names() == ["attention_backward_keys", "attention_backward_queries", "attention_delta"]
