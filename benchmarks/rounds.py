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
    first = sum(taken.pop() for taken in samples.values())  # the round of warm-up
    benchmark.pedantic(one_round, rounds=int(np.clip(BUDGET / first, 3, most)), warmup_rounds=0)
    return {name: {"seconds": min(taken), "median": float(np.median(taken))} for name, taken in samples.items()}
