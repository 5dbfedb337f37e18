"""A machine that is not well formed: broken libraries, no home, few CPUs. What runs is said, and it runs."""

import os
import subprocess
import sys
from pathlib import Path

import numba  # noqa: F401 (without which there are no loops to test)
import numpy as np
import pytest
import torch
from helpers import REPOSITORY, tiny_model

import segfast
from segfast.checkpoints import download
from segfast.dependencies import imports, tensorrt
from segfast.errors import CannotWrite, MissingRuntime
from segfast.kernels import cpu, loops, merge_cpu, quota

FAILURES = [
    ImportError("libtbb.so.12: cannot open shared object file"),
    AttributeError("module 'numpy' has no attribute 'bool8'"),
    RuntimeError("CPU dispatcher tracer already initialized"),
    OSError("wrong ELF class"),
    SystemError(),
]


def in_place_of(monkeypatch, tmp_path, module, error):
    """A library that is installed and raises as it is imported."""
    (tmp_path / f"{module}.py").write_text(f"raise {type(error).__name__}({', '.join(map(repr, error.args))})")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)


# --- optional libraries -------------------------------------------------------------------------


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_broken_openvino_falls_back_loudly(tiny_onnx, monkeypatch, tmp_path, photo, error):
    expected = segfast.Engine(tiny_onnx, runtime="onnxruntime", device="cpu").segment(photo).labels
    in_place_of(monkeypatch, tmp_path, "openvino", error)
    engine = segfast.Engine(tiny_onnx, device="cpu")
    reason = str(error) or "SystemError"
    assert f"ONNX Runtime on cpu in fp32; OpenVINO is broken ({reason}): ONNX Runtime instead, slower on CPUs" in repr(
        engine
    )
    np.testing.assert_array_equal(engine.segment(photo).labels, expected)
    with pytest.raises(MissingRuntime, match=r"OpenVINO is broken .*; pip install --force-reinstall openvino"):
        segfast.Engine(tiny_onnx, runtime="openvino", device="cpu")


def test_openvino_whose_plugin_does_not_load_falls_back_too(tiny_onnx, monkeypatch):
    def fail(core):
        raise RuntimeError("Cannot load library 'libopenvino_intel_cpu_plugin.so'")

    monkeypatch.setattr("segfast.runtimes.openvino.load_plugin", fail)
    assert "OpenVINO is broken (Cannot load library" in repr(segfast.Engine(tiny_onnx, device="cpu"))


def test_without_any_runtime_both_are_named(tiny_onnx, monkeypatch, tmp_path):
    in_place_of(monkeypatch, tmp_path, "openvino", OSError("wrong ELF class"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        MissingRuntime, match=r"OpenVINO is broken \(wrong ELF class\).*, and ONNX Runtime is not installed; pip"
    ):
        segfast.Engine(tiny_onnx, device="cpu")


def test_broken_pytorch_is_named(tiny_checkpoint, monkeypatch, tmp_path):
    true = imports.importlib.import_module

    def broken(name, *more):
        if name == "torch":
            raise OSError("libcudart.so.13: cannot open shared object file\nand more")
        return true(name, *more)

    monkeypatch.setattr(imports.importlib, "import_module", broken)
    for use in (
        lambda: segfast.Engine(tiny_checkpoint, device="cpu"),
        lambda: segfast.load_model(tiny_checkpoint),
        lambda: segfast.create_model("seg-ti-32"),
    ):
        with pytest.raises(
            MissingRuntime, match=r"PyTorch is broken \(libcudart.so.13: .* file\); pip install --force-reinstall torch"
        ):
            use()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise OSError('wrong ELF class')", "wrong ELF class"),
        ("import absent_library", "No module named 'absent_library'"),
        ("", "module 'tensorrt_rtx' has no attribute '__version__'"),
    ],
)
def test_a_broken_compiler_is_named(monkeypatch, tmp_path, body, reason):
    (tmp_path / "tensorrt_rtx.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingRuntime, match=r"TensorRT-RTX is not installed; pip install tensorrt-rtx-cu13$"):
        tensorrt.load("rtx")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    with pytest.raises(MissingRuntime) as caught:
        tensorrt.load("rtx")
    remedy = "pip install --force-reinstall tensorrt-rtx-cu13"
    assert str(caught.value) == f"TensorRT-RTX cannot be imported ({reason}); {remedy}"


@pytest.fixture
def fresh_loops(monkeypatch):
    """Loops that were not loaded yet."""
    monkeypatch.setattr(loops, "_failed", [])
    loops.load.cache_clear()
    yield
    loops.load.cache_clear()


@pytest.mark.parametrize(
    "error",
    [*FAILURES, ModuleNotFoundError("No module named 'numba'", name="numba")],
    ids=lambda error: type(error).__name__,
)
def test_without_numbas_loops_the_twins_answer_and_repr_says_so(tiny_onnx, photo, monkeypatch, fresh_loops, error):
    expected = segfast.Engine(tiny_onnx, device="cpu").segment(photo)
    loops.load.cache_clear()

    def fail(name, package):
        raise error

    monkeypatch.setattr(loops, "import_module", fail)
    engine = segfast.Engine(tiny_onnx, device="cpu")
    answer = engine.segment(photo)
    np.testing.assert_array_equal(answer.labels, expected.labels)
    np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-6)
    why = "not installed" if isinstance(error, ModuleNotFoundError) else f"broken ({str(error) or 'SystemError'})"
    assert f"; numba is {why}: images are resized and windows merged in NumPy, slower" in repr(engine)


def test_a_compiler_that_fails_is_met_before_an_image_is(tiny_onnx, photo, monkeypatch, fresh_loops):
    def fail():
        raise RuntimeError("LLVM ERROR: Symbol not found: __svml_expf8")

    monkeypatch.setattr(merge_cpu, "trial", fail)
    engine = segfast.Engine(tiny_onnx, device="cpu")
    assert engine.segment(photo).labels.shape == (60, 90)
    assert "numba is broken (LLVM ERROR: Symbol not found: __svml_expf8)" in repr(engine)


def test_what_needs_no_loops_says_nothing_of_them(tiny_onnx, tiny_labels_onnx, monkeypatch, fresh_loops):
    assert "numba" not in repr(segfast.Engine(tiny_onnx, device="cpu"))
    monkeypatch.setattr(loops, "import_module", None)
    assert "numba" not in repr(segfast.Engine(tiny_labels_onnx, device="cpu"))


# --- numba's own cache --------------------------------------------------------------------------


def test_numbas_files_may_fail_in_any_way(monkeypatch):
    monkeypatch.setattr(cpu, "uncached", [])

    class Files:
        cache_path = "somewhere"

        def load_overload(self, *_):
            raise EOFError("Ran out of input")

        def save_overload(self, *_):
            raise OSError(28, "No space left on device")

    @cpu.compiled
    def double(x):
        return 2 * x

    double._cache = cpu._Lenient(Files())
    assert double(21) == 42
    assert cpu.uncached == ["No space left on device"]
    assert loops.notes() == [
        "numba cannot keep its compiled loops (No space left on device), so that each process compiles them"
    ]


def test_without_a_folder_for_numbas_files_it_compiles(monkeypatch):
    def nowhere(*_, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'double': no locator available for file 'x.py'")
        return lambda function: function

    monkeypatch.setattr(cpu, "uncached", [])
    monkeypatch.setattr(cpu.numba, "njit", nowhere)
    assert cpu.compiled(abs) is abs
    assert "no locator available" in loops.notes()[0]


# --- no home ------------------------------------------------------------------------------------

HOMELESS = """
import os, pwd, sys
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
for name in ("HOME", "SEGFAST_CACHE", "XDG_CACHE_HOME"): os.environ.pop(name, None)
import numpy as np, segfast
onnx, checkpoint = sys.argv[1:]
engine = segfast.Engine(onnx, device="cpu")
print(engine)
print(engine.segment(np.zeros((64, 64, 3), np.uint8)), segfast.Engine(checkpoint, device="cpu"))
try: segfast.load_model("seg-b-mask-16@ade20k")
except segfast.CannotWrite as error: print(error)
from segfast import models, doctor
print(len(models.family()))
print(doctor.examine().packages["openvino"].error)
"""


def test_an_unknown_user_without_a_home(tiny_onnx, tiny_checkpoint):
    line = [sys.executable, "-c", HOMELESS, str(tiny_onnx), str(tiny_checkpoint)]
    ended = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=180)
    told, answer, typed, rows, broken = ended.stdout.splitlines()
    assert "OpenVINO on cpu" in told
    assert (
        "compiled models are not kept, so that each start takes longer (there is no home directory for a cache" in told
    )
    assert answer.startswith("Segmentation(")
    assert typed == "there is no home directory for a cache; set SEGFAST_CACHE to a folder"
    assert int(rows) == len(segfast.list_models())
    assert broken == "None"


def test_a_cache_that_cannot_be_seen_has_nothing(monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    name = "seg-b-mask-16@ade20k"
    monkeypatch.setenv("SEGFAST_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert download.cached(name) is None
    with pytest.raises(CannotWrite, match="choose"):
        download.fetch(name)
    monkeypatch.setattr(Path, "is_file", refuse)
    assert download.cached(name) is None


# --- few CPUs -----------------------------------------------------------------------------------


@pytest.fixture
def quota_of(monkeypatch):
    def limited(count, affinity=8):
        monkeypatch.setattr(quota, "quota", lambda: count)
        monkeypatch.setattr(quota, "affinity", lambda: affinity)

    return limited


def options_of(engine):
    network = engine._runtime._networks[1]
    return network.get_property("INFERENCE_NUM_THREADS"), network.get_property("ENABLE_CPU_PINNING")


def test_a_quota_reaches_every_runtime(tiny_onnx, photo, quota_of, monkeypatch):
    import onnxruntime

    free = segfast.Engine(tiny_onnx, runtime="openvino", device="cpu")
    expected = free.segment(photo).labels
    given = []
    true = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: given.append(options) or true(path, options, providers),
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    quota_of(1)
    limited = segfast.Engine(tiny_onnx, runtime="openvino", device="cpu")
    assert options_of(limited) == (1, False)
    np.testing.assert_array_equal(limited.segment(photo).labels, expected)
    segfast.Engine(tiny_onnx, runtime="onnxruntime", device="cpu")
    assert given[-1].intra_op_num_threads == 1
    assert segfast.kernels.checks.check_threads(None) == 1
    asked = segfast.Engine(tiny_onnx, runtime="openvino", device="cpu", threads=2)
    assert asked._runtime._options["INFERENCE_NUM_THREADS"] == 2
    segfast.Engine(tiny_onnx, runtime="onnxruntime", device="cpu", threads=5)
    assert given[-1].intra_op_num_threads == 5


def test_without_a_quota_the_runtimes_choose(tiny_onnx, quota_of, monkeypatch):
    quota_of(None)
    engine = segfast.Engine(tiny_onnx, runtime="openvino", device="cpu")
    assert "INFERENCE_NUM_THREADS" not in engine._runtime._options
    assert "ENABLE_CPU_PINNING" not in engine._runtime._options


def test_a_quota_holds_for_pytorch_in_the_engines_calls_alone(photo, quota_of):
    from segfast.kernels import reference

    model, seen = tiny_model(), []

    def attend(q, k, v):
        seen.append(torch.get_num_threads())
        return reference.attention(q, k, v)

    before = torch.get_num_threads()
    engine = segfast.Engine(model.set_attention(attend), device="cpu")
    try:
        torch.set_num_threads(4)
        for limit, expected in ((3, 3), (6, 4), (None, 4)):  # what was asked for is not raised
            quota_of(limit)
            engine.segment(photo)
            assert set(seen) == {expected}
            assert torch.get_num_threads() == 4
            seen.clear()
    finally:
        torch.set_num_threads(before)
