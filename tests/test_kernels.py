"""The kernels against their plain twins.

A label may differ from the twin's only where scores tie: one image resized once is computed to the
twin's last bit, so there the chosen class must have exactly the best score; sums over windows and
softmax may round otherwise, so there it may be 1e-5 of the largest logit below the best.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segfast.kernels import merge, merge_windows, reference, upsample_argmax
from segfast.kernels.merge import Windows, merge_scores
from segfast.protocol import Protocol

pytest.importorskip("numba")
KERNELS = Path(reference.__file__).parent
CLASSES = (1, 2, 19, 150, 300)
quick = settings(max_examples=60, deadline=None)


def field(K, h, w, seed=0, coarse=None):
    """Logits [K, h, w]: noise, or smooth as those of a network, from a coarse grid."""
    random = np.random.default_rng(seed)
    if coarse is None:
        return random.standard_normal((K, h, w)).astype(np.float32)
    return reference.upsample(random.standard_normal((K, coarse, coarse)).astype(np.float32) * 4, (h, w))


def windows(K, size, window, stride, patch=16, seed=0, coarse=None, mirrored=False, crop=True):
    """A view of `size` as the protocol cuts it."""
    protocol = Protocol((0, 0, 0), (1, 1, 1), window, stride, small_windows=True, crop_padding=crop)
    origins, window = protocol.windows(size)
    h, w = (-(-extent // patch) for extent in window)
    logits = np.stack([field(K, h, w, seed + i, coarse) for i in range(len(origins))])
    return Windows(logits, origins, window, (h * patch, w * patch) if crop else window, size, mirrored)


def shortfall(labels, scores):
    """How far the chosen classes' scores [K, H, W] are from the best, at most."""
    assert labels.shape == scores.shape[1:]
    return float((scores.max(0) - np.take_along_axis(scores, labels[None].astype(np.intp), 0)[0]).max())


def assert_merged(views, size, **options):
    labels = merge_windows(views, size, **options)
    if len(views) == 1:
        scores = reference.view_logits(views[0], size, 0, size[0])
    else:
        scores = reference.view_scores(views, size, 0, size[0])
    assert labels.dtype == reference.label_dtype(len(scores))
    assert shortfall(labels, scores) <= 1e-5 * max(1.0, float(np.abs(scores).max()))
    return labels


# --- upsample_argmax ---------------------------------------------------------------------------


@quick
@given(
    st.sampled_from(CLASSES),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([None, 2]),
    st.sampled_from([1, 2, 5]),
    st.integers(0, 999),
)
def test_upsample_argmax_is_the_twin(K, B, h, w, H, W, coarse, threads, seed):
    x = np.stack([field(K, h, w, seed + i, coarse) for i in range(B)])
    labels = upsample_argmax(x, (H, W), threads=threads)
    assert labels.shape == (B, H, W)
    assert labels.dtype == (np.uint8 if K <= 256 else np.uint16)
    for image, found in zip(x, labels, strict=True):
        assert shortfall(found, reference.upsample(image, (H, W))) == 0


@pytest.mark.parametrize("coarse", [None, 4])
@pytest.mark.parametrize("K", CLASSES)
def test_labels_of_a_window_are_the_twins(K, coarse):
    x = field(K, 20, 32, coarse=coarse)[None]
    assert np.array_equal(upsample_argmax(x, (320, 512)), reference.upsample_argmax(x, (320, 512)))


def test_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(field(19, 23, 31)[None])
    scores = torch.nn.functional.interpolate(x, size=(371, 497), mode="bilinear", align_corners=False)[0].numpy()
    assert shortfall(upsample_argmax(x, (371, 497))[0], scores) <= 1e-5


@quick
@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 999))
def test_ties_go_to_the_first(K, h, w, levels, seed):
    # Few whole levels and dyadic weights: every score is exact, and ties abound.
    x = np.random.default_rng(seed).integers(0, levels, (1, K, h, w)).astype(np.float32)
    size = h * 8, w * 4
    assert np.array_equal(upsample_argmax(x, size), reference.upsample(x, size).argmax(1))


def test_a_copy_of_a_class_never_wins():
    x = field(8, 6, 5)
    x = np.concatenate([x, x])[None]
    assert upsample_argmax(x, (77, 91)).max() < 8
    view = Windows(np.repeat(x, 2, 0), [(0, 0), (0, 40)], (96, 80), (96, 80), (96, 120))
    assert merge_windows([view], (96, 120)).max() < 8
    assert merge_windows([view], (50, 70)).max() < 8


def test_crossing_inside_a_cell():
    # Two classes cross in the middle of the only interval; a third is second everywhere, and best between.
    x = np.array([[4, 0], [0, 4], [2.5, 2.5]], np.float32)[None, :, None]
    assert upsample_argmax(x, (1, 16))[0, 0].tolist() == [0] * 7 + [2] * 2 + [1] * 7


@pytest.mark.parametrize("value", [0.0, -0.0, 5.0, -1e29, 1e-40])
def test_constant_logits(value):
    x = np.full((1, 150, 4, 4), value, np.float32)
    assert not upsample_argmax(x, (64, 64)).any()


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16), (33, 100)])
def test_downscaling_and_the_identity(size):
    x = field(19, 33, 40)[None]
    assert np.array_equal(upsample_argmax(x, size), reference.upsample_argmax(x, size))


def test_huge_logits_and_tiny_differences():
    x = field(19, 8, 8)[None]
    for scaled in (x * np.float32(1e25), x * np.float32(1e-30), x + np.float32(1000)):
        scores = reference.upsample(scaled[0], (130, 70))
        assert shortfall(upsample_argmax(scaled, (130, 70))[0], scores) == 0


# --- dtypes, layouts, values -------------------------------------------------------------------


def test_half_precision_counts_as_fp32():
    x = field(150, 7, 9)[None].astype(np.float16)
    assert np.array_equal(upsample_argmax(x, (100, 80)), upsample_argmax(x.astype(np.float32), (100, 80)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_tensors(dtype):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(field(19, 7, 9)[None]).to(getattr(torch, dtype)).requires_grad_()
    expected = reference.upsample_argmax(x.detach().float().numpy(), (100, 80))
    assert np.array_equal(upsample_argmax(x, (100, 80)), expected)
    view = Windows(x, [(0, 0)], (100, 80), (100, 80), (100, 80))
    assert np.array_equal(merge_windows([view], (100, 80)), expected[0])


def test_any_layout():
    x = field(19, 8, 12)[None]
    expected = upsample_argmax(x, (60, 70))
    frozen = x.copy()
    frozen.flags.writeable = False
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.repeat(np.repeat(x, 2, 1), 3, 3)[:, ::2, :, ::3]
    for other in (frozen, last, wide, x[:, :, ::-1, ::-1][:, :, ::-1, ::-1]):
        before = other.copy()
        assert np.array_equal(upsample_argmax(other, (60, 70)), expected)
        assert np.array_equal(other, before)


@quick
@given(st.integers(1, 5), st.data())
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_nan_and_infinities_are_the_twins(spots, data):
    x = field(19, 5, 6)[None]
    for _ in range(spots):
        spot = tuple(data.draw(st.integers(0, n - 1)) for n in x.shape)
        x[spot] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38]))
    assert np.array_equal(upsample_argmax(x, (40, 50)), reference.upsample_argmax(x, (40, 50)))
    views = [Windows(x, [(0, 0)], (80, 96), (80, 96), (80, 96), mirrored) for mirrored in (False, True)]
    for some, size in itertools.product((views[:1], views), ((80, 96), (50, 60))):
        assert np.array_equal(merge_windows(some, size), reference.merge_windows(some, size))


def test_nan_counts_as_the_largest():
    x = np.zeros((2, 4, 1, 1), np.float32)
    x[:, 3] = 1
    x[0, 1:3] = np.nan
    assert upsample_argmax(x, (2, 2)).tolist() == [[[1, 1], [1, 1]], [[3, 3], [3, 3]]]


# --- merge_windows -----------------------------------------------------------------------------


@quick
@given(
    st.sampled_from(CLASSES),
    st.tuples(st.integers(1, 140), st.integers(1, 140)),
    st.tuples(st.integers(16, 90), st.integers(16, 90)),
    st.tuples(st.integers(9, 90), st.integers(9, 90)),
    st.one_of(st.none(), st.tuples(st.integers(1, 170), st.integers(1, 170))),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 999),
)
def test_one_view_is_the_twin(K, view, window, stride, size, coarse, mirrored, crop, seed):
    stride = min(stride[0], window[0]), min(stride[1], window[1])
    answer = windows(K, view, window, stride, 16, seed, coarse, mirrored, crop)
    assert_merged([answer], view if size is None else size)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from((1, 2, 19, 300)),
    st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100), st.booleans()), min_size=2, max_size=4),
    st.tuples(st.integers(1, 100), st.integers(1, 100)),
    st.sampled_from([1, 3]),
    st.integers(0, 999),
)
def test_several_views_are_the_twin(K, sizes, size, threads, seed):
    views = [windows(K, (h, w), (48, 48), (33, 33), 16, seed + h, 2, mirrored) for h, w, mirrored in sizes]
    assert_merged(views, size, threads=threads)
    assert np.abs(merge_scores(views, size) - reference.merge_scores(views, size)).max() < 1e-5


def test_wide_images_with_several_views():
    views = [windows(19, (40, 700), (40, 300), (40, 111), mirrored=mirrored) for mirrored in (False, True)]
    assert_merged(views, (40, 700))
    scores = merge_scores(views[:1], (30, 600))
    assert np.allclose(scores.sum(0), 1, atol=1e-5)
    assert (scores >= 0).all()


def test_scattered_windows():
    # Not the product of rows and columns: a brick wall, one window twice.
    origins = [(0, 0), (0, 50), (30, 0), (30, 25), (30, 50), (30, 50)]
    logits = np.stack([field(19, 3, 4, seed) for seed in range(6)])
    view = Windows(logits, origins, (40, 60), (48, 64), (70, 110))
    assert_merged([view], (70, 110))
    assert_merged([view], (101, 93))


@pytest.mark.parametrize("stride", [512, 480, 300])
def test_a_photo(stride):
    view = windows(19, (640, 1024), (512, 512), (stride, stride), coarse=4)
    assert_merged([view], (640, 1024))


@pytest.mark.parametrize("size", [(427, 640), (1, 1), (700, 1100)])
def test_an_enlarged_photo_is_resized_back(size):
    assert_merged([windows(19, (512, 767), (512, 512), (512, 512), coarse=4)], size)


def test_windows_overlap_with_their_mean():
    # Three windows over the middle: two vote 1 for class 0, one votes 3 for class 1.
    logits = np.zeros((4, 2, 1, 1), np.float32)
    logits[:, 0, 0, 0] = 1, 1, 0, 5
    logits[2, 1] = 3
    view = Windows(logits, [(0, 0), (0, 0), (0, 0), (0, 4)], (4, 4), (4, 4), (4, 8))
    assert merge_windows([view], (4, 8))[0].tolist() == [1] * 4 + [0] * 4


def test_a_second_resize_averages_before_it():
    # The left two columns of the view are covered twice, the right two once; the sum would let class 0 win.
    logits = np.zeros((3, 2, 1, 1), np.float32)
    logits[:2, 0], logits[2, 1] = 1, 1.5
    view = Windows(logits, [(0, 0), (0, 0), (0, 2)], (2, 2), (2, 2), (2, 4))
    assert merge_windows([view], (1, 1)).item() == 1


def test_mirrored_labels():
    view = windows(19, (64, 100), (64, 64), (40, 40))
    assert np.array_equal(
        merge_windows([view._replace(mirrored=True)], (64, 100)), merge_windows([view], (64, 100))[:, ::-1]
    )


def test_out():
    view = windows(19, (64, 100), (64, 64), (40, 40))
    expected = merge_windows([view], (64, 100))
    plain, strided = np.zeros((64, 100), np.uint8), np.zeros((64, 200), np.uint8)[:, ::2]
    for out in (plain, strided):
        assert merge_windows([view], (64, 100), out) is out
        assert np.array_equal(out, expected)


# --- wrong arguments ---------------------------------------------------------------------------

GOOD = np.zeros((1, 3, 2, 2), np.float32)


@pytest.mark.parametrize(
    "logits",
    [
        GOOD[0],
        GOOD[None],
        GOOD[:0],
        GOOD[:, :0],
        GOOD[:, :, :0],
        np.broadcast_to(np.float32(0), (1, 65537, 1, 1)),
        np.broadcast_to(np.float32(0), (2048, 1024, 32, 32)),
    ],
)
def test_bad_shapes(logits):
    with pytest.raises(ValueError):
        upsample_argmax(logits, (8, 8))


@pytest.mark.parametrize("logits", [GOOD.astype(np.float64), GOOD.astype(np.int32), GOOD.tolist(), None])
def test_bad_dtypes(logits):
    with pytest.raises(TypeError, match="logits must be"):
        upsample_argmax(logits, (8, 8))


@pytest.mark.parametrize("size", [(0, 8), (8, -1), (1 << 16, 1 << 15)])
def test_bad_sizes(size):
    with pytest.raises(ValueError):
        upsample_argmax(GOOD, size)


@pytest.mark.parametrize("size", [8, (8,), (8, 8, 8), (8.0, 8), "88", None])
def test_sizes_that_are_none(size):
    with pytest.raises(TypeError):
        upsample_argmax(GOOD, size)


@pytest.mark.parametrize(("threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_threads(threads, error):
    with pytest.raises(error, match="threads"):
        upsample_argmax(GOOD, (8, 8), threads=threads)


@pytest.mark.parametrize(
    "changes",
    [
        {"origins": [(0, 1)]},  # leaves the view
        {"origins": [(-1, 0)]},
        {"origins": []},
        {"origins": [(0, 0), (0, 0)]},  # two origins, one window
        {"size": (8, 9)},  # the last column is not covered
        {"size": (9, 8)},
        {"padded": (7, 8)},
        {"window": (0, 8)},
        {"size": (8, 20), "origins": [(0, 0), (0, 12)], "logits": np.repeat(GOOD, 2, 0)},  # a hole
        {"size": (12, 12), "origins": [(0, 0), (4, 4)], "logits": np.repeat(GOOD, 2, 0)},
        {"size": (12, 8), "origins": [(4, 0)]},
    ],
)
def test_bad_windows(changes):
    view = Windows(GOOD, [(0, 0)], (8, 8), (8, 8), (8, 8))
    merge_windows([view], (8, 8))
    for run in (merge_windows, merge_scores):
        with pytest.raises(ValueError):
            run([view._replace(**changes)], (8, 8))


def test_bad_views_and_out():
    view = Windows(GOOD, [(0, 0)], (8, 8), (8, 8), (8, 8))
    with pytest.raises(ValueError, match="no views"):
        merge_windows([], (8, 8))
    with pytest.raises(ValueError, match="differ in classes"):
        merge_windows([view, view._replace(logits=GOOD[:, :2])], (8, 8))
    with pytest.raises(TypeError, match="Windows"):
        merge_windows(view, (8, 8))
    for out in (np.zeros((8, 9), np.uint8), np.zeros((8, 8), np.int64)):
        with pytest.raises(ValueError, match="out must be"):
            merge_windows([view], (8, 8), out)


# --- threads, forks, caches, memory ------------------------------------------------------------


def test_many_threads_call_at_once():
    x = np.stack([field(19, 16, 16, seed) for seed in range(3)])
    expected = upsample_argmax(x, (256, 256), threads=1)
    wrong = []

    def call():
        for _ in range(10):
            if not np.array_equal(upsample_argmax(x, (256, 256)), expected):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert not wrong


def test_errors_in_a_band_reach_the_caller():
    from segfast.kernels.cpu import run

    def fail():
        raise OverflowError

    for threads in (1, 2, 8):
        with pytest.raises(OverflowError):
            run([lambda: None] * 5 + [fail] * 5, threads)


def _in_child(x, expected, queue):
    from segfast.kernels.cpu import _pool

    _pool().submit(int).result(timeout=20)  # labels alone would not tell: the caller does what no helper takes
    queue.put(bool(np.array_equal(upsample_argmax(x, (256, 256), threads=4), expected)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_its_own_threads():
    x = field(19, 16, 16)[None]
    expected = upsample_argmax(x, (256, 256), threads=4)  # the parent's threads exist
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(x, expected, queue))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert queue.get(timeout=5)


SCRIPT = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from kernels import reference, upsample_argmax
x = np.random.default_rng(0).standard_normal((1, 5, 3, 4), np.float32)
assert np.array_equal(upsample_argmax(x, (40, 50)), reference.upsample_argmax(x, (40, 50)))
assert "torch" not in sys.modules
from kernels import merge_loops
print(sum(merge_loops.label_cells.stats.cache_misses.values()), sum(merge_loops.label_cells.stats.cache_hits.values()))
"""


def _run_elsewhere(folder, home):
    # In a Python of its own, which can write nowhere but in `home`; root could write into read-only folders.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    environment |= {"XDG_CACHE_HOME": str(home), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_compiled_code_is_cached_where_one_can_write(tmp_path):
    shutil.copytree(KERNELS, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "kernels" / "__pycache__").touch()  # a folder that cannot be written
    home = tmp_path / "home"
    home.mkdir()
    assert _run_elsewhere(tmp_path, home) == ["1", "0"]
    assert list(home.rglob("*.nbc"))
    assert _run_elsewhere(tmp_path, home) == ["0", "1"]
    nowhere = tmp_path / "kernels" / "__pycache__" / "home"
    assert _run_elsewhere(tmp_path, nowhere) == ["1", "0"]


def test_without_numba_the_twins_answer(monkeypatch):
    x = field(19, 5, 6)[None]
    view = windows(19, (64, 100), (64, 64), (40, 40))
    expected = upsample_argmax(x, (50, 60)), merge_windows([view], (64, 100)), merge_scores([view], (64, 100))
    monkeypatch.setattr(merge, "_compiled", lambda: None)
    found = upsample_argmax(x, (50, 60)), merge_windows([view], (64, 100)), merge_scores([view], (64, 100))
    for a, b in zip(expected, found, strict=True):
        assert np.allclose(a, b, atol=1e-6)


MEMORY = """
import ctypes, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_kernels import merge_windows, windows

views = [windows(150, (1024, 1024), (512, 512), (480, 480), coarse=4, mirrored=i > 0) for i in range(int(sys.argv[1]))]
merge_windows(views, (8, 8))

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

ctypes.CDLL(None).malloc_trim(0)      # or what was freed before would hide what this one takes
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
labels = merge_windows(views, (1024, 1024))
print((kilobytes("VmHWM") - before) * 1024, labels.nbytes, sum(view.logits.nbytes for view in views))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
@pytest.mark.parametrize("count", [1, 2])
def test_memory_is_that_of_labels_and_logits(count):
    """In a process of its own, to which no other test's threads add theirs."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", MEMORY, str(count), str(here)]
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    extra, labels, logits = map(int, done.stdout.split())
    assert labels * 0.9 < extra <= 2 * (labels + logits)
