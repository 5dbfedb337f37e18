"""What every step of the CPU's speed dial gains: half precision, int8, fewer tokens, and all together.

    pytest benchmarks/test_dial.py --benchmark-only -s [-m quick] --results FILE

All columns of a model run in turns within one test, 512² in, labels out; weights are random, which costs the same, so
that what the steps lose is measured elsewhere (docs/int8.md, docs/token-merging.md). Stock int8 is NNCF's own
quantisation of the stock export, in OpenVINO. Memory is the peak of a process that segments many pictures. Where NNCF
is missing its columns are left out.
"""

import gc
import json
import tempfile
from functools import partial
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import segfast
from benchmarks import columns
from benchmarks.rounds import in_turns
from segfast.artifacts.golden import PHOTOS, photo
from segfast.machine import cpu
from segfast.tuning.candidates import Candidate, Setting
from segfast.tuning.speed import measure

SIZE = 512
MODELS = ("seg-b-mask-16", "seg-s-mask-16", "seg-s-32", "seg-b-8")
QUICK = "seg-s-32"
BEST = "0.75@6"
# Files by column. The exact one comes first; "together" is int8 with the best merge.
STEPS = {
    "bf16": "fp16",
    "int8": "int8",
    "merge 0.25@1": "fp16+0.25@1",
    "merge 0.5@1": "fp16+0.5@1",
    f"merge {BEST}": f"fp16+{BEST}",
    "together": f"int8+{BEST}",
}
# Least ratios of 2 cores, (model, column, column that it is compared with): with AMX, without.
TARGETS = {
    ("seg-b-mask-16", "bf16", "eager-fp32"): (6.0, 4.8),
    ("seg-b-mask-16", "int8", "bf16"): (1.25, 1.6),
    ("seg-s-mask-16", "int8", "bf16"): (1.15, 1.25),
    ("seg-s-32", "int8", "bf16"): (1.15, 1.25),
    ("seg-b-mask-16", "merge 0.25@1", "bf16"): (1.15, 1.15),
    ("seg-b-mask-16", f"merge {BEST}", "bf16"): (1.3, 1.3),
    ("seg-b-mask-16", "merge 0.5@1", "bf16"): (1.4, 1.45),
    ("seg-b-mask-16", "together", "eager-fp32"): (11.0, 10.0),
    ("seg-b-8", "together", "eager-fp32"): (25.0, 14.0),
}
# Bytes that the process of "together" may take.
PEAK = {"seg-b-8": 1.5e9}


@pytest.mark.parametrize("name", [pytest.param(m, marks=[pytest.mark.quick] if m == QUICK else []) for m in MODELS])
def test_dial(benchmark, record, artifacts, device, tmp_path, name):
    if device != "cpu":
        pytest.skip("the dial is a CPU's")
    torch.manual_seed(0)
    case = columns.Case.of(segfast.create_model(name, image_size=SIZE), SIZE, device, 1, artifacts)
    files, skipped = made(case)
    makers = {"eager-fp32": lambda: columns.eager(case)}
    makers |= {column: partial(columns.engine, case, path, "openvino") for column, path in files.items()}
    makers["stock-int8"] = lambda: stock(case)
    image = photo((SIZE, SIZE))[None]
    ready = columns.make(makers, image)
    skipped |= {column: reason for column, reason in ready.items() if isinstance(reason, str)}
    calls = {column: partial(call, image) for column, call in ready.items() if not isinstance(call, str)}
    times = {column: taken["seconds"] for column, taken in in_turns(benchmark, calls).items()}
    peaks = {column: peak(files[column], tmp_path) for column in ("bf16", "together") if column in times}
    rows = [row for key, wanted in TARGETS.items() if (row := compared(key, wanted, name, times)) is not None]
    for row in rows:
        record(row)
    show(name, times, peaks, skipped, rows)
    del ready, calls, makers
    gc.collect()
    limit = PEAK.get(name)
    assert limit is None or peaks.get("together") is None or peaks["together"] <= limit
    if name != QUICK:  # a noisy machine may miss them, so the quick run asks for none
        assert all(row["ratio"] >= row["wanted"] for row in rows), rows


def made(case):
    """Our files by column, and the reasons of those that cannot be had."""
    files, skipped = {}, {}
    for column, text in STEPS.items():
        candidate = Candidate.parse(text)
        if candidate.precision == "int8" and find_spec("nncf") is None:
            skipped[column] = "NNCF is not installed"
            continue
        name = f"{case.key}-{text.replace('+', '-merge').replace('@', 'at')}.onnx"
        files[column] = case.artifact(name, partial(write, case, candidate))
    return files, skipped


def write(case, candidate, path):
    from segfast.export import Calibration, export_onnx

    merge = candidate.merge
    case.model.merge_tokens(*(None,) if merge is None else (merge.fraction, merge.block))
    try:
        with tempfile.TemporaryDirectory() as photos:  # a trained model would want more
            for name in PHOTOS:
                (Path(photos) / name).write_bytes(resources.files("segfast.examples").joinpath(name).read_bytes())
            int8 = candidate.precision == "int8"
            calibration = Calibration(photos, max_loss=100.0, windows=8) if int8 else None
            export_onnx(case.model, path, size=SIZE, precision=candidate.precision, calibration=calibration)
    finally:
        case.model.merge_tokens(None)


def stock(case):
    """NNCF's own quantisation of the stock export in OpenVINO, as its documentation has it."""
    if find_spec("nncf") is None:
        raise columns.Unavailable("NNCF is not installed")
    import nncf
    import openvino

    from segfast.runtimes.openvino import load_plugin

    core = openvino.Core()
    load_plugin(core)
    model = core.read_model(columns.stock_file(case))
    model.reshape({0: [1, 3, SIZE, SIZE]})
    seen = [
        columns.normalised(photo((SIZE, SIZE), name)[None], case.model.config.protocol, "cpu").numpy()
        for name in PHOTOS
    ]
    smaller = nncf.quantize(model, nncf.Dataset(seen), subset_size=len(seen), model_type=nncf.ModelType.TRANSFORMER)
    request = core.compile_model(smaller, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    return columns._stock(lambda x: request.infer({0: x})[0], case)


def peak(path, folder):
    """Bytes of a process that segments pictures with a file; None where it cannot be told."""
    stored = Path(folder) / "pictures.npz"
    np.savez(stored, *(photo((SIZE, SIZE), name) for name in PHOTOS))
    found = measure(path, Setting("openvino"), stored, 0.1)
    return None if isinstance(found, str) else found.peak_bytes


def compared(key, wanted, name, times):
    """A row of the results for a target; None where it is not this model's, or a column is missing."""
    model, column, other = key
    if model != name or column not in times or other not in times:
        return None
    amx = (cpu.instructions() or {}).get("amx_bf16", False)
    return {
        "section": "kernels",
        "id": f"dial {name}: {column}",
        "seconds": times[column],
        "peers": {other: times[other]},
        "ratio": times[other] / times[column],
        "wanted": wanted[0 if amx else 1],
    }


def show(name, times, peaks, skipped, rows):
    """The table for people, one JSON line for machines."""
    print(f"\n{name} {SIZE}²")
    for column, seconds in times.items():
        memory = f"{peaks[column] / 1e9:8.2f} GB" if peaks.get(column) else ""
        print(f"  {column:16} {1 / seconds:8.2f} images/s {times['eager-fp32'] / seconds:6.2f}× eager {memory}")
    for column, reason in skipped.items():
        print(f"  {column:16} {reason}")
    for row in rows:
        (other,) = row["peers"]
        print(f"  {row['id']} to {other}: {row['ratio']:.2f} (target {row['wanted']})")
    print(json.dumps({"benchmark": f"dial {name}", "seconds": times, "peak_bytes": peaks, "skipped": skipped}))
