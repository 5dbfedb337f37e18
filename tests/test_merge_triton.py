"""The Triton kernels of the pipeline's end on a CPU: in Triton's interpreter, and what never launches one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton exists for Linux only")

from segfast.kernels import merge_cuda, merge_layout, reference  # noqa: E402
from segfast.kernels.merge import Windows  # noqa: E402

HERE = Path(__file__).parent


def test_the_kernels_are_the_twins_in_the_interpreter(tmp_path):
    # Triton reads the variable when it is first imported: hence a process of their own.
    environment = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted_merge.py")]
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("length", [1, 2, 5, 30, 32, 64])
@pytest.mark.parametrize("size", [1, 7, 64, 240, 256, 512, 960, 1024])
def test_tiles_lie_in_cells(length, size):
    tile, shift = merge_cuda._tiles(length, size)
    if size % length == 0 and size // length in (8, 16, 32):
        assert tile == min(16, size // length)
    first = reference._taps(length, size)[0]
    for start in range(-shift, size, tile) if tile else ():
        assert len(np.unique(first[max(0, start) : start + tile])) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("K", [1, 8, 19, 150, 160])
def test_logits_in_whole_sectors(K, dtype):
    x = merge_layout.empty((3, K, 2, 5), dtype, "cpu")
    assert x.shape == (3, K, 2, 5)
    assert x.stride(1) == 1
    assert all(x.stride(axis) * x.element_size() % merge_layout.SECTOR == 0 for axis in (0, 2, 3))
    for some in (x, x[1:], x[:, :, :1], x[2:, :, :1, :1]):
        lies = merge_layout.layout(some)
        assert (lies.last, lies.vector * x.element_size()) == (True, merge_layout.VECTOR)
        assert K <= lies.classes * lies.vector < K + lies.vector
        assert all(
            step == 0 or step * lies.vector == some.stride(axis) for axis, step in enumerate(lies.steps) if axis != 1
        )


def test_vectors_stay_in_memory_and_aligned():
    for offset, numbers, vector in (
        (0, 320, 8),
        (0, 312, 8),
        (0, 310, 1),
        (8, 328, 8),
        (8, 320, 8),
        (8, 318, 1),
        (1, 329, 1),
    ):
        x = torch.zeros(numbers, dtype=torch.float16).as_strided((1, 150, 1, 2), (0, 1, 0, 160), offset)
        assert merge_layout.layout(x).vector == vector
    packed = torch.zeros(1, 4, 4, 150, dtype=torch.float16).permute(0, 3, 1, 2)
    assert merge_layout.layout(packed)[1:] == (150, True, 1)
    assert merge_layout.layout(torch.zeros(2, 150, 4, 4))[1:] == (150, False, 1)


def test_other_layouts_are_copied():
    odd = torch.zeros(2, 3, 4, 10)[..., ::2]
    assert merge_layout.readable(odd).is_contiguous()
    far = torch.empty_strided((2, 3, 1, 1), (1 << 31, 1, 1, 1), device="meta")
    assert merge_layout.readable(far).stride(0) == 3
    near = merge_layout.empty((2, 3, 4, 5), torch.float32, "cpu")
    assert merge_layout.readable(near) is near


class Table:
    """Origins in pinned memory that count their copies."""

    def __init__(self):
        self.copies = []

    def to(self, device, non_blocking):
        assert non_blocking
        self.copies.append(device)
        return object()


@pytest.fixture
def stream(monkeypatch):
    """A CUDA stream that may be captured; origins are pinned as `Table`s."""
    now = SimpleNamespace(cuda_stream=1, capturing=False, tables=[])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now.capturing)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: now.tables.append(Table()) or now.tables[-1])
    for cache in (merge_cuda._pinned, merge_cuda._upload):
        cache.cache_clear()
    monkeypatch.setattr(merge_cuda, "_captured", [])
    yield now
    for cache in (merge_cuda._pinned, merge_cuda._upload):
        cache.cache_clear()


def overlapping(*origins):
    return Windows(SimpleNamespace(device=torch.device("cuda", 0)), origins, (8, 8), (8, 8), (8, 12))


def test_origins_are_copied_once_a_stream_and_by_every_graph(stream):
    view = overlapping((0, 0), (0, 4))
    first = merge_cuda._origins(view)
    assert merge_cuda._origins(view) is first
    stream.cuda_stream = 2  # which need not have waited for the first one's copy
    assert merge_cuda._origins(view) is not first
    (table,) = stream.tables
    assert len(table.copies) == 2
    stream.capturing = True
    captured = [merge_cuda._origins(view) for _ in range(2)]
    assert len(table.copies) == 4
    assert first not in captured
    assert merge_cuda._captured == [table]  # its copies are repeated whenever the graph is


def test_unseen_origins_cannot_be_captured(stream):
    stream.capturing = True
    with pytest.raises(ValueError, match="after one call with the same origins"):
        merge_cuda._origins(overlapping((0, 0), (0, 3)))
    assert merge_cuda._origins(overlapping((0, 0))) is None
