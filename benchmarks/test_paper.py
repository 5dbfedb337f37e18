"""The paper's models in images a second, beside what one would use otherwise (Table 3, Table 6, Figure 4).

    pytest benchmarks/test_paper.py --benchmark-only -s --results benchmarks/results/DEVICE.json

Images of bytes at 512² in, labels on the host out: on an NVIDIA GPU where there is one, at batch 1 and, as the
paper, at a batch that fills it; on the CPU otherwise, at batch 1. All columns of a model run in turns within one
test. A column's labels are compared with the fp32 reference's before its time counts: what the chosen classes lack
to the best ones is bounded. Weights are random, which costs the same; margins of random models are tiny, so half
precision flips labels that a trained model keeps.
"""

import gc
import json

import pytest
import torch

import segfast
from benchmarks import apart, columns
from benchmarks.labels import REGRET, precision
from benchmarks.measuring import measure
from benchmarks.memory import available
from benchmarks.paper import IMAGES_PER_SECOND
from segfast.config import family_config
from segfast.models import flops, parameters
from segfast.runtimes.batches import largest_batch
from segfast.variants import MIOU, variant

SIZE, CLASSES = 512, 150
MODELS = (
    "seg-ti-16",
    "seg-s-32",
    "seg-s-16",
    "seg-b-deit-16",
    "seg-b-32",
    "seg-b-16",
    "seg-b-8",
    "seg-l-16",
    "seg-b-deit-mask-16",
    "seg-b-mask-32",
    "seg-b-mask-16",
    "seg-l-mask-16",
    "seg-ti-mask-16",
    "seg-s-mask-16",
)
INFEASIBLE = ("seg-s-8", "seg-b-mask-8", "seg-l-8")  # as the paper calls them, section 4.3
COMPILED = ("seg-ti-16", "seg-s-16", "seg-b-16")
QUICK = "seg-s-32"
# Least ratio to the eager model, and to the best stock deployment of the same precision, of 2 cores.
EAGER = {
    "seg-ti-mask-16": 4.0,
    "seg-s-32": 4.0,
    "seg-s-mask-16": 3.2,
    "seg-b-mask-16": 3.2,
    "seg-b-32": 2.8,
    "seg-b-8": 6.0,
}
STOCK = {"seg-s-mask-16": 1.2, "seg-s-32": 2.0}
STOCK_ALWAYS = 1.03
PEAK = {"seg-b-mask-16": 0.70}
# Copies of the fp32 weights that all columns of a CPU hold at once, with what compiling them takes: 20 GB for seg-l-16.
COPIES = 17


def cases(device):
    """(model, batch) of what a device runs."""
    if device == "cpu":
        return [(name, 1) for name in MODELS]
    models = *MODELS, *INFEASIBLE
    return [(name, batch) for name in models for batch in (largest_batch((SIZE // variant(name).patch) ** 2), 1)]


def pytest_generate_tests(metafunc):
    device = metafunc.config.benchmark_device
    metafunc.parametrize(
        ("name", "batch"),
        [
            pytest.param(
                name,
                batch,
                marks=[pytest.mark.quick] if name == QUICK else [],
                id=name if batch == 1 else f"{name}-batch-{batch}",
            )
            for name, batch in cases(device)
        ],
    )


def test_model(benchmark, record, limits, device, artifacts, name, batch):
    config = family_config(variant(name), CLASSES, SIZE, weights="random")
    about = {
        "section": "models",
        "id": name if batch == 1 else f"{name} batch {batch}",
        "model": name,
        "size": SIZE,
        "batch": batch,
    }
    if (reason := too_large(config, device)) is not None:
        record(about | {"skipped": reason})
        pytest.skip(reason)
    torch.manual_seed(0)
    case = columns.Case.of(segfast.create_model(name, image_size=SIZE), SIZE, device, batch, artifacts)
    found = measured(benchmark, case, name)
    row = about | row_of(config, batch, found, limits)
    if device == "cuda":
        row["targets"] = []  # those of 2 cores
    record(row)
    benchmark.extra_info.update(row)
    show(row)


def measured(benchmark, case, name):
    """All columns of a case; those that share a GPU's process with no engine are timed in another one."""
    compiled, device = name in COMPILED, case.device
    makers = columns.peers(case, compiled=compiled and device == "cpu") | columns.ours(case)
    found = measure(benchmark, makers, case, apart.photos(case.size, case.batch))
    if compiled and device == "cuda":
        torch.cuda.empty_cache()  # the other process wants it
        found |= apart.measured(name, case.size, case.batch, device, case.artifact)
    return found


@pytest.fixture(autouse=True)
def _freed():
    yield
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture(scope="module", autouse=True)
def _targets_at_the_end(request):
    """Missed targets fail the run once everything is measured; a noisy machine may, so the quick run asks for none."""
    yield
    rows = [row for row in request.config.benchmark_rows if row["section"] == "models"]
    missed = [(row["id"], one) for row in rows for one in row.get("targets", []) if not one["met"]]
    if len(rows) > 1:
        assert not missed, missed


def too_large(config, device):
    """Why a host's memory does not hold all columns of a model at once; None if it does."""
    needed, free = 4 * COPIES * parameters(config), available()
    if device == "cpu" and free is not None and needed > free:
        return f"all columns take about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
    return None


def row_of(config, batch, found, limits):
    """What the results hold of a model: times, the paper's numbers, share of the peak, targets."""

    def best(start, of=""):
        times = [
            one["seconds"]
            for key, one in found.items()
            if key.startswith(start) and key.endswith(of) and "seconds" in one
        ]
        return min(times, default=None)

    work, name = batch * flops(config, SIZE), config.name
    ours = [key for key in found if key.startswith("segfast") and "seconds" in found[key]]
    winner = min(ours, key=lambda key: found[key]["seconds"], default=None)
    fastest, eager = best("segfast"), best("eager-fp32")
    peak = limits.get(f"{precision(winner)}_flops") if winner else None
    stock = {of: best("stock", of) / best("segfast", of) for of in REGRET if best("stock", of) and best("segfast", of)}
    share, ratio = peak and work / fastest / peak, eager / fastest if eager and fastest else None
    targets = [
        target(f"to the best stock deployment, {key}", STOCK.get(name, STOCK_ALWAYS), value)
        for key, value in stock.items()
    ]
    targets += [target("to eager fp32", EAGER[name], ratio)] if name in EAGER and ratio else []
    targets += [target("share of the matrix peak", PEAK[name], share)] if name in PEAK and share else []
    return {
        "columns": found,
        "flops": flops(config, SIZE),
        "least_bytes": least_bytes(config, batch),
        "parameters": parameters(config),
        "paper_images_per_second": list(IMAGES_PER_SECOND.get(name, ())),
        "paper_miou": MIOU["ade20k"].get(name),
        "ratio": ratio,
        "stock_ratio": stock,
        "share_of_peak": share,
        "targets": targets,
    }


def least_bytes(config, batch):
    """What a call must move at least, in half precision: the weights once, the pictures in, the labels out."""
    return 2 * parameters(config) + 4 * batch * SIZE * SIZE


def target(what, wanted, got):
    return {"what": what, "wanted": wanted, "got": round(got, 3), "met": got >= wanted}


def show(row):
    """The table for people, one JSON line for machines."""
    share = f", share of the peak {row['share_of_peak']:.0%}" if row["share_of_peak"] else ""
    ratio = f", ratio to eager {row['ratio']:.2f}" if row["ratio"] else ""
    print(f"\n{row['id']} {row['size']}²{ratio}{share}")
    for name, one in row["columns"].items():
        told = (
            one.get("skipped")
            or f"{one['images_per_second']:8.2f} images/s   {one['agreement']:.2%} of the labels equal"
        )
        print(f"  {name:28} {told}")
    print(json.dumps(row))
