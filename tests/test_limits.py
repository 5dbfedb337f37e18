"""What would not fit is refused before it is allocated, and what fails inside comes out as an error of ours."""

import itertools
import tracemalloc

import numpy as np
import pytest
from helpers import tiny_model

import segfast
from segfast import engine
from segfast.errors import BadImage, BadModel, BadOption, NotSupported, SegfastError
from segfast.inference import border, limits, requests, scores
from segfast.machine import memory
from segfast.protocol import Protocol, views
from segfast.runtimes import HostRuntime

USUAL = Protocol((0.5,) * 3, (0.5,) * 3, (512, 512), (512, 512))
SMALL_WINDOWS = Protocol((0.5,) * 3, (0.5,) * 3, (512, 512), (341, 341), small_windows=True, crop_padding=False)
MEGA = 1 << 20


def check(size, multiscale=False, fit=None, stride=None, protocol=USUAL, classes=150, on_host=True):
    laid_out = [view for view, _ in views(size, multiscale, fit)]
    limits.needed(size, laid_out, protocol.with_stride(stride), limits.Network(16, classes, on_host), fit).check()


@pytest.fixture
def ample(monkeypatch):
    """A machine whose memory is no limit."""
    monkeypatch.setattr(memory, "available", lambda: 1 << 50)


@pytest.mark.parametrize("protocol", [USUAL.with_window((64, 96)), SMALL_WINDOWS.with_window((64, 64))])
def test_windows_are_counted_without_making_them(protocol):
    for size, stride in itertools.product([(64, 96), (64, 97), (200, 300), (97, 129), (40, 300)], [1, 7, 48, 64]):
        stepped = protocol.with_stride(stride)
        working = stepped.working_size(size)
        origins, window = stepped.windows(working)
        assert stepped.count(working) == (len(origins), window)


FINE = {
    "a small photo": {"size": (48, 64)},
    "a pixel": {"size": (1, 1)},
    "a panorama": {"size": (400, 4000)},
    "a wide panorama": {"size": (300, 9000)},
    "a small panorama": {"size": (20, 2000), "multiscale": True},
    "a ribbon that covers the window": {"size": (512, 100_000)},
    "a thin image for windows of its size": {"size": (3000, 1), "protocol": SMALL_WINDOWS},
    "14 megapixels in 12 views": {"size": (3200, 4400), "multiscale": True},
    "64 megapixels in 12 views": {"size": (8192, 8192), "multiscale": True},
    "a scene of a satellite": {"size": (20_000, 30_000)},
    "overlaps of three quarters": {"size": (8192, 8192), "stride": 128},
    "a dataset's rule": {"size": (375, 500), "fit": (2048, 512)},
}


@pytest.mark.usefixtures("ample")
@pytest.mark.parametrize("case", FINE)
def test_what_is_reasonable_passes(case):
    check(**FINE[case])


REFUSED = {
    "a line down": (
        {"size": (3000, 1)},
        r"3000×1 would have to become one of 1536000×512 .* 100 times .* pad its short",
    ),
    "a line across": ({"size": (1, 300)}, "512×153600"),
    "a line in 12 views": ({"size": (1, 300), "multiscale": True}, "100 times as long as wide"),
    "a line made to fit": ({"size": (300, 1), "fit": (2048, 512)}, "100 times as long as wide"),
    "every place of a window": ({"size": (3000, 4000), "stride": 1}, "8,684,121 windows.*larger stride"),
    "a huge fit": ({"size": (100, 100), "fit": (65536, 65536), "stride": 512}, "12,884,901,888 numbers.*smaller fit"),
    "views beyond the kernels": (
        {"size": (20_000, 20_000), "multiscale": True},
        "3,675,000,000 numbers.*leave multiscale out",
    ),
    "labels beyond the kernels": ({"size": (50_000, 50_000), "classes": 2}, "2,500,000,000 numbers"),
    "logits beyond the kernels": ({"size": (8192, 8192), "stride": 64}, "2,243,000,000|numbers.*make it smaller"),
}


@pytest.mark.usefixtures("ample")
@pytest.mark.parametrize("case", REFUSED)
def test_what_passes_a_limit_is_refused(case):
    request, words = REFUSED[case]
    with pytest.raises(NotSupported, match=words):
        check(**request)


SCARCE = {
    "resized views": (
        {"size": (8192, 8192), "multiscale": True, "on_host": False},
        r"2\.\d GB .* of which 1\.0 GB are free",
    ),
    "logits": ({"size": (20_000, 20_000)}, "GB of memory.*cut it and pass the parts"),
    "an image made to fit": ({"size": (500, 500), "fit": (8192, 8192)}, "GB of memory.*smaller fit"),
}


@pytest.mark.parametrize("case", SCARCE)
def test_what_memory_does_not_hold_is_refused(monkeypatch, case):
    request, words = SCARCE[case]
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    with pytest.raises(NotSupported, match=words):
        check(**request)
    check((3200, 4400))
    monkeypatch.setattr(memory, "available", lambda: None)
    check(**request)


def test_scores_are_refused_before_they_are_computed(monkeypatch, tiny_onnx):
    monkeypatch.setattr(memory, "available", lambda: 8 * 10**9)
    with pytest.raises(NotSupported, match=r"150 classes for an image of 3200×4400 takes 8\.4 GB .* the parts"):
        limits.check_scores((3200, 4400), 150)
    with pytest.raises(NotSupported, match="2,160,000,000 numbers"):
        limits.check_scores((3600, 4000), 150)
    limits.check_scores((3200, 4000), 150)
    answer = segfast.Engine(tiny_onnx, device="cpu").segment(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr(limits, "SMALL", 0)
    monkeypatch.setattr(memory, "available", lambda: 4 * 7 * 64 * 64 - 1)
    with pytest.raises(NotSupported, match="7 classes for an image of 64×64"):
        _ = answer.scores
    monkeypatch.undo()
    assert answer.scores.shape == (7, 64, 64)


class Fake(HostRuntime):
    """A network of 7 classes with patches of 16 that answers zeros, or raises."""

    name, device, precision, notes, batch = "fake", "cpu", "fp32", (), 1
    error: Exception | None = None

    def run(self, windows):
        if self.error is not None and windows.any():
            raise self.error
        n, H, W, _ = windows.shape
        return np.zeros((n, 7, -(-H // 16), -(-W // 16)), np.float32)


@pytest.fixture
def faked(tiny_checkpoint):
    made = segfast.Engine(tiny_checkpoint, device="cpu")
    made._runtime = Fake()
    return made


@pytest.mark.parametrize("options", [{}, {"multiscale": True}, {"stride": 16}, {"fit": (2000, 600)}])
def test_the_estimate_is_what_is_taken(faked, monkeypatch, options):
    """Beside what NumPy allocates at its peak; what the compiled loops hold is little."""
    told = []
    monkeypatch.setattr(limits.Need, "check", lambda need: told.append(need.bytes))
    image = np.zeros((60, 800, 3), np.uint8)
    faked.segment(image, **options)  # loads and compiles
    told.clear()
    tracemalloc.start()
    faked.segment(image, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak == pytest.approx(told[0], rel=0.1)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.zeros((1, 300, 3), np.uint8), {}),
        (np.zeros((600, 900, 3), np.uint8), {"stride": 1}),
        (np.zeros((20, 20, 3), np.uint8), {"fit": (65536, 65536)}),
        (np.broadcast_to(np.uint8(0), (90_000, 90_000, 3)), {}),
    ],
)
def test_nothing_is_made_of_what_is_refused(faked, monkeypatch, image, options):
    def never(*arguments):
        raise AssertionError("too late")

    monkeypatch.setattr(engine, "read_image", never)
    monkeypatch.setattr(requests, "resize", never)
    with pytest.raises(NotSupported):
        faked.segment(image, **options)
    (error,) = faked.segment_many([image], **options, errors="yield")
    assert isinstance(error, NotSupported)


@pytest.mark.parametrize("fit", [5, (1,), (2, "a"), "ab", (2.5, 1), (1, 2)])
def test_what_is_no_fit(faked, fit):
    with pytest.raises(BadOption, match="two whole numbers"):
        faked.segment(np.zeros((20, 20, 3), np.uint8), fit=fit)


class Foreign(Exception):
    """Like those of ONNX Runtime, which have no base but Exception."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


INNER = {
    "a value": (
        ValueError("5 values are too many\nat 0x7f"),
        r"running the network failed \(ValueError: 5 values are too many\)",
    ),
    "a type": (TypeError("no float"), "TypeError: no float.*another runtime"),
    "an overflow": (OverflowError(), r"failed \(OverflowError\)"),
    "a runtime": (RuntimeError("Check 'x' failed"), "RuntimeError"),
    "ONNX Runtime": (Foreign("[ONNXRuntimeError] : 1 : FAIL"), "Foreign"),
    "memory": (MemoryError(), r"takes more memory than there is \(MemoryError\); close what else uses it"),
    "PyTorch's memory": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        "more memory",
    ),
    "the system's memory": (OSError(12, "Cannot allocate memory"), "more memory"),
}


@pytest.mark.parametrize("case", INNER)
def test_errors_of_inner_layers_are_ours(faked, case):
    error, words = INNER[case]
    faked._runtime.error = error
    bad, good = np.ones((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    for call in (faked.segment, lambda image: faked.run(image[None])):
        with pytest.raises(NotSupported, match=words) as caught:
            call(bad)
        assert caught.value.__cause__ is error
    kinds = [type(answer).__name__ for answer in faked.segment_many([good, bad, good], errors="yield")]
    assert kinds == ["Segmentation", "NotSupported", "Segmentation"]


@pytest.mark.parametrize("error", [AttributeError("x"), KeyError("x"), AssertionError(), OSError(5, "x")])
def test_faults_of_the_program_stay_what_they_are(faked, error):
    faked._runtime.error = error
    with pytest.raises(type(error)):
        faked.segment(np.ones((64, 64, 3), np.uint8))


def test_stages_say_which_they_are(faked, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("inner")

    image = np.zeros((70, 64, 3), np.uint8)
    answer = faked.segment(image)
    for name, error, words in (
        ("merge_scores", NotSupported, "computing the scores failed"),
        ("merge_laid_out", NotSupported, "merging the windows failed"),
        ("lay_out", NotSupported, "laying the image out failed"),
        ("read_image", BadImage, "reading the image failed.*uint8 array"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(scores if name == "merge_scores" else engine, name, fail)
            with pytest.raises(error, match=words):
                _ = segfast.Segmentation.scores.fget(answer) if name == "merge_scores" else faked.segment(image)


def test_a_model_that_does_not_open(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("inner")

    monkeypatch.setattr(engine.select, "open_model", fail)
    with pytest.raises(BadModel, match=r"opening the model failed \(RuntimeError: inner\); export"):
        segfast.Engine(tiny_model(), device="cpu")


def test_borders_within_borders_say_it_once():
    with pytest.raises(SegfastError) as caught, border.border("outside"), border.border("inside", BadImage):
        raise ValueError("x")
    assert type(caught.value) is BadImage
    assert "outside" not in str(caught.value)


@pytest.mark.parametrize("version", [1, 2])
def test_available_memory_is_that_of_the_tightest_group(tmp_path, version):
    controller, base, names = [
        ("5:memory", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        ("0:", "", ("memory.max", "memory.current", "inactive_file")),
    ][version - 1]
    (tmp_path / "own").write_text(f"9:cpu:/other\n{controller}:/outer/inner\n")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 70 kB\nSwapFree: 10 kB\n")

    def available():
        return memory.available(tmp_path / "meminfo", tmp_path, tmp_path / "own")

    def group(path, limit, used, cached):
        folder = tmp_path / base / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(names, (limit, used), strict=False):
            (folder / name).write_text(f"{text}\n")
        (folder / "memory.stat").write_text(f"anon 3\n{names[2]} {cached}\n")

    assert available() == 80 * 1024
    group("outer/inner", "max" if version == 2 else 2**63 - 4096, 100, 0)
    assert available() == 80 * 1024
    group("outer", 5000, 4000, 300)
    assert available() == 1300
    group("outer/inner", 500, 450, 20)
    assert available() == 70
    group("outer/inner", 500, 600, 20)
    assert available() == 0
    assert memory.total(tmp_path, tmp_path / "own") == 500
    (tmp_path / "own").write_text("")
    assert memory.total(tmp_path, tmp_path / "own") == memory._installed()


def test_memory_of_this_machine():
    told = memory.available()
    assert told is None or 0 < told < 1 << 50
    assert memory._installed() is None or memory._installed() > MEGA
    assert memory.total() is None or MEGA < memory.total() <= memory._installed()
