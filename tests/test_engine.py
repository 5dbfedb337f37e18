import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, openvino_core, reference, tiny_config, tiny_model

import segfast
from segfast.errors import BadImage, BadOption, MissingRuntime, NotSupported
from segfast.export import export_onnx
from segfast.kernels import reference as twins
from segfast.machine import devices
from segfast.runtimes import select

RUNTIMES = ("openvino", "onnxruntime")


def same_labels(answer, expected, tolerance=1e-4, share=0.9):
    """Equal wherever the two best scores of `expected` differ by more than the tolerance: in a share of the pixels."""
    second, first = np.sort(expected.scores, axis=0)[-2:]
    clear = first - second > tolerance
    assert clear.mean() > share
    np.testing.assert_array_equal(answer.labels[clear], expected.labels[clear])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("size", [(64, 64), (64, 160), (130, 70)])
def test_fp32_artifacts_equal_the_checkpoint(tiny_onnx, runtime, size):
    """Where nothing is resized the bytes are the same, windows and merging included."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = segfast.Engine(tiny_model(), device="cpu").segment(image)
    answer = segfast.Engine(tiny_onnx, runtime=runtime, device="cpu").segment(image)
    np.testing.assert_allclose(answer.scores, expected.scores, atol=2e-5)
    same_labels(answer, expected)


@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_resized_images_differ_only_by_rounding_to_bytes(tiny_onnx, runtime, multiscale, photo):
    expected = segfast.Engine(tiny_model(), device="cpu").segment(photo, multiscale=multiscale)
    answer = segfast.Engine(tiny_onnx, runtime=runtime, device="cpu").segment(photo, multiscale=multiscale)
    assert answer.labels.shape == (60, 90)
    # Half a byte of 255, through a network whose weights are four times as large as usual.
    np.testing.assert_allclose(answer.scores, expected.scores, atol=0.05)
    assert np.abs(answer.scores - expected.scores).mean() < 2e-3
    same_labels(answer, expected, tolerance=0.05, share=0.25)


def test_stride_is_the_callers_if_given(tiny_onnx, photo):
    wide = np.tile(photo, (2, 2, 1))
    fixed = segfast.Engine(tiny_onnx, device="cpu")
    a, b = fixed.segment(wide), fixed.segment(wide, stride=16)
    assert not np.allclose(a.scores, b.scores)
    np.testing.assert_array_equal(fixed.segment(wide, stride=48).labels, a.labels)


@pytest.mark.parametrize("stride", [0, -1, 65, 1.5, True, "16"])
def test_impossible_strides(tiny_onnx, photo, stride):
    with pytest.raises(BadOption, match="stride"):
        segfast.Engine(tiny_onnx, device="cpu").segment(photo, stride=stride)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_labels_artifacts_serve_one_exact_window(tiny_labels_onnx, tiny_onnx, runtime):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    labels = segfast.Engine(tiny_labels_onnx, runtime=runtime, device="cpu")
    answer = labels.segment(image)
    same_labels(answer, segfast.Engine(tiny_onnx, device="cpu").segment(image))
    assert answer.labels.dtype == np.uint8
    with pytest.raises(NotSupported, match="--output logits"):
        _ = answer.scores
    for request in ({"image": np.zeros((65, 64, 3), np.uint8)}, {"image": image, "multiscale": True}):
        with pytest.raises(NotSupported, match=r"exactly 64×64.*python -m segfast\.export .*--output logits"):
            labels.segment(**request)


def test_tiny_and_thin_pictures(tiny_onnx):
    fixed = segfast.Engine(tiny_onnx, device="cpu")
    for size in ((1, 1), (1, 40), (40, 1), (3, 200)):
        assert fixed.segment(np.full((*size, 3), 99, np.uint8)).labels.shape == size


def test_uint16_labels_over_256_classes(photo):
    answer = segfast.Engine(tiny_model(num_classes=300), device="cpu").segment(photo)
    assert answer.labels.dtype == np.uint16
    assert answer.scores.shape == (300, 60, 90)


def test_repr_says_what_runs_where(tiny_onnx, tiny_checkpoint):
    assert repr(segfast.Engine(tiny_onnx, device="cpu")) == (
        "Engine(seg-custom-mask-16, 7 classes, 64×64 windows, logits: OpenVINO on cpu in fp32)"
    )
    assert "ONNX Runtime on cpu in fp32" in repr(segfast.Engine(tiny_onnx, runtime="onnxruntime", device="cpu"))
    assert "PyTorch on cpu in fp32" in repr(segfast.Engine(tiny_checkpoint, device="cpu"))
    random = segfast.create_model("seg-ti-32", num_classes=2, image_size=64)
    assert "random weights: for timing only" in repr(segfast.Engine(random, device="cpu"))


def test_fp16_artifacts_run_in_the_cpus_half_precision(tmp_path, photo):
    export_onnx(tiny_model(), tmp_path / "m.onnx", precision="fp16")
    capable = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    engine = segfast.Engine(tmp_path / "m.onnx", device="cpu")
    expected = "bf16" if "BF16" in capable else "fp16" if "FP16" in capable else "fp32"
    assert engine.runtime == f"OpenVINO on cpu in {expected}"
    assert ("no half-precision arithmetic" in repr(engine)) == (expected == "fp32")
    assert engine.segment(photo).labels.shape == (60, 90)


def test_a_fixed_size_says_how_it_departs_from_mmsegmentation(tmp_path, photo):
    model = segfast.load_model(reference("mmseg/linear-16") / "checkpoint.pth")
    export_onnx(model, tmp_path / "m.onnx", precision="fp32")
    fixed = segfast.Engine(tmp_path / "m.onnx", device="cpu")
    assert "images smaller than 64×64 are enlarged" in repr(fixed)
    large = np.tile(photo, (2, 2, 1))
    same_labels(fixed.segment(large), segfast.Engine(model, device="cpu").segment(large))
    assert fixed.segment(photo).labels.shape == (60, 90)


def test_missing_openvino_falls_back_loudly(tiny_onnx, monkeypatch, photo):
    find = select.importlib.util.find_spec
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    fallen = segfast.Engine(tiny_onnx, device="cpu")
    assert fallen.runtime == "ONNX Runtime on cpu in fp32"
    assert "OpenVINO is not installed: ONNX Runtime instead" in repr(fallen)
    assert fallen.segment(photo).labels.shape == (60, 90)


def test_runtimes_that_are_not_installed_say_how_to_get_them(tiny_onnx, monkeypatch):
    for module, runtime in (("openvino", "openvino"), ("onnxruntime", "onnxruntime")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(MissingRuntime, match="pip install"):
                segfast.Engine(tiny_onnx, runtime=runtime, device="cpu")


@pytest.mark.skipif(devices.nvidia_gpus() > 0, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(tiny_onnx, tiny_checkpoint):
    for path in (tiny_onnx, tiny_checkpoint):
        with pytest.raises(MissingRuntime, match="device='cpu'"):
            segfast.Engine(path, device="cuda")
    assert "on cpu" in repr(segfast.Engine(tiny_onnx))


def test_a_gpu_is_the_default_where_there_is_one(tiny_onnx, monkeypatch):
    monkeypatch.setattr(devices, "nvidia_gpus", lambda: 1)
    assert devices.check_device(None) == "cuda"
    assert segfast.Engine(tiny_onnx, runtime="openvino").runtime == "OpenVINO on cpu in fp32"
    if not torch.cuda.is_available():
        with pytest.raises(MissingRuntime, match="ONNX Runtime"):
            segfast.Engine(tiny_onnx)


@pytest.mark.parametrize("shape", [(0, 64, 64, 3), (1, 64, 64), (1, 64, 65, 3), (1, 3, 64, 64)])
def test_windows_of_another_shape(tiny_onnx, shape):
    with pytest.raises(BadImage, match=r"\['n', 64, 64, 3\]"):
        segfast.Engine(tiny_onnx, device="cpu").run(np.zeros(shape, np.uint8))


def test_answers_keep_their_picture_when_the_caller_reuses_its_buffer(tiny_onnx, photo):
    buffer = photo.copy()
    answer = segfast.Engine(tiny_onnx, device="cpu").segment(buffer)
    buffer[:] = 0
    np.testing.assert_array_equal(answer.image, photo)


def test_suffixes_may_be_capitals(tmp_path, photo):
    model = tiny_model()
    model.save(tmp_path / "UP.SAFETENSORS")
    export_onnx(model, tmp_path / "UP.ONNX", precision="fp32")
    checkpoint = segfast.Engine(tmp_path / "UP.SAFETENSORS", device="cpu")
    same_labels(
        segfast.Engine(tmp_path / "UP.ONNX", device="cpu").segment(photo), checkpoint.segment(photo), 0.05, 0.25
    )


@pytest.mark.parametrize(("precision", "agreement"), [("fp32", 1.0), ("fp16", 0.99)])
def test_a_trained_model_keeps_its_labels(tmp_path, precision, agreement):
    """The small trained model on a real picture: the share of labels that its checkpoint gives."""
    path = reference("camvid-ti-mask-16") / "checkpoint.pth"
    picture = REPOSITORY / "examples" / "rocket.jpg"
    expected = segfast.Engine(path, device="cpu").segment(picture)
    export_onnx(segfast.load_model(path), tmp_path / "m.onnx", precision=precision)
    engine = segfast.Engine(tmp_path / "m.onnx", device="cpu")
    assert (engine.segment(picture).labels == expected.labels).mean() >= agreement


@pytest.mark.parametrize(
    "options",
    [
        {"device": "gpu"},
        {"device": "cuda:x"},
        {"runtime": "tensorflow"},
        {"threads": 0},
        {"threads": 1.5},
        {"threads": True},
        {"runtime": "pytorch"},
        {"runtime": "openvino", "device": "cuda"},
    ],
)
def test_impossible_options(tiny_onnx, options):
    with pytest.raises(BadOption, match=r"device|runtime|threads|PyTorch"):
        segfast.Engine(tiny_onnx, **options)


def test_a_checkpoint_does_not_run_in_onnx_runtimes(tiny_checkpoint):
    with pytest.raises(BadOption, match=r"export it with segfast\.export"):
        segfast.Engine(tiny_checkpoint, runtime="openvino")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_are_an_option(tiny_onnx, runtime, photo):
    one = segfast.Engine(tiny_onnx, runtime=runtime, device="cpu", threads=1).segment(photo)
    same_labels(one, segfast.Engine(tiny_onnx, runtime=runtime, device="cpu").segment(photo))


def test_threads_of_pytorch_hold_for_the_engines_calls_alone(photo):
    model, seen = tiny_model(), []

    def attend(q, k, v):
        seen.append(torch.get_num_threads())
        return twins.attention(q, k, v)

    model.set_attention(attend)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(2) as pool:
        engines = [segfast.Engine(model, device="cpu", threads=count) for count in (1, before + 1)]
        for engine in engines:
            pool.submit(engine.segment, photo).result()
    segfast.Engine(model, device="cpu").segment(photo)
    blocks = len(seen) // 3
    assert seen == [1] * blocks + [before + 1] * blocks + [before] * blocks
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_many_threads_get_what_serial_calls_give(tiny_onnx, runtime):
    shared = segfast.Engine(tiny_onnx, runtime=runtime, device="cpu")
    images = [np.random.default_rng(i).integers(0, 256, (64 + i, 70, 3), np.uint8) for i in range(8)]
    serial, parallel = [shared.segment(image).labels for image in images], [None] * 8

    def work(i):
        parallel[i] = shared.segment(images[i]).labels

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(a, b)


def test_answers_never_change_under_later_calls(tiny_onnx, photo):
    fixed = segfast.Engine(tiny_onnx, device="cpu")
    first = fixed.segment(photo)
    labels = first.labels.copy()
    fixed.segment(255 - photo)
    np.testing.assert_array_equal(first.labels, labels)
    np.testing.assert_array_equal(first.scores.argmax(0), labels)


def test_the_runtime_needs_neither_torch_nor_timm_nor_onnx(tiny_onnx, tmp_path):
    code = (
        "import sys, numpy as np, segfast\n"
        f"engine = segfast.Engine({str(tiny_onnx)!r}, device='cpu')\n"
        "answer = engine.segment(np.zeros((70, 80, 3), np.uint8))\n"
        f"answer.scores; answer.overlay(); answer.save({str(tmp_path / 'labels.png')!r})\n"
        "loaded = {'torch', 'timm', 'onnx', 'onnxruntime', 'onnxscript', 'safetensors'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_importing_segfast_imports_nothing_heavy():
    code = (
        "import sys, segfast\n"
        "heavy = {'torch', 'numpy', 'PIL', 'openvino', 'onnxruntime', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(segfast.__all__) <= set(dir(segfast))\n"
        "[getattr(segfast, name) for name in segfast.__all__]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_openvino_is_not_imported_for_onnx_runtime(tiny_onnx):
    code = (
        "import sys, segfast\n"
        f"segfast.Engine({str(tiny_onnx)!r}, runtime='onnxruntime', device='cpu')\n"
        "assert 'openvino' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_config_of_the_file_is_that_of_the_model(tiny_onnx):
    assert segfast.Engine(tiny_onnx, device="cpu").config == tiny_config()


@pytest.mark.gpu
@pytest.mark.skipif(devices.nvidia_gpus() == 0, reason="needs an NVIDIA GPU")
def test_onnx_runtime_on_a_gpu_equals_the_cpu(tiny_onnx, photo):
    pytest.importorskip("onnxruntime")
    same_labels(segfast.Engine(tiny_onnx).segment(photo), segfast.Engine(tiny_onnx, device="cpu").segment(photo))
