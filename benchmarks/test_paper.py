"""The paper's models in images a second, beside what one would use otherwise (Table 3, Table 6, Figure 4).

    pytest benchmarks/test_paper.py --benchmark-only -s --results benchmarks/results/DEVICE.json

One 512² image of bytes in, labels on the host out, batch 1, on this machine's CPU; `python -m benchmarks.gpu`
is the same on a GPU. All columns of a model run in turns within one test. A column's labels are compared with
the fp32 reference's before its time counts: what the chosen classes lack to the best ones is bounded. Weights
are random, which costs the same; margins of random models are tiny, so half precision flips labels that a
trained model keeps.
"""

import json

import pytest
import torch

import segfast
from benchmarks import columns
from benchmarks.paper import IMAGES_PER_SECOND
from benchmarks.rounds import in_turns, lack
from segfast.export import check
from segfast.models import PAPER_MIOU, flops, parameters

SIZE = 512
MODELS = [
    "seg-ti-16", "seg-s-32", "seg-s-16", "seg-b-deit-16", "seg-b-32", "seg-b-16", "seg-b-8", "seg-l-16",
    "seg-b-deit-mask-16", "seg-b-mask-32", "seg-b-mask-16", "seg-l-mask-16", "seg-ti-mask-16", "seg-s-mask-16",
]  # fmt: skip
COMPILED = ("seg-ti-16", "seg-s-16", "seg-b-16")
QUICK = "seg-ti-16"
# Least ratio to the eager model, and to the best stock deployment of the same precision.
EAGER = {"seg-ti-mask-16": 4.0, "seg-s-32": 4.0, "seg-s-mask-16": 3.2, "seg-b-mask-16": 3.2, "seg-b-32": 2.8, "seg-b-8": 6.0}
STOCK = {"seg-s-mask-16": 1.2, "seg-s-32": 2.0}
STOCK_ALWAYS = 1.03
PEAK = {"seg-b-mask-16": 0.70}
# What the logits of the chosen classes may lack to the best ones, against the spread of all.
LACK = {"fp32": 1e-3, "bf16": 0.05}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.quick] if n == QUICK else []) for n in MODELS])
def test_model(benchmark, record, limits, name, tmp_path):
    torch.manual_seed(0)
    model = segfast.create_model(name, image_size=SIZE)
    protocol, photo = model.config.protocol, check.photo((SIZE, SIZE))
    fixed, eager = columns.eager(model, SIZE)
    stock = columns.stock_file(fixed, SIZE, tmp_path / "stock.onnx")
    calls = {
        "eager-fp32": eager,
        "stock-onnxruntime-fp32": columns.stock_onnxruntime(stock, protocol),
        "stock-openvino-fp32": columns.stock_openvino(stock, protocol, "fp32"),
        "stock-openvino-bf16": columns.stock_openvino(stock, protocol, "bf16"),
        **columns.ours(model, SIZE, tmp_path),
    }
    if name in COMPILED:
        calls["compile-fp32"] = columns.compiled(fixed, protocol)
    checked = agreements(calls, fixed, photo, protocol)
    times = in_turns(benchmark, {key: (lambda call=call: call(photo)) for key, call in calls.items()})
    found = {key: times[key] | {"images_per_second": 1 / times[key]["seconds"]} | checked[key] for key in calls}
    row = row_of(name, model.config, found, limits)
    record(row)
    benchmark.extra_info.update(row)
    show(row)


@pytest.fixture(scope="module", autouse=True)
def _targets_at_the_end(request):
    """Missed targets fail the run once everything is measured; a noisy machine may, so the quick run asks for none."""
    yield
    rows = [row for row in request.config.benchmark_rows if row["section"] == "models"]
    missed = [(row["id"], one) for row in rows for one in row["targets"] if not one["met"]]
    if len(rows) > 1:
        assert not missed, missed


def agreements(calls, fixed, photo, protocol):
    """Share of labels equal to the fp32 reference's, by column; a wrong one is not timed."""
    with torch.inference_mode():
        pixels = fixed(check.normalise(photo, protocol))[0].numpy()     # [K, H, W]
    expected, found = pixels.argmax(0), {}
    for name, call in calls.items():
        labels, precision = call(photo), name.rpartition("-")[2]
        assert lack(labels, pixels) < LACK[precision], name
        found[name] = {"precision": precision, "agreement": float((labels == expected).mean())}
    return found


def row_of(name, config, found, limits):
    """The row of the results: times, the paper's numbers, share of the peak, targets."""

    def best(start, precision=""):
        return min(one["seconds"] for key, one in found.items() if key.startswith(start) and key.endswith(precision))

    work, fastest = flops(config, SIZE), best("segfast")
    stock = {precision: best("stock", precision) / best("segfast", precision) for precision in ("fp32", "bf16")}
    winner = min((key for key in found if key.startswith("segfast")), key=lambda key: found[key]["seconds"])
    share = work / fastest / limits[f"{found[winner]['precision']}_flops"]
    ratio = found["eager-fp32"]["seconds"] / fastest
    targets = [target(f"to the best stock deployment, {key}", STOCK.get(name, STOCK_ALWAYS), value) for key, value in stock.items()]
    targets += [target("to eager fp32", EAGER[name], ratio)] if name in EAGER else []
    targets += [target("share of the matrix peak", PEAK[name], share)] if name in PEAK else []
    return {
        "section": "models", "id": name, "model": name, "size": SIZE, "batch": 1, "columns": found,
        "flops": work, "least_bytes": least_bytes(config), "parameters": parameters(config),
        "paper_images_per_second": list(IMAGES_PER_SECOND.get(name, ())), "paper_miou": PAPER_MIOU.get(name),
        "ratio": ratio, "stock_ratio": stock, "share_of_peak": share, "targets": targets,
    }  # fmt: skip


def least_bytes(config):
    """What a call must move at least, in half precision: the weights once, the picture in, the labels out."""
    return 2 * parameters(config) + 4 * SIZE * SIZE


def target(what, wanted, got):
    return {"what": what, "wanted": wanted, "got": round(got, 3), "met": got >= wanted}


def show(row):
    """The table for people, one JSON line for machines."""
    print(f"\n{row['id']} {row['size']}², ratio to eager {row['ratio']:.2f}, share of the peak {row['share_of_peak']:.0%}")
    for name, one in row["columns"].items():
        print(f"  {name:28} {one['images_per_second']:8.2f} images/s   {one['agreement']:.2%} of the labels equal")
    print(json.dumps(row))
