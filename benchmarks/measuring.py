"""All columns of one case: made, checked, and timed in turns."""

from functools import partial

from benchmarks.columns import make
from benchmarks.labels import agreements, precision
from benchmarks.rounds import in_turns


def measure(benchmark, makers, case, images, beside=None):
    """What each column took, and how far its labels are those of the fp32 reference; or why it cannot be had.

    Args:
        makers: of columns, by name.
        images: [B, H, W, 3], every other one the same.
        beside: columns that are timed alone, unchecked.
    """
    made = make(makers, images)
    calls = {name: column for name, column in made.items() if not isinstance(column, str)}
    made |= agreements(calls, case, images)
    calls = {name: column for name, column in calls.items() if not isinstance(made[name], str)} | (beside or {})
    times = in_turns(benchmark, {name: partial(column, images) for name, column in calls.items()})
    for one in times.values():
        one["images_per_second"] = len(images) / one["seconds"]
    found = {
        name: {"precision": precision(name), "skipped": one} if isinstance(one, str) else times[name] | one
        for name, one in made.items()
    }
    return found | {name: times[name] for name in beside or {}}
