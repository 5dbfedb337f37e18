"""PyTorch's ambient settings: nothing that is loaded, made, exported or run depends on them, and they stay."""

import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from helpers import tiny_model

import segfast
from segfast.processes.torch_state import true_products


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
        assert torch.get_default_device() == torch.device(name)
    finally:
        torch.set_default_device(None)


@contextmanager
def products(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        yield
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
        assert torch.is_autocast_enabled("cpu")


@contextmanager
def inference():
    with torch.inference_mode():
        yield
        assert torch.is_inference_mode_enabled()


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "autocast": autocast,
    "inference mode": inference,
    "no_grad": torch.no_grad,
    "medium": lambda: products("medium"),
    "deterministic": deterministic,
    "one thread": lambda: threads(1),
}


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def small():
    torch.manual_seed(0)
    return segfast.create_model("seg-ti-mask-32", num_classes=3, image_size=64)


@pytest.mark.parametrize("name", SETTINGS)
def test_models_are_loaded_and_made_as_in_a_fresh_process(tiny_checkpoint, name):
    loaded, made = segfast.load_model(tiny_checkpoint), small()
    with SETTINGS[name]():
        again, fresh = segfast.load_model(tiny_checkpoint), small()
    assert same(loaded, again)
    assert same(made, fresh)
    assert not any(p.is_inference() or not p.requires_grad for p in [*again.parameters(), *fresh.parameters()])


@pytest.mark.parametrize("name", SETTINGS)
def test_an_engine_answers_as_in_a_fresh_process(tiny_checkpoint, photo, name):
    engine = segfast.Engine(tiny_checkpoint, device="cpu")
    window = np.resize(photo, (1, 64, 64, 3))
    labels, logits = engine.segment(photo).labels, engine.run(window)
    with SETTINGS[name]():
        other = segfast.Engine(tiny_checkpoint, device="cpu")
        for one in (engine, other):
            np.testing.assert_array_equal(one.run(window), logits)
            np.testing.assert_array_equal(one.segment(photo).labels, labels)
        (many,) = engine.segment_many([photo])
    np.testing.assert_array_equal(many.labels, labels)


def test_half_precision_is_tried_whatever_the_default_device():
    model = tiny_model()
    with default_device("meta"):
        assert segfast.Engine(model, device="cpu", precision="bf16").runtime == "PyTorch on cpu in bf16"


def test_files_are_exported_as_in_a_fresh_process(tiny_onnx, tmp_path):
    from segfast.export import export_onnx

    model = tiny_model()
    with ExitStack() as stack:
        for name in ("float64", "meta", "autocast", "inference mode", "medium"):
            stack.enter_context(SETTINGS[name]())
        export_onnx(model, tmp_path / "again.onnx", precision="fp32")
    assert (tmp_path / "again.onnx").read_bytes() == tiny_onnx.read_bytes()


def test_blocks_of_several_threads_end_in_any_order():
    kind, entered, leave = torch.backends.mkldnn.matmul, threading.Event(), threading.Event()

    def hold():
        with true_products():
            entered.set()
            leave.wait(20)

    with products("medium"):
        lowered = kind.fp32_precision
        with true_products():
            thread = threading.Thread(target=hold)
            thread.start()
            assert entered.wait(20)
        assert kind.fp32_precision == "ieee"  # the other block still runs
        leave.set()
        thread.join(20)
        assert kind.fp32_precision == lowered
