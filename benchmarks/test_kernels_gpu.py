"""The GPU's kernels beside PyTorch's: attention, upsample_argmax, merge_windows (`python -m benchmarks.gpu` measures the same).

pytest benchmarks/test_kernels_gpu.py --benchmark-only -s --results FILE
"""

import json
import time

import pytest

from benchmarks.gpu import attention, ends
from benchmarks.gpu.clock import Clock

# What all of one section may take.
SECONDS = 300
SECTIONS = {"attention": attention.plan, "ends": ends.plan}


@pytest.mark.parametrize("section", SECTIONS)
def test_kernels(benchmark, record, limits, device, section):
    if device != "cuda":
        pytest.skip("needs an NVIDIA GPU")
    clock, rows = Clock(device, time.monotonic() + SECONDS, limits["fp16_flops"]), []
    plan = SECTIONS[section](clock)
    benchmark.pedantic(lambda: rows.extend(map(clock.attempt, plan)), rounds=1)
    for row in rows:
        print("\n" + json.dumps(row))
        record(row_of(row))
    errors = [row for row in rows if "error" in row]
    assert not errors


def row_of(found):
    """What the results hold of a row of `benchmarks.gpu`."""
    about = {"section": "kernels", "id": name(found)}
    if "microseconds" not in found or "ours" not in found["microseconds"]:
        return about | {"skipped": found.get("skipped") or found.get("error") or "ours was not timed"}
    seconds = {key: value / 1e6 for key, value in found["microseconds"].items()}
    ours = seconds.pop("ours")
    ratio = min(seconds.values(), default=ours) / ours
    wanted = next((one["wanted"] for one in found.get("targets", []) if one["what"].startswith("times the best")), None)
    return about | {"seconds": ours, "peers": seconds, "ratio": ratio, "wanted": wanted}


def name(found):
    """`attention forward, 8×4097, 12 heads`; the case of an end."""
    return found["case"] if "case" in found else "attention {pass}, {B}×{N}, {H} heads".format(**found)
