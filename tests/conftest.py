"""Shared fixtures: exported files of a small model, and a picture."""

import multiprocessing
import os
import re
import signal
from importlib.util import find_spec

import numpy as np
import pytest
import signal_stack
from helpers import tiny_model

# What a machine with a GPU may lack: files of tests that import it are skipped there.
OPTIONAL = {
    "hypothesis": ["hypothesis"],
    "openvino": ["openvino"],
    "onnx": ["onnx"],
    "onnxruntime": ["onnxruntime"],
    "numba": ["numba"],
    "safetensors": ["safetensors"],
    "segfast.ray": ["ray", "pyarrow", "fsspec"],
    "segfast.scale": ["ray", "pyarrow", "fsspec"],
    "segfast.serving": ["starlette", "uvicorn", "h11", "prometheus_client"],
    "segfast.export": ["onnx", "onnxscript", "onnxruntime"],
}


def pytest_pycollect_makemodule(module_path, parent):
    """Skip a file whose optional packages are missing, with their names, instead of failing to collect it."""
    named = re.findall(r"^(?:from|import) ([\w.]+)", module_path.read_text(encoding="utf-8"), re.MULTILINE)
    needed = {package for name in named for package in OPTIONAL.get(name, ())}
    missing = sorted(package for package in needed if find_spec(package) is None)
    return Skipped.from_parent(parent, path=module_path, missing=missing) if missing else None


class Skipped(pytest.Module):
    """A file of tests that cannot be imported here."""

    def __init__(self, *args, missing, **options):
        super().__init__(*args, **options)
        self.missing = missing

    def collect(self):
        pytest.skip(f"needs {', '.join(self.missing)}")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Compiled models of tests stay out of the user's cache directory; so do Triton's kernels where there is no home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        if not os.access(os.path.expanduser("~"), os.W_OK):
            patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """A background job of a shell ignores Ctrl-C, and so would the processes that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left():
    """A child that is left would be waited for when this process ends, forever perhaps."""
    yield
    left = multiprocessing.active_children()
    for child in left:
        child.kill()
    assert not left


@pytest.fixture(scope="session")
def _first_signal_stack():
    return signal_stack.current()


@pytest.fixture(autouse=True)
def _signal_stack_lasts(_first_signal_stack):
    """No test leaves this thread a signal stack that goes, or is gone; LLVM's, which Triton loads, stays for good."""
    yield
    if fault := signal_stack.danger(signal_stack.current(), _first_signal_stack):
        signal_stack.install(_first_signal_stack)  # the tests that follow are not at fault
        pytest.fail(fault)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    tiny_model().save(path)
    return path


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory):
    """An exported tiny model, fp32, logits."""
    from segfast.export import export_onnx

    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export_onnx(tiny_model(), path, precision="fp32")
    return path


@pytest.fixture(scope="session")
def tiny_labels_onnx(tmp_path_factory):
    from segfast.export import export_onnx

    path = tmp_path_factory.mktemp("onnx") / "labels.onnx"
    export_onnx(tiny_model(), path, precision="fp32", output="labels")
    return path


@pytest.fixture
def photo():
    """RGB pixels [60, 90, 3] of smooth colours: a little smaller than the tiny model's window in one direction."""
    y, x = np.mgrid[0:60, 0:90]
    channels = [127 + 120 * np.sin(x / 9 + phase) * np.cos(y / (7 + phase)) for phase in range(3)]
    return np.stack(channels, -1).astype(np.uint8)
