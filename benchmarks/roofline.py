"""The least time of a model on a GPU, part by part: operations over peak, bytes over bandwidth, exponentials over their units.

    python -m benchmarks.roofline

prints the tables of docs/gpu-status.md. All is per image of 512², in half precision, weights shared by BATCH images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

from segfast.variants import PLAIN, Variant, variant

SIZE, CLASSES, BATCH = 512, 150, 16
HALF = 2  # bytes of a number
MODELS = ("seg-b-16", "seg-b-8", "seg-l-16")


class Gpu(NamedTuple):
    """Peaks of one GPU, from NVIDIA's datasheets and whitepapers.

    Attributes:
        flops: a second of dense half-precision products summed in fp32.
        bandwidth: of memory, bytes a second.
        exponentials: a second: 16 for each multiprocessor and cycle, at the boost clock.
    """

    flops: float
    bandwidth: float
    exponentials: float


GPUS = {
    "H100 SXM": Gpu(989e12, 3.35e12, 16 * 132 * 1.83e9),
    "A100 80 GB": Gpu(312e12, 2.04e12, 16 * 108 * 1.41e9),
    "L4": Gpu(121e12, 0.30e12, 16 * 58 * 2.04e9),
    "RTX 4090": Gpu(165e12, 1.01e12, 16 * 128 * 2.52e9),
}


class Part(NamedTuple):
    """What one part of a model does for one image."""

    name: str
    flops: float
    bytes: float
    exponentials: float = 0

    def seconds(self, gpu: Gpu) -> float:
        """The least time: whatever binds, with everything else hidden behind it."""
        return max(self.flops / gpu.flops, self.bytes / gpu.bandwidth, self.exponentials / gpu.exponentials)


def parts(row: Variant) -> list[Part]:
    """The parts of a linear Segmenter on a plain ViT, in order.

    Raises:
        ValueError: it is another: a mask decoder or an encoder of today does more than is counted here.
    """
    if row.decoder != "linear" or row.kind != PLAIN:
        raise ValueError(f"{row.name} is no linear Segmenter on a plain ViT")
    D, L, P = row.width, row.depth, row.patch
    patches = (SIZE // P) ** 2
    N, K = patches + 1, CLASSES
    tokens = HALF * N * D
    embedding, layer = 3 * P * P * D, 12 * D * D  # weights: qkv 3 D², proj D², MLP 8 D²
    return [
        Part("patch embedding", 2 * patches * embedding, 3 * SIZE * SIZE + tokens + HALF * embedding / BATCH),
        # Read and written: qkv 1 + 3, proj 1 + 1, MLP 1 + 4 and 4 + 1 times the tokens.
        Part("qkv, proj, MLP", 2 * L * N * layer, L * (16 * tokens + HALF * layer / BATCH)),
        Part("attention", 4 * L * N * N * D, 4 * L * tokens, L * row.heads * N * N),
        # Two norms 2 · 2, two residuals 2 · 3, GELU 4 + 4; the last norm 2.
        Part("norms, residuals, GELU", 0, (18 * L + 2) * tokens),
        Part("decoder", 2 * patches * D * K, HALF * patches * (D + K) + HALF * D * K / BATCH),
        Part("labels", 0, HALF * patches * -(-K // 16) * 16 + SIZE * SIZE),
    ]


# Share of the least time that each kernel is expected to reach, by GPU in the order of GPUS, and why.
EXPECTED = {
    "patch embedding": ("40 %", "40 %", "50 %", "40 %",
        "pixels are scaled in a pass of their own before the product, which reads and writes them once more"),
    "qkv, proj, MLP": ("69 %", "80 %", "65 %", "85 %",
        "cuBLAS: 680 of 989 on an H100, whose clock falls at its power limit, 250 of 312 on an A100; 72 W hold an L4's clock down"),
    "attention, cuDNN or FA": ("38 – 48 %", "52 – 56 %", "50 %", "60 %",
        "published at heads of 64: cuDNN 373 and FA3 392 TFLOP/s on an H100 at 1k tokens, 408 and 476 at 4k; A100: an estimate"),
    "attention, ours": ("33 – 40 %", "45 – 52 %", "45 %", "55 %",
        "products and softmax take turns in a program: at most 51 % on an H100 (1,024 cycles of products, 1,056 of exponentials); "
        "published Triton: 382 – 400 on an H100; A100: an estimate; 1025 = 8 · 128 + 1 wastes 21 %, which `extra_key` and `extra_query` are for"),
    "norms, residuals, GELU": ("80 %", "80 %", "90 %", "100 %",
        "copies reach so much of the bandwidth; an L4 keeps some of these tensors in 48 MB of L2 cache, an RTX 4090 in 72"),
    "decoder": ("30 %", "35 %", "50 %", "45 %", "a small product: 150 columns fill tiles of 128 to 59 %, and launching is felt"),
    "labels": ("15 %", "20 %", "40 %", "25 %",
        "memory moves the least there is, but two passes over the classes wait for caches in turn: 1 – 2 µs an image; noise, where no "
        "class is dropped, 5 – 10"),
}  # fmt: skip


def times() -> Iterator[str]:
    """Operations, bytes and least times of every part."""
    yield f"| model, part | GFLOP | MB | {' | '.join(f'{name}, µs' for name in GPUS)} | measured |"
    yield f"|{'---|' * (len(GPUS) + 4)}"
    for model in MODELS:
        found = parts(variant(model))
        yield f"| **{model}** {'|' * (len(GPUS) + 3)} |"
        for part in found:
            least = [part.seconds(gpu) * 1e6 for gpu in GPUS.values()]
            yield f"| {part.name} | {number(part.flops / 1e9)} | {number(part.bytes / 1e6)} | {' | '.join(map(number, least))} | |"
        totals = [sum(part.seconds(gpu) for part in found) for gpu in GPUS.values()]
        sums = number(sum(part.flops for part in found) / 1e9), number(sum(part.bytes for part in found) / 1e6)
        yield f"| all | {' | '.join(sums)} | {' | '.join(number(total * 1e6) for total in totals)} | |"
        yield f"| images/s at most | | | {' | '.join(f'{1 / total:,.0f}' for total in totals)} | |"


def shares() -> Iterator[str]:
    """What each kernel is expected to reach of its least time's speed, and why."""
    yield f"| kernel | {' | '.join(GPUS)} | why |"
    yield f"|{'---|' * (len(GPUS) + 2)}"
    for name, (*expected, why) in EXPECTED.items():
        yield f"| {name} | {' | '.join(expected)} | {why} |"


def number(value: float) -> str:
    """Three digits."""
    return "" if value == 0 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tables() -> str:
    """Both tables, as docs/gpu-status.md holds them."""
    return "\n".join([*times(), "", *shares()])


if __name__ == "__main__":
    sys.stdout.write(tables() + "\n")
