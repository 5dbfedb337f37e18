"""After `engine.warm_up()` nothing is compiled, on a CPU either; each runtime in a process that knows nothing yet."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import REPOSITORY

import segfast

COUNT = """
import json, sys
import numpy as np
import segfast
from segfast.kernels import merge_loops, resize_cpu

def compiled():
    functions = [value for module in (merge_loops, resize_cpu) for value in vars(module).values()]
    return sum(len(value.nopython_signatures) for value in functions if hasattr(value, "nopython_signatures"))

engine = segfast.Engine(sys.argv[1], runtime=sys.argv[2], device="cpu")
before = compiled()
engine.warm_up()
warm, networks = compiled(), len(getattr(engine._runtime, "_networks", ()))
image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
for size in ((64, 64), (70, 90), (20, 30)):
    for multiscale in (False, True):
        engine.segment(image[: size[0], : size[1]], multiscale=multiscale).scores
list(engine.segment_many([image] * 20))
print(json.dumps([before, warm, compiled(), networks, len(getattr(engine._runtime, "_networks", ()))]))
"""


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_nothing_is_compiled_after_warming_up(tiny_onnx, runtime):
    command = [sys.executable, "-c", COUNT, str(tiny_onnx), runtime]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, warm, after, networks, later = json.loads(done.stdout)
    assert before < warm == after
    assert networks == later == (2 if runtime == "openvino" else 0)


def test_engines_of_labels_and_of_checkpoints_warm_up(tiny_labels_onnx, tiny_checkpoint, monkeypatch):
    windows = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for path in (tiny_labels_onnx, tiny_checkpoint):
        engine, ran = segfast.Engine(path, device="cpu"), []
        before = engine.run(windows, labels=True)
        true = engine._runtime.run
        monkeypatch.setattr(engine._runtime, "run", lambda x, true=true, ran=ran: ran.append(len(x)) or true(x))
        engine.warm_up()
        assert {*range(1, engine._runtime.batch + 1)} <= {*ran}
        np.testing.assert_array_equal(engine.run(windows, labels=True), before)


def test_what_fails_in_warming_up_is_ours(tiny_checkpoint, monkeypatch):
    def fail(windows):
        raise RuntimeError("std::bad_alloc")

    engine = segfast.Engine(tiny_checkpoint, device="cpu")
    monkeypatch.setattr(engine._runtime, "run", fail)
    with pytest.raises(segfast.NotSupported, match="bad_alloc"):
        engine.warm_up()
