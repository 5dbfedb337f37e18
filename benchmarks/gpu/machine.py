"""What the others depend on: the GPU, its clocks and measured peaks, PyTorch's choice of an attention, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from benchmarks import recording
from benchmarks.gpu.budget import Row
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.sanitizer import tool
from segfast.dependencies.packages import PACKAGES
from segfast.machine.cpu import cpu_model

HEAD = 64
# Tokens, images and heads whose attention PyTorch is asked about: 512² in patches of 16 and of 8.
CHOICES = ((1025, 1, 12), (1025, 16, 12), (4097, 1, 12), (4097, 8, 12))
TINY = ((33, 1, 2),)
# Of the benchmarks and tests alone.
OTHERS = ("pytest", "pytest_benchmark", "flash_attn_interface")
# Products that are queued while the driver is asked for the clocks: about a second's.
LOAD = 800


def plan(clock: Clock) -> Iterator[Row]:
    """The machine, its peaks, what it lacks, PyTorch's choices."""
    about = {"section": "machine"}
    yield about | {"what": "device"}, partial(_device, clock)
    yield about | {"what": "peaks"}, partial(peaks, clock)
    yield about | {"what": "missing"}, missing
    for N, B, H in TINY if clock.rehearsal else CHOICES:
        yield (
            about | {"what": "attention of PyTorch's choice", "N": N, "B": B, "H": H},
            partial(_choice, clock, N, B, H),
        )


def missing() -> dict[str, Any]:
    """Packages and tools without which some rows cannot be had."""
    names = [*(one.module for one in PACKAGES), *OTHERS]
    return {"missing": [name for name in names if find_spec(name) is None], "compute_sanitizer": tool()}


def peaks(clock: Clock) -> dict[str, Any]:
    """TFLOP/s of a large matrix product and GB/s of a copy, as measured here; the clocks while products run."""
    n, dtype = (256, torch.float32) if clock.rehearsal else (8192, torch.float16)
    a, b = (torch.randn(n, n, device=clock.device, dtype=dtype) for _ in range(2))
    source = torch.zeros(1 << (20 if clock.rehearsal else 30), dtype=torch.uint8, device=clock.device)
    into, out = torch.empty_like(source), torch.empty_like(a)
    seconds = clock.seconds({"matrix": lambda: torch.mm(a, b, out=out), "copy": lambda: into.copy_(source)})
    found = {
        "matrix_tflops": round(2 * n**3 / seconds["matrix"] / 1e12, 4),
        "copy_gb_per_second": round(2 * len(source) / seconds["copy"] / 1e9, 1),
    }
    return {
        "measured_peak": found,
        "under_load": {} if clock.rehearsal else _under_load(lambda: torch.mm(a, b, out=out)),
    }


def _device(clock: Clock) -> dict[str, Any]:
    if clock.rehearsal:
        return {"gpu": {}, "cpu": cpu_model()}
    return {"gpu": recording.gpu()}


def _under_load(product: Any) -> dict[str, Any]:
    """What the driver tells while the GPU computes."""
    for _ in range(LOAD):
        product()
    told = recording.gpu()
    torch.cuda.synchronize()
    return {key: told[key] for key in recording.GPU_FIELDS if key in told}


def _choice(clock: Clock, N: int, B: int, H: int) -> dict[str, Any]:
    """The backend that PyTorch takes for views of a packed qkv, and the kernels that it really runs."""
    dtype = torch.float32 if clock.rehearsal else torch.float16
    qkv = torch.randn(B, N, 3, H, HEAD, device=clock.device, dtype=dtype)
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
    with torch.no_grad():
        chosen = SDPBackend(torch._fused_sdp_choice(q, k, v)).name.lower()
        kernels = clock.profile(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v), 3)
    return {"dtype": str(dtype).removeprefix("torch."), "chosen": chosen, "kernels": kernels}
