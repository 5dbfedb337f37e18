"""In which batches a GPU runs any number of windows: powers of two, so that a CUDA graph for each is few graphs."""

from __future__ import annotations

from collections.abc import Iterator

# A batch of about so many tokens fills the largest GPUs; more would only hold memory.
TOKENS = 1 << 15
LARGEST = 64


def largest_batch(tokens: int) -> int:
    """The power of two up to LARGEST with at most TOKENS tokens, for windows of `tokens` each."""
    return min(LARGEST, 1 << max(0, (TOKENS // tokens).bit_length() - 1))


def batches(count: int, largest: int) -> Iterator[tuple[int, int]]:
    """(windows, batch) of the calls that `count` windows take: batches are powers of two up to `largest`.

    A call may carry empty places, a quarter of it at most: three windows run as four, five as four and one.
    """
    while count:
        batch = min(largest, 1 << (count - 1).bit_length())  # the smallest that holds them all
        if batch > count and 4 * (batch - count) > batch:
            batch //= 2
        taken = min(batch, count)
        yield taken, batch
        count -= taken


def all_batches(largest: int) -> list[int]:
    """Every batch that `batches` makes of any number of windows, the largest first."""
    return sorted({batch for count in range(1, largest + 1) for _, batch in batches(count, largest)}, reverse=True)
