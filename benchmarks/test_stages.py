"""Where the time of a photo goes: decode, resize, network, merge, for photos of three sizes.

    pytest benchmarks/test_stages.py --benchmark-only -s --results FILE

From JPEG files, with seg-s-32: its fp16 file on this machine's CPU, the model in fp16 on a GPU where there is one.
The clocks are those of `python -m segfast.benchmark`. Then what an image costs beside network and kernels, whatever its
size: one of 64×64 through a network that does nothing.
"""

import json
import timeit

import numpy as np
import pytest
import torch
from PIL import Image

import segfast
from segfast.artifacts.golden import photo
from segfast.benchmark import STAGES, Picture, measure
from segfast.kernels.merge import merge_laid_out
from segfast.runtimes import HostRuntime

MODEL = "seg-s-32"
PHOTOS = [(512, 512), (1024, 2048), (3000, 4000)]
ROUNDS = {(512, 512): 30, (1024, 2048): 10, (3000, 4000): 3}


@pytest.fixture
def engine(device, artifacts):
    torch.manual_seed(0)
    model = segfast.create_model(MODEL, image_size=512)
    if device == "cuda":
        return segfast.Engine(model, device=device)
    from segfast.export import export_onnx

    return segfast.Engine(artifacts(f"{MODEL}-512-fp16.onnx", lambda path: export_onnx(model, path)), device=device)


@pytest.mark.parametrize("size", [pytest.param(s, marks=[pytest.mark.quick] if s == PHOTOS[0] else []) for s in PHOTOS])
def test_photo(benchmark, record, engine, size, tmp_path):
    file = tmp_path / "photo.jpg"
    Image.fromarray(photo(size)).save(file, quality=90)
    measured = []
    benchmark.pedantic(lambda: measured.append(measure(engine, Picture(file.name, file), ROUNDS[size])), rounds=1)
    (found,) = measured
    assert found["size"] == list(size)
    seconds = {stage: found["stages"][stage]["p50"] / 1e3 for stage in STAGES} | {"total": found["total"]["p50"] / 1e3}
    assert sum(seconds[stage] for stage in STAGES) == pytest.approx(seconds["total"], rel=0.2)
    row = {
        "section": "stages",
        "id": f"{MODEL} {size[0]}×{size[1]}",
        "model": MODEL,
        "height": size[0],
        "width": size[1],
        "seconds": seconds,
        "runtime": engine.runtime,
    }
    record(row)
    print("\n" + json.dumps(row))


class Still(HostRuntime):
    """A network of one window that gives what it gave before."""

    name, device, precision, batch, notes = "nothing", "cpu", "fp32", 1, []

    def __init__(self, logits):
        self._logits = logits

    def run(self, windows):
        return self._logits


@pytest.mark.quick
def test_overhead_of_a_small_image(benchmark, tmp_path):
    """µs of `segment` for an array of 64×64 outside the network and the loops that merge, the least of many rounds."""
    torch.manual_seed(0)
    engine = segfast.Engine(segfast.create_model("seg-ti-mask-16", image_size=64), device="cpu")
    image = photo((64, 64))
    (result,) = engine.infer([engine.prepare(image)])
    engine._runtime = Still(np.ascontiguousarray(result.views[0].logits))

    def least(function, number=200):
        return min(timeit.repeat(function, number=number, repeat=20)) / number * 1e6

    views = result.views
    kernel = least(lambda: merge_laid_out(views, (64, 64)))
    whole = least(lambda: engine.segment(image))
    benchmark.pedantic(lambda: engine.segment(image), rounds=20)
    benchmark.extra_info.update(overhead_us=whole - kernel, merge_us=kernel)
    print(f"\na 64×64 image: {whole:.0f} µs, of which merging {kernel:.0f}, overhead {whole - kernel:.0f}")
    assert whole - kernel > 0
