"""How much faster labels come out of the kernels than out of PyTorch, on this CPU.

    pytest benchmarks/test_kernels_cpu.py --benchmark-only -s

The end of the pipeline turns patch logits into labels. PyTorch writes all K·H·W scores on the way,
the kernels none of them. Before each timed call of ours the peer is timed in the same process, with
the same number of threads, both on warm data; the ratio is that of the fastest calls. The labels are
compared before anything counts. Each test prints one line of JSON.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numba
import numpy as np
import pytest

from benchmarks.memory import peak
from segfast.kernels import merge_windows, upsample_argmax
from segfast.kernels.merge import Windows
from segfast.kernels.reference import upsample
from segfast.protocol import Protocol

torch = pytest.importorskip("torch")
THREADS = 2
PHOTO = (1024, 2048)


def smooth(*shape):
    """Logits like a trained network's: a 4×4 field of noise, upsampled, some ±4 in height."""
    coarse = np.random.default_rng(0).standard_normal((*shape[:-2], 4, 4)).astype(np.float32)
    return np.ascontiguousarray(upsample(coarse, shape[-2:]) * 4)


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def compare(benchmark, record, name, ours, peer, check, rounds, least, **facts):
    """Times both in turn; fails below `least` times the peer's speed."""
    check(ours(), peer())
    seconds = []

    def warm_up():
        start = time.perf_counter()
        peer()
        seconds.append(time.perf_counter() - start)
        ours()

    benchmark.pedantic(ours, setup=warm_up, rounds=rounds, iterations=1, warmup_rounds=1)
    fastest, median = benchmark.stats.stats.min, benchmark.stats.stats.median
    facts |= {
        "ours_ms": round(fastest * 1e3, 3),
        "peer_ms": round(min(seconds) * 1e3, 1),
        "ratio": round(min(seconds) / fastest, 1),
        "ratio_of_medians": round(float(np.median(seconds)) / median, 1),
        "least": least,
        "threads": THREADS,
        "dtype": "float32",
        "cpu": cpu(),
        "versions": {package.__name__: package.__version__ for package in (torch, numba, np)},
    }
    benchmark.extra_info.update(facts)
    print(json.dumps({"benchmark": benchmark.name, **facts}))
    record(
        {
            "section": "kernels",
            "id": name,
            "seconds": fastest,
            "peers": {"PyTorch": min(seconds)},
            "ratio": min(seconds) / fastest,
            "wanted": least,
        }
    )
    assert facts["ratio"] >= least


def cpu():
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else "unknown"


def same(found, scores):
    """Labels equal the argmax wherever it is decided by more than 1e-5."""
    best = scores.amax(-3)
    chosen = scores.gather(-3, torch.from_numpy(found.astype(np.int64)).unsqueeze(-3)).squeeze(-3)
    assert (best - chosen).max() <= 1e-5 * scores.abs().max()


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.benchmark(group="upsample_argmax")
@pytest.mark.parametrize(("make", "shape", "size", "least"), [
    (smooth, (1, 150, 32, 32), (512, 512), 150),
    (noise, (1, 150, 32, 32), (512, 512), 20),
    (smooth, (1, 150, 64, 64), (512, 512), 20),
    (noise, (2, 19, 23, 31), (371, 497), 5),
])  # fmt: skip
def test_upsample_argmax(benchmark, record, make, shape, size, least):
    x = make(*shape)
    tensor = torch.from_numpy(x)

    def scores():
        return torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)

    compare(
        benchmark,
        record,
        f"upsample_argmax {shape[0]}×{shape[1]}×{shape[2]}×{shape[3]} → {size[0]}×{size[1]}, {make.__name__}",
        lambda: upsample_argmax(x, size, threads=THREADS),
        lambda: scores().argmax(1),
        lambda found, _: same(found, scores()),
        rounds=25,
        least=least,
        logits=make.__name__,
        shape=shape,
        size=size,
    )


@pytest.mark.benchmark(group="merge_windows")
@pytest.mark.parametrize("stride", [512, 480])
@pytest.mark.parametrize("K", [150, 19])
def test_merge_windows(benchmark, record, K, stride):
    origins, window = Protocol((0, 0, 0), (1, 1, 1), (512, 512), (stride, stride)).windows(PHOTO)
    x = smooth(len(origins), K, 32, 32)
    view = Windows(x, origins, window, window, PHOTO)
    tensor = torch.from_numpy(x)

    def scores():
        total, count = torch.zeros(K, *PHOTO), torch.zeros(1, *PHOTO)
        for logits, (top, left) in zip(tensor, origins, strict=True):
            spot = (slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
            total[spot] += torch.nn.functional.interpolate(logits[None], size=window, mode="bilinear")[0]
            count[spot] += 1
        return total.div_(count)

    def merged():
        return merge_windows([view], PHOTO, threads=THREADS)

    merged()
    extra = peak(merged)
    allowed = 2 * (x.nbytes + PHOTO[0] * PHOTO[1])
    assert extra is None or extra <= allowed
    compare(
        benchmark,
        record,
        f"merge_windows {len(origins)}×{K}×32×32 → {PHOTO[0]}×{PHOTO[1]}, stride {stride}",
        merged,
        lambda: scores().argmax(0),
        lambda found, _: same(found, scores()),
        rounds=4,
        least=50,
        logits="smooth",
        windows=len(origins),
        K=K,
        stride=stride,
        size=PHOTO,
        peak_extra_bytes=extra,
        labels_and_logits_bytes=allowed // 2,
    )


@pytest.mark.benchmark(group="merge_views")
def test_several_views(benchmark, record):
    """A photo and its mirror image: no class may be dropped from a softmax, so this is arithmetic, not pruning."""
    size = (512, 683)
    origins, window = Protocol((0, 0, 0), (1, 1, 1), (512, 512), (512, 512)).windows(size)
    x = smooth(len(origins), 150, 32, 32)
    views = [Windows(x, origins, window, window, size, mirrored) for mirrored in (False, True)]
    tensor = torch.from_numpy(x)

    def scores():
        total, count = torch.zeros(150, *size), torch.zeros(1, *size)
        for logits, (top, left) in zip(tensor, origins, strict=True):
            spot = (slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
            total[spot] += torch.nn.functional.interpolate(logits[None], size=window, mode="bilinear")[0]
            count[spot] += 1
        return (total.div_(count).softmax(0) + total.flip(2).softmax(0)).div_(2)

    compare(
        benchmark,
        record,
        f"merge_windows 2 views of {len(origins)}×150×32×32 → {size[0]}×{size[1]}",
        lambda: merge_windows(views, size, threads=THREADS),
        lambda: scores().argmax(0),
        lambda found, _: same(found, scores()),
        rounds=4,
        least=2,
        logits="smooth",
        views=2,
        K=150,
        size=size,
    )
