"""How the cost grows with the number of tokens, and how much of it is attention.

    pytest benchmarks/test_scaling.py --benchmark-only -s --results FILE

Seg-Ti with a linear decoder at sizes and patches from 65 to 4097 tokens, on a GPU where there is one. The exponent
of a runtime is the slope of log seconds over log tokens. Attention's share is what the eager model saves when
attention returns its values. Memory is what a column, its weights among it, and one call hold at the call's peak.
"""

import json

import numpy as np
import pytest
import torch

import segfast
from benchmarks import columns
from benchmarks.footprint import footprint
from benchmarks.measuring import measure
from segfast.artifacts.golden import photo

CASES = [(8, 256), (8, 512), (16, 256), (16, 512), (16, 768), (16, 1024), (32, 256), (32, 512), (32, 1024)]
QUICK = (32, 256)
RUNTIMES = {
    "cpu": ("segfast-onnxruntime-fp32", "segfast-openvino-bf16", "segfast-pytorch-bf16"),
    "cuda": ("segfast-onnxruntime-fp16", "segfast-pytorch-fp16", "segfast-tensorrt-fp16"),
}


@pytest.fixture(scope="module")
def costs():
    """(tokens, seconds) by column and patch, as the cases go."""
    return {}


@pytest.mark.parametrize(
    ("patch", "size"), [pytest.param(*case, marks=[pytest.mark.quick] if case == QUICK else []) for case in CASES]
)
def test_size(benchmark, record, costs, device, artifacts, patch, size):
    torch.manual_seed(0)
    model = segfast.create_model(f"seg-ti-{patch}", image_size=size)
    image = photo((size, size))[None]
    case = columns.Case.of(model, size, device, 1, artifacts)
    makers = {"eager-fp32": lambda: columns.eager(case)} | {name: columns.ours(case)[name] for name in RUNTIMES[device]}
    idle = columns.Case.of(model, size, device, 1, artifacts)
    idle.fixed.set_attention(lambda q, k, v: v)
    found = measure(benchmark, makers, case, image, {"without attention": columns.eager(idle)})
    bare, tokens = found.pop("without attention")["seconds"], model.config.prefix_tokens + (size // patch) ** 2
    for name, one in found.items():
        if "seconds" in one:
            one["peak_bytes"] = footprint(f"seg-ti-{patch}", size, name, device, artifacts)
            costs.setdefault((name, patch), []).append((tokens, one["seconds"]))
    if "seconds" in found["eager-fp32"]:
        found["eager-fp32"]["attention_share"] = max(0.0, 1 - bare / found["eager-fp32"]["seconds"])
    row = {
        "section": "scaling",
        "id": f"seg-ti-{patch}-{size}",
        "model": f"seg-ti-{patch}",
        "patch": patch,
        "size": size,
        "tokens": tokens,
        "columns": found,
    }
    record(row)
    print("\n" + json.dumps(row))


def test_exponents(benchmark, record, costs):
    found = {}
    for (name, patch), points in costs.items():
        if len(points) > 2:
            found.setdefault(name, {})[f"patch {patch}"] = exponent(points)
    for name in {name for name, _ in costs}:
        everything = [point for (column, _), points in costs.items() if column == name for point in points]
        if len(everything) > 2:
            found.setdefault(name, {})["all patches"] = exponent(everything)
    if not found:
        pytest.skip("an exponent wants three sizes of one patch: run the whole file")
    benchmark.pedantic(lambda: None, rounds=1)
    record({"section": "scaling", "id": "exponents", "exponents": found})
    print("\n" + json.dumps({"exponents": found}))


def exponent(points):
    """The slope of log seconds over log tokens, least squares."""
    tokens, seconds = np.log(np.array(points)).T
    return float(np.polyfit(tokens, seconds, 1)[0])
