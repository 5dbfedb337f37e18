"""Attention beside PyTorch's, pinned to each of its backends, forward and backward.

All read the same views of one packed qkv tensor, and write what they write; the backward is that of q, k
and v alone. Forwards are replayed as CUDA graphs, as an Engine does; backwards are launched one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.clock import Clock, Row, missed, target
from segfast import kernels
from segfast.kernels import reference
from segfast.runtimes.device import out_of_memory

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
HEAD = 64
# Tokens, images and heads: 512² in patches of 16, with and without the mask decoder's 150 classes, 512² in patches
# of 8, 640², 768² and 1024². The most telling ones first, should time run out.
CASES = (
    (4097, 8, 12), (1025, 1, 12), (1025, 1, 6), (1025, 16, 12), (1174, 16, 12), (4097, 1, 12), (9217, 4, 12),
    (6401, 4, 16), (16385, 2, 16), (1174, 1, 12), (6401, 1, 16), (9217, 1, 12), (16385, 1, 12),
)  # fmt: skip
TINY = ((33, 2, 3), (16, 1, 1))
PINNED = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}
# Relative error against fp32, the ratio of the norms: a few roundings to fp16's 11 bits; twice as many backward.
TOLERANCES = {"forward": 2e-3, "backward": 5e-3}


def plan(clock: Clock, peak: float) -> Iterator[Row]:
    """Every shape, forward and backward.

    Args:
        peak: FLOP/s of the matrix units, measured.
    """
    for N, B, H in TINY if clock.rehearsal else CASES:
        for name in ("forward", "backward"):
            about = {"section": "attention", "pass": name, "N": N, "B": B, "H": H}
            yield about, partial(measure, clock, peak, N, B, H, name == "backward")


def table(results: Sequence[dict[str, Any]], arch: int, measured: str) -> list[str]:
    """Rows of `kernels/attention_table.py`, as measured at the largest batch of each length."""
    largest: dict[int, dict[str, Any]] = {}
    for row in results:
        if row.get("pass") == "forward" and {"cudnn", "flash", "ours"} <= row.get("tflops", {}).keys():
            largest[row["N"]] = max(row, largest.get(row["N"], row), key=lambda one: one["B"] * one["H"])
    return [
        f"Row({arch}, {HEAD}, {N}, {one['tflops']['cudnn']}, {one['tflops']['flash']}, {one['tflops']['ours']}, "
        f'"{measured}, {one["B"]} × {one["H"]}"),'
        for N, one in sorted(largest.items())
    ]


def measure(clock: Clock, peak: float, N: int, B: int, H: int, backward: bool) -> dict[str, Any]:
    """Seconds, TFLOP/s and share of the peak of every backend that runs and is right."""
    dtype = torch.float32 if clock.rehearsal else torch.float16
    torch.manual_seed(N)
    packed = torch.randn(B, N, 3, H, HEAD, device=clock.device, dtype=dtype)
    q, k, v = (part.requires_grad_(backward) for part in packed.unbind(2))
    grad = torch.randn(B, N, H, HEAD, device=clock.device, dtype=dtype)
    attends: dict[str, Attend] = {"ours": kernels.attention if clock.rehearsal else kernels.attention_backend("triton")}
    attends |= {name: _pinned(backend) for name, backend in PINNED.items()}
    functions, errors, skipped = {}, {}, {}
    exact = _exact(q, k, v, grad, backward)
    for name, attend in attends.items():
        try:
            function = _backward(attend, q, k, v, grad) if backward else _forward(attend, q, k, v)
            errors[name] = _error(function(), exact)
        except RuntimeError as error:
            skipped[name] = "out of memory" if out_of_memory(error) else str(error).strip().splitlines()[0][:200]
            continue
        if errors[name] > TOLERANCES["backward" if backward else "forward"]:
            skipped[name] = f"relative error {errors[name]:.1e}"
            continue
        functions[name] = function
    seconds = clock.seconds(functions, graphs=not backward)
    flops = (10 if backward else 4) * B * H * N * N * HEAD
    row: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "microseconds": {name: round(value * 1e6, 2) for name, value in seconds.items()},
        "tflops": {name: round(flops / value / 1e12, 1) for name, value in seconds.items()},
        "share_of_peak": {name: round(flops / value / peak, 3) for name, value in seconds.items()},
        "relative_error": {name: float(f"{value:.2e}") for name, value in errors.items()},
        "not_timed": skipped,
    }
    row["targets"] = [] if clock.rehearsal else _targets(seconds, flops, N, B, backward)
    if missed(row) and "ours" in functions:
        row["profile"] = clock.profile(functions["ours"])
    return row


def _targets(seconds: dict[str, float], flops: int, N: int, B: int, backward: bool) -> list[dict[str, Any]]:
    """On an H200. Where ours was not timed, it missed them."""
    ours = seconds.get("ours", float("inf"))
    peers = {name: value for name, value in seconds.items() if name != "ours"}
    if backward:
        wanted = {"flash": 1.0, "cudnn": 0.8}
        return [target(f"times {name}", wanted[name], peers[name] / ours) for name in wanted if name in peers]
    targets = []
    if peers and N >= 4097:
        targets.append(target("times the best of PyTorch's", 1.0, min(peers.values()) / ours))
    if peers and (N, B) == (1025, 1):
        targets.append(target("times the best of PyTorch's", 1.1, min(peers.values()) / ours))
    if N == 4097 and B > 1:
        targets.append(target("TFLOP/s", 400, flops / ours / 1e12))
    return targets


def _pinned(backend: SDPBackend) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    return attend


def _forward(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (attend(q, k, v),)

    return forward


def _backward(attend: Attend, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    out = attend(q, k, v)
    return lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)


def _exact(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, backward: bool) -> list[Tensor]:
    """The first and the last head in fp32, by the plain twin: all of them would not fit."""
    results = []
    for image, head in ((0, 0), (-1, -1)):
        one = [x[image, :, head][None, :, None].detach().float().requires_grad_(backward) for x in (q, k, v)]
        out = reference.attention(*one)
        if backward:
            results.append(torch.stack(torch.autograd.grad(out, one, grad[image, :, head][None, :, None].float())))
        else:
            results.append(out[None])
    return results


def _error(given: tuple[Tensor, ...], exact: list[Tensor]) -> float:
    """The larger relative error of the two heads."""
    errors = []
    for (image, head), wanted in zip(((0, 0), (-1, -1)), exact, strict=True):
        parts = torch.stack([x[image, :, head][None, :, None] for x in given]).float()
        errors.append(((parts - wanted).norm() / wanted.norm()).item())
    return max(error if error == error else float("inf") for error in errors)
