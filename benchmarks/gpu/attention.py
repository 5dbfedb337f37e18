"""Attention beside PyTorch's, pinned to each of its backends, forward and backward.

All read the same views of one packed qkv tensor, and write what they write; the backward is that of q, k
and v alone. Both are replayed as CUDA graphs, as an Engine does, so that no launch is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.budget import Row, missed, target
from benchmarks.gpu.clock import Clock, Prepared
from segfast import kernels
from segfast.kernels import reference
from segfast.machine.exhaustion import out_of_memory

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Function = Callable[[], tuple[Tensor, ...]]
HEAD = 64
# Tokens, images and heads: 512² in patches of 16, with and without the mask decoder's 150 classes, 512² in patches
# of 8, 640², 768² and 1024². The most telling ones first, should time run out.
CASES = (
    (4097, 8, 12), (1025, 1, 12), (1025, 1, 6), (1025, 16, 12), (1174, 16, 12), (4097, 1, 12), (9217, 4, 12),
    (6401, 4, 16), (16385, 2, 16), (1174, 1, 12), (6401, 1, 16), (9217, 1, 12), (16385, 1, 12),
)  # fmt: skip
TINY = ((33, 2, 3), (16, 1, 1))
# From here on "math" is not timed: its scores, several copies of 4 bytes, fill tens of gigabytes.
MOST_MATH = 8192
PINNED = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}
# Relative error against fp32, the ratio of the norms: a few roundings to fp16's 11 bits; twice as many backward.
TOLERANCES = {"forward": 2e-3, "backward": 5e-3}


def plan(clock: Clock) -> Iterator[Row]:
    """Every shape, forward and backward."""
    for N, B, H in TINY if clock.rehearsal else CASES:
        for name in ("forward", "backward"):
            about = {"section": "attention", "pass": name, "N": N, "B": B, "H": H}
            yield about, partial(measure, clock, N, B, H, name == "backward")


def measure(clock: Clock, N: int, B: int, H: int, backward: bool) -> dict[str, Any]:
    """Seconds, TFLOP/s and share of the peak of every backend that runs and is right."""
    attends: dict[str, Attend] = {"ours": kernels.attention if clock.rehearsal else kernels.attention_backend("triton")}
    row, functions = compare(clock, attends | peers(N), N, B, H, backward)
    flops = work(N, B, H, backward)
    seconds = {name: value / 1e6 for name, value in row["microseconds"].items()}
    row["targets"] = [] if clock.rehearsal else _targets(seconds, flops, N, B, backward)
    if "ours" not in functions:
        row["error"] = f"ours was not timed: {row['not_timed']['ours']}"
    elif missed(row):
        row["profile"] = clock.profile(functions["ours"])
    return row


def peers(N: int) -> dict[str, Attend]:
    """PyTorch's attention pinned to each backend, and FlashAttention 3."""
    pinned = {name: _pinned(backend) for name, backend in PINNED.items() if name != "math" or N <= MOST_MATH}
    return pinned | {"flash3": _flash3}


def work(N: int, B: int, H: int, backward: bool) -> int:
    """Floating-point operations of both products forward, or of the five backward."""
    return (10 if backward else 4) * B * H * N * N * HEAD


def compare(
    clock: Clock, attends: dict[str, Attend], N: int, B: int, H: int, backward: bool
) -> tuple[dict[str, Any], dict[str, Function]]:
    """What each attention takes, with what was timed; those that fail or err are not, and say why."""
    with clock.queue():  # forwards, too: a backward runs where its forward ran
        functions, prepared, errors, skipped = _prepare(clock, attends, N, B, H, backward)
        seconds = clock.in_turns(prepared)
    flops = work(N, B, H, backward)
    row: dict[str, Any] = {
        "dtype": str(_dtype(clock)).removeprefix("torch."),
        "microseconds": {name: round(value * 1e6, 2) for name, value in seconds.items()},
        "tflops": {name: round(flops / value / 1e12, 1) for name, value in seconds.items()},
        "share_of_peak": {name: round(flops / value / clock.peak, 3) for name, value in seconds.items()},
        "relative_error": {name: float(f"{value:.2e}") for name, value in errors.items()},
        "not_timed": skipped,
    }
    return row, functions


def _prepare(clock: Clock, attends: dict[str, Attend], N: int, B: int, H: int, backward: bool) -> tuple[Any, ...]:
    """By name: calls that are right, the same ready to be timed, relative errors, and why others are left out."""
    torch.manual_seed(N)
    packed = torch.randn(B, N, 3, H, HEAD, device=clock.device, dtype=_dtype(clock))
    q, k, v = (part.requires_grad_(backward) for part in packed.unbind(2))
    grad = torch.randn(B, N, H, HEAD, device=clock.device, dtype=_dtype(clock))
    exact = _exact(q, k, v, grad, backward)
    functions: dict[str, Function] = {}
    prepared: dict[str, Prepared] = {}
    errors: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name, attend in attends.items():
        try:
            function = _backward(attend, q, k, v, grad) if backward else _forward(attend, q, k, v)
            errors[name] = _error(function(), exact)
            if errors[name] > TOLERANCES["backward" if backward else "forward"]:
                skipped[name] = f"relative error {errors[name]:.1e}"
                continue
            prepared[name], functions[name] = clock.prepare(function, graphs=True), function
        except Exception as error:  # what the others take is worth having
            skipped[name] = "out of memory" if out_of_memory(error) else _said(error)
    return functions, prepared, errors, skipped


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _dtype(clock: Clock) -> torch.dtype:
    return torch.float32 if clock.rehearsal else torch.float16


def _targets(seconds: dict[str, float], flops: int, N: int, B: int, backward: bool) -> list[dict[str, Any]]:
    """On an H100 or H200. Where ours was not timed, it missed them."""
    ours = seconds.get("ours", float("inf"))
    peers = {name: value for name, value in seconds.items() if name != "ours"}
    if backward:
        wanted = {"flash": 1.0, "cudnn": 0.8}
        return [target(f"times {name}", wanted[name], peers[name] / ours) for name in wanted if name in peers]
    targets = []
    if peers and (N >= 4097 or (N, B) == (1025, 16)):
        targets.append(target("times the best of its peers", 1.0, min(peers.values()) / ours))
    if peers and (N, B) == (1025, 1):
        targets.append(target("times the best of its peers", 1.1, min(peers.values()) / ours))
    if N == 4097 and B > 1:
        targets.append(target("TFLOP/s", 400, flops / ours / 1e12))
    return targets


def _pinned(backend: SDPBackend) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    return attend


def _flash3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if find_spec("flash_attn_interface") is None:
        raise ImportError("flash_attn_interface, which is FlashAttention 3, is not installed")
    import flash_attn_interface

    answer = flash_attn_interface.flash_attn_func(q, k, v)
    return answer[0] if isinstance(answer, tuple) else answer  # some releases give the logsumexp, too


def _forward(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Function:
    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (attend(q, k, v),)

    return forward


def _backward(attend: Attend, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> Function:
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
