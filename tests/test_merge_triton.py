"""The Triton kernels of the pipeline's end on a CPU: in Triton's interpreter, and what never launches one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton exists for Linux only")

from segfast.kernels import merge_cuda, reference  # noqa: E402

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
