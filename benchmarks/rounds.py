"""Functions timed in turns within one run, so that a noisy machine favours none."""

import time

import numpy as np

# Seconds that the rounds of one test may take.
BUDGET = 30


def in_turns(benchmark, functions, most=7):
    """Least and median seconds of a call of each function, by name: 3 to `most` rounds, as the budget allows.

    The least is what counts: memory that the system hands out anew makes single calls of peers, which write all scores,
    up to twice as slow, and so would a ratio of medians flatter us.
    """
    samples = {name: [] for name in functions}

    def one_round():
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            samples[name].append(time.perf_counter() - start)

    one_round()
    first = sum(taken.pop() for taken in samples.values())              # the round of warm-up
    benchmark.pedantic(one_round, rounds=int(np.clip(BUDGET / first, 3, most)), warmup_rounds=0)
    return {name: {"seconds": min(taken), "median": float(np.median(taken))} for name, taken in samples.items()}


def lack(labels, pixels):
    """What the logits of the chosen labels lack to the best ones, against the spread of all, as root mean squares.

    Args:
        labels: [H, W].
        pixels: logits of the fp32 reference, [K, H, W].
    """
    chosen = np.take_along_axis(pixels, labels[None].astype(np.intp), 0)[0]
    missing = pixels.max(0) - chosen
    return float(np.sqrt(np.mean(missing**2)) / pixels.std())
