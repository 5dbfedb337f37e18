"""The PyTorch engine on an NVIDIA GPU, against the fp32 engine of the CPU. Needs PyTorch, Triton, NumPy and Pillow alone."""

import gc
import mmap
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers import tiny_config, tiny_model  # noqa: E402

import segfast  # noqa: E402
from segfast.errors import BadOption, MissingRuntime, NotSupported  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

# Of half-precision logits, the ratio of the norms: the gate of fp16 files, ten times it for bf16's three bits less.
# Of fp32 logits: the patch convolution may run in TF32, whose mantissa is fp16's.
ERRORS = {"fp16": 5e-3, "bf16": 5e-2, "fp32": 5e-3}
MARGIN = 1e-2


def picture(height, width, seed=0):
    """Smooth colours [height, width, 3], with some noise."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = [127 + 110 * np.sin(x / (9 + seed) + phase) * np.cos(y / (7 + phase)) for phase in range(3)]
    noise = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    return (np.stack(smooth, -1) + noise).clip(0, 255).astype(np.uint8)


def random_model(name, size=512):
    torch.manual_seed(0)
    return segfast.create_model(name, image_size=size)


def margins(answer):
    """How far the best score of each pixel is above the second."""
    second, first = np.partition(answer.scores, -2, axis=0)[-2:]
    return first - second


def same_labels(answer, expected, share=0.0):
    """Equal wherever the fp32 scores differ by more than the margin, in over `share` of the pixels."""
    clear = margins(expected) > MARGIN
    assert clear.mean() > share
    np.testing.assert_array_equal(answer.labels[clear], expected.labels[clear])


def relative_error(given, exact):
    given, exact = np.float64(given), np.float64(exact)
    return np.linalg.norm(given - exact) / np.linalg.norm(exact)


@pytest.fixture(scope="module")
def model():
    return tiny_model(scale=2.0)


@pytest.fixture(scope="module")
def exact(model):
    return segfast.Engine(model, device="cpu")


@pytest.fixture(scope="module")
def engine(model):
    return segfast.Engine(model, device="cuda")


@pytest.mark.parametrize("name", ["seg-ti-mask-16", "seg-s-32", "seg-s-deit-mask-16", "seg-ti-8"])
def test_logits_and_labels_are_those_of_the_cpu(name):
    model = random_model(name)
    exact, engine = segfast.Engine(model, device="cpu"), segfast.Engine(model, device="cuda")
    assert "PyTorch on cuda in fp16" in repr(engine)
    windows = np.stack([picture(512, 512, seed) for seed in range(3)])
    assert relative_error(engine.run(windows), exact.run(windows)) < ERRORS["fp16"]
    same_labels(engine.segment(windows[0]), exact.segment(windows[0]))


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 70])
def test_every_batch_in_every_precision(model, exact, precision, count):
    engine = segfast.Engine(model, device="cuda", precision=precision)
    windows = np.stack([picture(64, 64, seed) for seed in range(count)])
    expected = exact.run(windows)
    for _ in range(2):  # captured, then replayed
        assert relative_error(engine.run(windows), expected) < ERRORS[precision]


@pytest.mark.parametrize("attention", ["triton", "cudnn", "flash", "sdpa"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_attention(model, exact, attention, precision):
    try:
        engine = segfast.Engine(model, device="cuda", attention=attention, precision=precision)
    except BadOption as error:  # before Ampere flash and cuDNN have no kernels
        if torch.cuda.get_device_capability() >= (8, 0):
            raise
        pytest.skip(str(error))
    assert f"attention by {attention}" in repr(engine)
    windows = np.stack([picture(64, 64, seed) for seed in range(4)])
    assert relative_error(engine.run(windows), exact.run(windows)) < ERRORS[precision]


def test_attention_that_cannot_run_is_refused_when_the_engine_is_made(model):
    with pytest.raises(BadOption, match="attention='flash' cannot run this model in fp32"):
        segfast.Engine(model, device="cuda", attention="flash", precision="fp32")


@pytest.mark.parametrize("size", [(64, 64), (60, 90), (200, 330), (1, 1), (3, 200), (64, 65)])
@pytest.mark.parametrize("multiscale", [False, True])
def test_images_of_any_size_and_views(engine, exact, size, multiscale):
    image = picture(*size)
    answer, expected = engine.segment(image, multiscale=multiscale), exact.segment(image, multiscale=multiscale)
    same_labels(answer, expected)
    assert relative_error(answer.scores, expected.scores) < 2e-2
    np.testing.assert_array_equal(engine.segment(image, multiscale=multiscale).labels, answer.labels)


@pytest.mark.parametrize("crop_padding", [True, False])
def test_odd_windows_and_small_images_as_they_are(crop_padding):
    protocol = replace(
        tiny_config().protocol, window=(60, 52), stride=(40, 40), small_windows=True, crop_padding=crop_padding
    )
    model = tiny_model(scale=2.0, protocol=protocol)
    exact, engine = segfast.Engine(model, device="cpu"), segfast.Engine(model, device="cuda")
    for size in ((60, 52), (33, 47), (130, 90), (20, 200)):
        image = picture(*size)
        same_labels(engine.segment(image), exact.segment(image))
        same_labels(engine.segment(image, multiscale=True), exact.segment(image, multiscale=True))
    windows = np.stack([picture(60, 52, seed) for seed in range(3)])
    clear = margins(exact.segment(windows[1])) > MARGIN  # batches of four and of one may round otherwise
    np.testing.assert_array_equal(
        engine.run(windows, labels=True)[1][clear], engine.run(windows[1:2], labels=True)[0][clear]
    )


def test_linear_decoders_and_many_classes():
    for changes in ({"decoder": "linear", "name": "seg-custom-16"}, {"num_classes": 300}, {"num_classes": 2}):
        model = tiny_model(scale=2.0, **changes)
        exact, engine = segfast.Engine(model, device="cpu"), segfast.Engine(model, device="cuda")
        answer = engine.segment(picture(100, 80))
        same_labels(answer, exact.segment(picture(100, 80)))
        assert answer.labels.dtype == (np.uint16 if model.config.num_classes > 256 else np.uint8)


def test_replayed_graphs_give_what_the_network_gives(engine):
    """Eagerly, in the same precision and batch: the same kernels, hence the same bits."""
    runtime = engine._runtime
    for count in (1, 2, 4):
        for seed in (0, 7):
            windows = np.stack([picture(64, 64, seed + i) for i in range(count)])
            with torch.inference_mode():
                eager = runtime.logits(torch.tensor(windows, device="cuda")).cpu().numpy()
            np.testing.assert_array_equal(engine.run(windows), eager)


def test_many_threads_get_what_serial_calls_give(model):
    engine = segfast.Engine(model, device="cuda")
    images = [picture(64 + 9 * i, 70 + 30 * (i % 5), i) for i in range(16)]
    serial = [engine.segment(image).labels for image in images]
    fresh, wrong = segfast.Engine(model, device="cuda"), []  # which captures while others run

    def work(index):
        for turn in range(12):
            i = (index + turn) % 16
            if not np.array_equal(fresh.segment(images[i]).labels, serial[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong


def test_many_images_are_what_single_calls_give(engine):
    images = [picture(50 + 40 * i, 90, i) for i in range(12)]
    for image, answer in zip(images, engine.segment_many(images), strict=True):
        same_labels(answer, engine.segment(image))  # in batches of other sizes


def test_answers_never_change_under_later_calls(engine):
    windows = np.stack([picture(64, 64, seed) for seed in range(4)])
    logits, answer = engine.run(windows), engine.segment(windows[0])
    kept, labels = logits.copy(), answer.labels.copy()
    for seed in range(20):
        engine.run(np.stack([picture(64, 64, seed)] * 4))
        engine.segment(255 - picture(64, 64, seed))
    np.testing.assert_array_equal(logits, kept)
    np.testing.assert_array_equal(answer.labels, labels)
    same_labels(answer, answer)
    clear = margins(answer) > 1e-5
    np.testing.assert_array_equal(answer.scores.argmax(0)[clear], labels[clear])  # of its own logits, not of later ones


def test_nothing_is_captured_or_compiled_after_warming_up(model, monkeypatch):
    engine = segfast.Engine(model, device="cuda")
    engine.warm_up()

    def begin(*_, **__):
        raise AssertionError("a graph is captured")

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", begin)
    random = np.random.default_rng(0)
    for turn in range(40):
        image = random.integers(0, 256, (*random.integers(1, 200, 2), 3), np.uint8)
        engine.segment(image, multiscale=turn % 10 == 0)
    assert "captur" not in repr(engine)


def test_captures_that_others_break_are_run_without_and_taken_again(model):
    """Another thread waits for the device again and again while sixteen engines capture: some captures break, no answer."""
    stop, errors = threading.Event(), []

    def wait():
        while not stop.is_set():
            try:
                torch.cuda.synchronize()
            except RuntimeError as error:  # that is what a capture does to others
                errors.append(error)
            gc.collect()

    image = picture(200, 330)
    expected = segfast.Engine(model, device="cuda").segment(image)
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        for _ in range(16):
            engine = segfast.Engine(model, device="cuda")
            for _ in range(5):
                same_labels(engine.segment(image), expected)
    finally:
        stop.set()
        thread.join(60)
    print(f"{len(errors)} waits failed; {engine}")
    before = torch.cuda.memory_reserved()
    for _ in range(8):
        segfast.Engine(model, device="cuda").segment(image)
        torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + (64 << 20)  # pools of broken captures are given back


def test_an_engine_dies_at_once(model):
    gc.collect()
    gc.disable()
    try:
        engine = segfast.Engine(model, device="cuda")
        engine.segment(picture(64, 64))
        dead = weakref.ref(engine), weakref.ref(engine._runtime.logits.model)
        del engine
        assert [x() for x in dead] == [None, None]
    finally:
        gc.enable()


def test_memory_is_flat_over_a_thousand_calls(engine):
    images = [picture(120 + 40 * i, 150, i) for i in range(4)]

    def calls(count):
        for i in range(count):
            engine.segment(images[i % 4])
        gc.collect()
        torch.cuda.synchronize()
        pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
        return (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()), pages * mmap.PAGESIZE

    calls(100)
    device, host = calls(100)
    later, grown = calls(1000)
    assert later == device
    assert grown - host < 1 << 24  # the labels and pixels of a thousand images are five times that


@pytest.fixture
def full_memory():
    """Fills what PyTorch may take of the GPU's memory when it is called."""
    hog = []

    def fill():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / torch.cuda.mem_get_info()[1])
        for size in (1 << 21, (1 << 20) + 1, 1 << 18):  # the allocator keeps large and small blocks apart
            try:
                while True:
                    hog.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                continue

    def free():
        hog.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)

    yield fill, free
    free()


def test_without_memory_the_error_has_a_remedy_and_the_next_call_works(full_memory):
    fill, free = full_memory
    engine = segfast.Engine(random_model("seg-ti-16"), device="cuda")
    windows = np.stack([picture(512, 512)] * 5)
    fill()
    for _ in range(2):
        with pytest.raises(NotSupported, match="not enough free memory"):
            engine.run(windows)
    free()
    labels = engine.run(windows, labels=True)
    np.testing.assert_array_equal(labels[0], labels[3])
    assert "for want of GPU memory" not in repr(engine)
    answer = engine.segment(picture(2000, 1500))
    fill()
    with pytest.raises(NotSupported, match="not enough free memory for an image of this size"):
        _ = answer.scores
    free()
    assert answer.scores.shape == (150, 2000, 1500)
    assert engine.segment(picture(512, 512)).labels.shape == (512, 512)


def test_a_model_is_left_where_it_is(model):
    before = [(parameter.device, parameter.dtype, parameter.data_ptr()) for parameter in model.parameters()]
    segfast.Engine(model, device="cuda")
    assert [(parameter.device, parameter.dtype, parameter.data_ptr()) for parameter in model.parameters()] == before


def test_the_default_is_the_gpu_and_a_gpu_beyond_the_last_is_missing(model):
    assert "on cuda in fp16" in repr(segfast.Engine(model))
    assert "on cuda:0 in bf16" in repr(segfast.Engine(model, device="cuda:0", precision="bf16"))
    with pytest.raises(MissingRuntime, match="device='cpu'"):
        segfast.Engine(model, device=f"cuda:{torch.cuda.device_count()}")


def test_fp16_that_overflows_becomes_bf16_loudly():
    model = tiny_model(decoder="linear", name="seg-custom-16")
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.mlp.fc2.bias.fill_(60000.0)
    engine = segfast.Engine(model, device="cuda")
    assert "in bf16; bf16, because activations overflow in fp16" in repr(engine)
    with pytest.raises(BadOption, match="overflows in fp16"):
        segfast.Engine(model, device="cuda", precision="fp16")
