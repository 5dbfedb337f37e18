"""How the cost grows with the number of tokens, and how much of it is attention.

    pytest benchmarks/test_scaling.py --benchmark-only -s --results FILE

Seg-Ti with a linear decoder at sizes and patches from 65 to 4097 tokens. The exponent of a runtime is the slope
of log seconds over log tokens. Attention's share is what the eager model saves when attention returns its values.
"""

import json

import numpy as np
import pytest
import torch

import segfast
from benchmarks import columns
from benchmarks.rounds import in_turns
from segfast.export import check, export_onnx

CASES = [(8, 256), (8, 512), (16, 256), (16, 512), (16, 768), (16, 1024), (32, 256), (32, 512), (32, 1024)]
QUICK = (32, 256)


@pytest.fixture(scope="module")
def costs():
    """(tokens, seconds) by column and patch, as the cases go."""
    return {}


@pytest.mark.parametrize(
    ("patch", "size"), [pytest.param(*case, marks=[pytest.mark.quick] if case == QUICK else []) for case in CASES]
)
def test_size(benchmark, record, costs, patch, size, tmp_path):
    torch.manual_seed(0)
    model = segfast.create_model(f"seg-ti-{patch}", image_size=size)
    photo, path = check.photo((size, size)), tmp_path / "model.onnx"
    export_onnx(model, path, size=size)
    engines = {
        f"segfast-openvino-{columns.HALF}": segfast.Engine(path, runtime="openvino", device="cpu"),
        f"segfast-pytorch-{columns.HALF}": segfast.Engine(model, device="cpu", precision=columns.HALF),
    }
    _, eager = columns.eager(model, size)
    idle, without = columns.eager(model, size)
    idle.set_attention(lambda q, k, v: v)
    calls = {"eager-fp32": eager, "without attention": without} | {
        name: (lambda image, engine=engine: engine.segment(image).labels) for name, engine in engines.items()
    }
    times = in_turns(benchmark, {name: (lambda call=call: call(photo)) for name, call in calls.items()})
    bare, tokens = times.pop("without attention")["seconds"], model.config.prefix_tokens + (size // patch) ** 2
    for name, one in times.items():
        one |= {"images_per_second": 1 / one["seconds"], "precision": name.rpartition("-")[2]}
        costs.setdefault((name, patch), []).append((tokens, one["seconds"]))
    times["eager-fp32"]["attention_share"] = max(0.0, 1 - bare / times["eager-fp32"]["seconds"])
    row = {"section": "scaling", "id": f"seg-ti-{patch}-{size}", "model": f"seg-ti-{patch}", "patch": patch, "size": size,
           "tokens": tokens, "columns": times}  # fmt: skip
    record(row)
    print("\n" + json.dumps(row))


def test_exponents(benchmark, record, costs):
    found = {}
    for (name, patch), points in costs.items():
        if len(points) > 2:
            found.setdefault(name, {})[f"patch {patch}"] = exponent(points)
    if not found:
        pytest.skip("an exponent wants three sizes of one patch: run the whole file")
    benchmark.pedantic(lambda: None, rounds=1)
    record({"section": "scaling", "id": "exponents", "exponents": found})
    print("\n" + json.dumps({"exponents": found}))


def exponent(points):
    """The slope of log seconds over log tokens, least squares."""
    tokens, seconds = np.log(np.array(points)).T
    return float(np.polyfit(tokens, seconds, 1)[0])
