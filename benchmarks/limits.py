"""What this machine can do at most: its matrix products and its copies."""

import time

import torch

#        sides of the matrices, bytes copied, what half precision is
SIZES = {"cpu": ((1536, 2048, 4096), 1 << 29, torch.bfloat16), "cuda": ((8192, 16384), 1 << 31, torch.float16)}
ROUNDS = 5


def measure(device):
    """FLOP/s of the fastest matrix product, by precision, and bytes/s of a copy, read and written: the best of a few."""
    sides, count, half = SIZES[device]
    found = {
        f"{precision(dtype)}_flops": max(product(side, dtype, device) for side in sides)
        for dtype in (torch.float32, half)
    }
    source = torch.ones(count, dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    found["copy_bytes"] = 2 * count / best(lambda: into.copy_(source), device)
    if device == "cuda":
        del source, into
        torch.cuda.empty_cache()  # other runtimes want it
    return found


def product(side, dtype, device):
    """FLOP/s of a product of square matrices."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / best(lambda: torch.mm(a, b, out=out), device)


def precision(dtype):
    """`fp32`, `fp16` or `bf16`."""
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def best(call, device):
    """The fewest seconds of a call, the first left out."""
    seconds = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
