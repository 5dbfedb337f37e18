"""What this machine can do at most: its matrix products and its copies."""

import time

import numpy as np
import torch

SIDE, BYTES, ROUNDS = 4096, 1 << 29, 5


def measure():
    """FLOP/s of the largest matrix products, by precision, and bytes/s of a copy: the best of a few."""
    found = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
        found[f"{precision}_flops"] = 2 * SIDE**3 / best(lambda a=a, b=b: a @ b)
    source = np.ones(BYTES, np.uint8)
    into = np.empty_like(source)
    found["copy_bytes"] = 2 * BYTES / best(lambda: np.copyto(into, source))      # read and written
    return found


def best(call):
    """The fewest seconds of a call, the first left out."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
