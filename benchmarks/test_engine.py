"""What does an Engine spend outside the network, and what do many photos, its memory and its start cost?

    pytest benchmarks/test_engine.py --benchmark-only -s

On this machine's CPU, both sides in turns within one run; prints tables and JSON lines. Nothing is
downloaded: random weights cost the same. How fast it is beside its peers is in test_paper.py.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segfast
from benchmarks.rounds import in_turns
from segfast.artifacts.golden import PHOTOS, photo
from segfast.export import export_onnx
from segfast.kernels.checks import cpus
from segfast.kernels.reference import upsample
from segfast.machine import cpu

SIZE = 512
REPOSITORY = Path(__file__).parent.parent
# Least ratio of a loop over `segment` to `segment_many`: with AMX, without.
MANY = 1.4 if (cpu.instructions() or {}).get("amx_bf16") else 1.15
# Share of Engine.segment spent outside the network, at most.
OUTSIDE = {"seg-b-mask-16": 0.03, "seg-s-32": 0.10}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """(model, path of its fp16 export) by name, each made once."""
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            model = segfast.create_model(name, image_size=SIZE)
            made[name] = model, tmp_path_factory.mktemp("engine") / f"{name}.onnx"
            export_onnx(*made[name])
        return made[name]

    return get


def report(title, rows, **values):
    """The table for people, one JSON line for machines."""
    print(f"\n{title}")
    for name, text in rows.items():
        print(f"  {name:52} {text}")
    print(json.dumps({"benchmark": title, "cpus": cpus(), "torch": torch.__version__, **values}))


def smooth_logits(K, h, w):
    """Logits [1, K, h, w] as smooth as a trained model's: a coarse random field, upsampled."""
    coarse = np.random.default_rng(0).normal(size=(K, 4, 4)).astype(np.float32)
    return 4 * upsample(coarse, (h, w))[None]


@pytest.mark.parametrize("name", OUTSIDE)
def test_share_outside_the_network(benchmark, artifact, name):
    """Array in, labels out: laying out and merging, on logits as smooth as a trained model's."""
    model, path = artifact(name)
    engine, image = segfast.Engine(path, device="cpu"), photo((SIZE, SIZE))
    result = engine.infer([engine.prepare(image)])[0]
    smooth = result._replace(views=[result.views[0]._replace(logits=smooth_logits(150, *model.config.grid))])
    times = in_turns(
        benchmark,
        {
            "prepare": lambda: engine.prepare(image),
            "network": lambda: engine.infer([engine.prepare(image)]),
            "merge": lambda: engine.merge(smooth),
        },
    )
    prepare, network, merge = (times[stage]["seconds"] for stage in ("prepare", "network", "merge"))
    share = (prepare + merge) / (network + merge)
    benchmark.extra_info.update(share=share)
    report(
        f"outside the network {name} {SIZE}",
        {
            "prepare": f"{prepare * 1e3:.2f} ms",
            "network": f"{(network - prepare) * 1e3:.1f} ms",
            "merge": f"{merge * 1e3:.2f} ms",
            f"share outside the network (target {OUTSIDE[name]:.0%})": f"{share:.2%}",
        },
        prepare_s=prepare,
        network_s=network - prepare,
        merge_s=merge,
        share=share,
    )
    assert share < OUTSIDE[name]


def test_segment_many_beside_a_loop(benchmark, record, artifact, tmp_path):
    """100 mixed photos from files. Two engines: one that segments many also has a network for many windows for single calls."""
    _, path = artifact("seg-s-32")
    single, engine = segfast.Engine(path, device="cpu"), segfast.Engine(path, device="cpu")
    files = []
    for i in range(100):
        size = (500 + 37 * i % 300, 400 + 91 * i % 500)
        Image.fromarray(photo(size, PHOTOS[i % 3])).save(tmp_path / f"{i}.jpg")
        files.append(tmp_path / f"{i}.jpg")
    loop, many = [], []

    def serial():
        loop[:] = [single.segment(file).labels for file in files]

    def overlapped():
        many[:] = [answer.labels for answer in engine.segment_many(files)]

    times = {serial: [], overlapped: []}

    def one_round():
        for function, taken in times.items():
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)

    benchmark.pedantic(one_round, rounds=3, warmup_rounds=0)
    assert all(np.array_equal(a, b) for a, b in zip(loop, many, strict=True))
    one, other = min(times[serial]), min(times[overlapped])
    benchmark.extra_info.update(ratio=one / other)
    record(
        {
            "section": "kernels",
            "id": "segment_many of 100 photos, seg-s-32",
            "seconds": other,
            "peers": {"loop over segment": one},
            "ratio": one / other,
            "wanted": MANY,
        }
    )
    report(
        "segment_many, 100 photos, seg-s-32",
        {
            "loop over segment": f"{one:.2f} s",
            "segment_many": f"{other:.2f} s",
            f"ratio (target {MANY})": f"{one / other:.2f}",
        },
        loop_s=one,
        many_s=other,
        ratio=one / other,
    )
    assert one / other >= MANY


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
def test_memory_and_start(benchmark, artifact, tmp_path):
    """A process that segments one photo of 512×512: its peak memory, its second start; and what `import segfast` costs."""
    _, path = artifact("seg-b-mask-16")
    Image.fromarray(photo((SIZE, SIZE))).save(tmp_path / "photo.jpg")
    environment = {**os.environ, "SEGFAST_CACHE": str(tmp_path)}
    # VmHWM, not ru_maxrss: a child inherits the latter from the process that started it.
    code = (
        f"import re, segfast; segfast.Engine({str(path)!r}, device='cpu').segment({str(tmp_path / 'photo.jpg')!r})\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )

    def child(program):
        start = time.perf_counter()
        printed = subprocess.run(
            [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, check=True, capture_output=True
        ).stdout
        return time.perf_counter() - start, printed

    first, printed = child(code)
    second, again = min(child(code) for _ in range(4))
    peak = max(int(printed), int(again)) * 1024
    bare = min(child("pass")[0] for _ in range(5))
    light = benchmark.pedantic(lambda: min(child("import segfast")[0] for _ in range(5)) - bare, rounds=1)
    benchmark.extra_info.update(peak_bytes=peak, import_s=light, second_start_s=second)
    report(
        "memory and start seg-b-mask-16",
        {
            "peak memory, Engine + one photo (target 1.4 GB)": f"{peak / 1e9:.2f} GB",
            "import segfast (target 0.3 s)": f"{light * 1e3:.0f} ms",
            "first start to first labels": f"{first:.2f} s",
            "second start, caches warm (target 2 s)": f"{second:.2f} s",
        },
        peak_bytes=peak,
        import_s=light,
        first_start_s=first,
        second_start_s=second,
    )
    assert peak < 1.4e9
    assert light < 0.3
    assert second < 2
