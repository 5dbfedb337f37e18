import importlib.machinery
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, tiny_config
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import segfast
from segfast import benchmark, doctor, image, models
from segfast.checkpoints import download
from segfast.config import family_config
from segfast.dependencies import choice, inspection
from segfast.dependencies.inspection import Answer, Found
from segfast.dependencies.packages import PACKAGES
from segfast.errors import BadImage, NotSupported, UnknownModel
from segfast.inference import batching, requests
from segfast.kernels import reference
from segfast.kernels.checks import cpus
from segfast.model import Segmenter
from segfast.variants import MIOU, VARIANTS

FAMILY = ("seg-ti-16", "seg-s-mask-32", "seg-b-mask-16", "seg-l-mask-16", "seg-ti-deit-32", "seg-b-deit-mask-16")
STAGES = {"decode", "resize", "network", "merge"}


def configs():
    yield from (family_config(VARIANTS[name]) for name in FAMILY)
    yield family_config(VARIANTS["seg-s-mask-16"], num_classes=19, image_size=(96, 160))
    yield tiny_config(decoder_depth=1, num_classes=5, distilled=True, depth=3)


@pytest.fixture(params=configs(), ids=lambda config: f"{config.name}-{config.num_classes}")
def config(request):
    return request.param


def main(command, monkeypatch, capsys, *arguments):
    """What a command printed and its exit code, run in this process."""
    monkeypatch.setattr(sys, "argv", ["segfast", *map(str, arguments)])
    code = command.main()
    return code, capsys.readouterr().out


# models ---------------------------------------------------------------------------------------------------------------


def test_parameters_are_the_modules(config):
    with torch.device("meta"):
        model = Segmenter(config)
    assert models.parameters(config) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", [(512, 512), (100, 257)])
def test_flops_are_what_pytorch_counts(config, size):
    with torch.device("meta"):
        model = Segmenter(config).eval().set_attention(reference.attention)
        images = torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.patch_logits(images)
    assert models.flops(config, size) == counter.get_total_flops()


def test_rows_say_what_the_paper_does():
    rows = {row.name: row for row in models.family()}
    assert list(rows) == segfast.list_models()
    known = {
        "seg-ti-16": 39.03,
        "seg-b-8": 49.54,
        "seg-b-mask-16": 48.48,
        "seg-b-deit-mask-16": 48.70,
        "seg-l-mask-16": 51.30,
    }
    assert {name: rows[name].miou for name in known} == known
    assert rows["seg-l-8"].miou is None
    assert rows["seg-b-16"].encoder == "vit_base_patch16_384.augreg_in21k_ft_in1k"
    assert set(MIOU["ade20k"]) <= set(rows)
    assert {weights.name for row in rows.values() for weights in row.weights} == set(download.PUBLISHED)


def test_models_prints_a_table_or_one_json_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SEGFAST_CACHE", str(tmp_path))
    (tmp_path / download.PUBLISHED["seg-b-mask-16@ade20k"].url.rsplit("/", 1)[-1]).touch()
    _, text = main(models, monkeypatch, capsys, "seg-[bl]-mask-16")
    header, base, large = text.splitlines()
    assert header.split()[0] == "model"
    assert base.split()[:4] == ["seg-b-mask-16", "102.5", "258.6", "48.48"]
    assert base.endswith("seg-b-mask-16@ade20k (49.60), cached")
    assert large.endswith("seg-l-mask-16@ade20k (52.16)")
    _, line = main(models, monkeypatch, capsys, "seg-b-mask-16", "--json")
    assert line.count("\n") == 1
    (row,) = json.loads(line)["models"]
    assert row["parameters"] == 102497580
    assert row["weights"] == [{"name": "seg-b-mask-16@ade20k", "miou": 49.6, "cached": True}]


def test_accuracy_of_an_encoder_is_marked_as_its_owners(monkeypatch, capsys):
    _, text = main(models, monkeypatch, capsys, "seg-b-dino*")
    rows = {line.split()[0]: line.split()[3] for line in text.splitlines() if line.startswith("seg-")}
    assert (rows["seg-b-dinov2-14"], rows["seg-b-dinov3-mask-16"], rows["seg-b-dinov2reg-14"]) == (
        "51.3*",
        "51.8†",
        "-",
    )
    ours, theirs = text.splitlines()[-2:]
    assert re.fullmatch(r"\* of the encoder alone: frozen, one Linear, .*DINOv2.*", ours)
    assert re.fullmatch(r"† of the encoder alone: frozen, one Linear, .*DINOv3.*", theirs)


def test_models_knows_no_such_pattern(monkeypatch, capsys):
    with pytest.raises(UnknownModel, match="seg-b-mask-16"):
        main(models, monkeypatch, capsys, "seg-b-musk-16")


# doctor ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hide(monkeypatch):
    """Makes modules impossible to find, as far as importlib.util tells, and no GPU to be there."""
    true = importlib.util.find_spec

    def hidden(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in names else true(name, *a))

    monkeypatch.setattr("segfast.machine.devices.nvidia_gpus", lambda: 0)
    return hidden


def examined(monkeypatch, capsys):
    code, text = main(doctor, monkeypatch, capsys)
    *lines, last = text.splitlines()
    return code, "\n".join(lines), json.loads(last)


def test_doctor_of_a_whole_installation(hide, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SEGFAST_CACHE", str(tmp_path / "a" / "b"))
    code, text, found = examined(monkeypatch, capsys)
    assert code == 0
    assert found["engine"]["onnx"]["text"].startswith("OpenVINO on cpu: fp16 files in ")
    assert found["engine"]["checkpoints"]["text"] == "PyTorch on cpu in fp32"
    assert found["packages"]["openvino"]["version"] == importlib.metadata.version("openvino")
    assert "CPUExecutionProvider" in found["packages"]["onnxruntime"]["detail"]
    assert found["packages"]["torch"]["detail"] == (f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA")
    assert found["cpu"]["cores"] == cpus()
    assert found["cache"] == {"path": str(tmp_path / "a" / "b"), "bytes": 0, "writable": True}
    assert f"segfast {segfast.__version__}, Python " in text


PACKAGE = ("present", "version", "detail", "error", "get")
RUNS = ("runs", "text")
# Scripts read the doctor's last line: its names stay.
KEYS = {
    "segfast": None, "python": None, "executable": None, "system": None,
    "cpu": {"model": None, "instructions": {"avx2": None}, "cores": None, "memory_bytes": None},
    "nvidia_gpus": None, "nvidia_driver": None, "capabilities": None,
    "packages": {
        name: dict.fromkeys(PACKAGE)
        for name in (
            "numpy", "PIL", "openvino", "onnxruntime", "numba", "torch", "triton", "tensorrt", "tensorrt_rtx", "onnx",
            "onnxscript", "timm", "safetensors")},
    "engine": {name: dict.fromkeys(RUNS) for name in ("onnx", "checkpoints", "engines")},
    "cache": {"path": None, "bytes": None, "writable": None},
    "warnings": None,
}  # fmt: skip


def test_doctors_json_has_the_same_keys_in_the_same_order(hide, monkeypatch, capsys):
    def keys(value):
        return {name: keys(part) for name, part in value.items()} if isinstance(value, dict) else None

    monkeypatch.setattr(inspection, "trial", lambda name, device="cpu": Answer(None, None))
    monkeypatch.setattr("segfast.machine.cpu.instructions", lambda: {"avx2": True})
    _, _, found = examined(monkeypatch, capsys)
    assert json.dumps(keys(found)) == json.dumps(KEYS)
    assert isinstance(found["capabilities"], list)
    assert isinstance(found["warnings"], list)


def test_doctor_predicts_the_engine(hide, monkeypatch, tiny_onnx):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    assert engine.runtime == "OpenVINO on cpu in fp32"
    assert doctor.examine().engine["onnx"].text.endswith("fp32 files in fp32")
    hide("openvino")
    assert segfast.Engine(tiny_onnx, device="cpu").runtime.startswith("ONNX Runtime on cpu")
    assert doctor.examine().engine["onnx"].text.startswith("ONNX Runtime on cpu")


@pytest.mark.parametrize("openvino", ["works", "missing", "broken"])
def test_doctor_and_engine_decide_alike(monkeypatch, tiny_onnx, openvino):
    """Whatever `for_onnx` says, both do."""
    decided, true = [], choice.for_onnx

    def recorded(runtime, device, troubles):
        decided.append(true(runtime, device, troubles).runtime)
        return true(runtime, device, troubles)

    monkeypatch.setattr(choice, "for_onnx", recorded)
    engine = segfast.Engine(tiny_onnx, device="cpu")
    assert (engine.runtime.partition(" on ")[0], decided) == ("OpenVINO", ["openvino"])
    package = Found(True, "1", "CPUExecutionProvider", None, "pip install it")
    state = {"works": package, "missing": replace(package, present=False), "broken": replace(package, error="no ELF")}
    packages = dict.fromkeys(("numpy", "PIL", "onnxruntime", "numba"), package) | {"openvino": state[openvino]}
    outlook = doctor.of_onnx(packages, "cpu")
    assert decided[1:] == ["openvino" if openvino == "works" else "onnxruntime"]
    assert outlook.text.startswith("OpenVINO" if openvino == "works" else "ONNX Runtime")
    assert ("as openvino is broken" in outlook.text) == (openvino == "broken")


def test_doctor_names_the_command_for_what_is_missing(hide, monkeypatch, capsys):
    names = [package.module for package in PACKAGES]
    hide(*names)
    code, text, found = examined(monkeypatch, capsys)
    assert code == 1
    for package in PACKAGES:
        assert f"missing: {package.purpose}; pip install {package.pip}" in text
    assert not found["engine"]["checkpoints"]["runs"]
    hide("openvino", "onnxruntime", "torch")
    code, text, _ = examined(monkeypatch, capsys)
    assert code == 1
    assert "cannot run: openvino is missing; pip install openvino" in text
    assert "cannot run: torch is missing; pip install torch" in text


@pytest.mark.parametrize(
    ("body", "words", "runs"),
    [
        ("raise ImportError('libfoo.so: no such thing')", "libfoo.so: no such thing", True),
        ("raise OSError('wrong ELF class')", "wrong ELF class", True),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL", False),
        ("print('hello')", "has no attribute", True),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_doctor_survives_broken_packages(hide, monkeypatch, capsys, tmp_path, body, words, runs):
    absent = "torch", "numba", "tensorrt_rtx"
    hide(*absent)
    (tmp_path / "openvino.py").write_text(body)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    code, text, found = examined(monkeypatch, capsys)
    assert words in found["packages"]["openvino"]["error"]
    assert "broken: " in text
    assert code == (0 if runs else 1)
    if runs:  # as the Engine does
        assert "ONNX Runtime on cpu: every file in its own precision, as openvino is broken" in text
        hide("onnxruntime", *absent)
        code, text, _ = examined(monkeypatch, capsys)
        assert code == 1
    assert "cannot run: openvino is broken; pip install --force-reinstall openvino" in text


@pytest.mark.parametrize("module", ["numba", "torch"])
def test_doctor_names_what_is_installed_and_broken(hide, monkeypatch, capsys, tmp_path, module):
    hide("openvino", "tensorrt_rtx", *({"numba", "torch"} - {module}))
    (tmp_path / f"{module}.py").write_text("raise AttributeError('made for another NumPy')")
    monkeypatch.syspath_prepend(tmp_path)
    found_spec = importlib.util.find_spec
    origin = importlib.machinery.ModuleSpec(module, None, origin=str(tmp_path / f"{module}.py"))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: origin if name == module else found_spec(name, *a)
    )
    code, text, found = examined(monkeypatch, capsys)
    assert code == 0
    assert found["packages"][module]["error"] == "AttributeError: made for another NumPy"
    assert "broken: AttributeError: made for another NumPy; pip install --force-reinstall" in text
    if module == "numba":
        assert "windows merged in NumPy, slower, as numba is broken" in found["engine"]["onnx"]["text"]
    else:
        assert found["engine"]["checkpoints"] == {
            "runs": False,
            "text": "cannot run: torch is broken; pip install --force-reinstall torch",
        }


def test_doctor_survives_everything_at_once(monkeypatch, capsys):
    def broken(*_, **__):
        raise OSError("no such luck")

    for name in ("importlib.util.find_spec", "importlib.metadata.version", "segfast.machine.devices.nvidia_gpus"):
        monkeypatch.setattr(name, broken)
    for name in (
        "segfast.machine.cache.cache_directory",
        "platform.platform",
        "segfast.kernels.quota.cpus",
        "pathlib.Path.read_text",
    ):
        monkeypatch.setattr(name, broken)
    monkeypatch.setattr(
        "segfast.dependencies.installation.foreign", lambda: None
    )  # as where no other `segfast` is installed
    code, _, found = examined(monkeypatch, capsys)
    assert code == 1
    assert found["cpu"]["instructions"] is None
    assert {text.split(" (")[0] for text in found["warnings"]} == {
        "cannot count the NVIDIA GPUs",
        "cannot name the system",
        "cannot count the cores",
        "cannot find the cache directory",
    }


def test_doctor_warns_of_two_onnx_runtimes(hide, monkeypatch, capsys):
    monkeypatch.setattr("segfast.dependencies.installation.foreign", lambda: None)
    monkeypatch.setattr(inspection, "trial", lambda name, device="cpu": Answer("CPUExecutionProvider", None))
    for only in ("onnxruntime", "onnxruntime-gpu"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, only=only: "1.0" if name == only else None)
        assert "warning" not in examined(monkeypatch, capsys)[1]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    assert "warning: onnxruntime and onnxruntime-gpu are both installed" in examined(monkeypatch, capsys)[1]


@pytest.mark.parametrize(
    ("providers", "error", "words"),
    [
        ("CPUExecutionProvider", None, "has no CUDA; pip uninstall -y onnxruntime && pip install onnxruntime-gpu"),
        (None, "CUDAExecutionProvider does not start", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("CUDAExecutionProvider, CPUExecutionProvider", None, "ONNX Runtime on cuda: every file in its own precision"),
    ],
)
def test_doctor_with_a_gpu(monkeypatch, capsys, providers, error, words):
    monkeypatch.setattr("segfast.machine.devices.nvidia_gpus", lambda: 1)
    asked = []

    def trial(name, device="cpu"):
        asked.append((name, device))
        return Answer(providers, error if name == "onnxruntime" else None)

    monkeypatch.setattr(inspection, "trial", trial)
    code, text, _ = examined(monkeypatch, capsys)
    assert ("onnxruntime", "cuda") in asked
    assert words in text
    assert code == (0 if "on cuda" in words else 1)


def test_models_and_doctor_import_nothing_heavy():
    heavy = ("torch", "numpy", "PIL", "openvino", "onnxruntime")
    code = f"import sys, segfast.models, segfast.doctor; segfast.models.family(); print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    assert printed == "[]\n"


# benchmark ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiscale", [False, True])
def test_what_is_timed_is_segment(tiny_onnx, photo, multiscale):
    engine = segfast.Engine(tiny_onnx, device="cpu")
    one, answer = benchmark.segment(engine, photo, multiscale)
    assert (answer.labels == engine.segment(photo, multiscale=multiscale).labels).all()
    views = list(engine.prepare(photo, multiscale=multiscale))
    assert one.windows == sum(len(view.origins) for view in views) > (12 if multiscale else 1)


def test_benchmark_of_the_examples(tiny_onnx, monkeypatch, capsys):
    code, text = main(benchmark, monkeypatch, capsys, tiny_onnx, "--rounds", 4, "--device", "cpu", "--threads", 1)
    assert code == 0
    found = json.loads(text.splitlines()[-1])
    assert found["engine"].startswith("Engine(seg-custom-mask-16, 7 classes")
    assert found["versions"]["openvino"] == importlib.metadata.version("openvino")
    assert found["cores"] >= 1
    assert found["cpu"]
    assert found["peak_memory_bytes"] > 1e7
    pictures = {picture["picture"]: picture for picture in found["pictures"]}
    assert len(pictures) == 6
    assert pictures["coffee.jpg"]["size"] == [400, 600]
    assert pictures["cat.jpg at 64×64"]["size"] == [64, 64]
    assert pictures["cat.jpg at 64×64"]["windows"] == 1
    for name, picture in pictures.items():
        assert name in text
        stages, total = picture["stages"], picture["total"]
        assert set(stages) == STAGES
        assert sum(stage["mean"] for stage in stages.values()) == pytest.approx(total["mean"], rel=0.05)
        assert 0 < total["p50"] <= total["p90"] <= total["p99"]
        assert picture["images_per_second"] > 0


def test_every_stage_has_its_own_time(tiny_onnx, photo, tmp_path, monkeypatch):
    """On a clock that stands still except inside the stages."""
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    engine = segfast.Engine(tiny_onnx, device="cpu")
    now = 0.0

    def lasting(seconds, function):
        def stage(*arguments):
            nonlocal now
            now += seconds
            return function(*arguments)

        return stage

    monkeypatch.setattr(image, "read_path", lasting(1, image.read_path))
    monkeypatch.setattr(requests.Request, "_view", lasting(10, requests.Request._view))
    monkeypatch.setattr(batching, "run_views", lasting(100, batching.run_views))
    monkeypatch.setattr(engine, "merge", lasting(5000, engine.merge))
    for views, multiscale in ((1, False), (12, True)):
        with monkeypatch.context() as patch:
            patch.setattr(benchmark.time, "perf_counter", lambda: now)
            one, _ = benchmark.segment(engine, path, multiscale)
        assert one.stages == {"decode": 1e3, "resize": views * 1e4, "network": views * 1e5, "merge": 5e6}
        assert one.total == sum(one.stages.values())


def test_benchmark_of_labels_takes_windows_only(tiny_labels_onnx, monkeypatch, capsys):
    code, text = main(benchmark, monkeypatch, capsys, tiny_labels_onnx, "--rounds", 1, "--device", "cpu")
    assert code == 0
    pictures = json.loads(text.splitlines()[-1])["pictures"]
    assert [picture["size"] for picture in pictures] == [[64, 64]] * 3
    assert [picture["windows"] for picture in pictures] == [1] * 3
    with pytest.raises(NotSupported, match="64×64"):
        main(benchmark, monkeypatch, capsys, tiny_labels_onnx, REPOSITORY / "examples" / "cat.jpg", "--device", "cpu")


def test_benchmark_of_a_checkpoint_and_named_pictures(tiny_checkpoint, monkeypatch, capsys, tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(np.zeros((70, 64, 3), np.uint8)).save(path)
    _, text = main(benchmark, monkeypatch, capsys, tiny_checkpoint, path, "--rounds", 1, "--device", "cpu")
    (picture,) = json.loads(text.splitlines()[-1])["pictures"]
    assert (picture["picture"], picture["size"], picture["windows"]) == ("p.png", [70, 64], 2)
    with pytest.raises(BadImage, match="no file"):
        main(benchmark, monkeypatch, capsys, tiny_checkpoint, path, tmp_path / "none.png", "--device", "cpu")
    assert "p.png" not in capsys.readouterr().out  # refused before anything was timed


@pytest.mark.parametrize("command", ["models", "doctor", "benchmark"])
def test_the_console_script_knows_them(command):
    ended = subprocess.run(
        [sys.executable, "-m", "segfast", command, "--help"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert f"python -m segfast.{command}" in ended.stdout


def test_errors_end_in_one_line():
    ended = subprocess.run(
        [sys.executable, "-m", "segfast.benchmark", "none.onnx"],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")


def test_doctor_tells_what_checkpoints_run_in_on_a_gpu():
    there = Found(True, "1.2", "CUDA 13.0", None, "pip install it")
    packages = {"torch": there, "triton": there}
    found = doctor.of_checkpoints(packages, "cuda")
    assert asdict(found) == {"runs": True, "text": "PyTorch 1.2 (CUDA 13.0), Triton 1.2 on cuda in fp16"}
    found = doctor.of_checkpoints(packages | {"triton": replace(there, present=False)}, "cuda")
    assert not found.runs
    assert "triton, which compiles the GPU's kernels, is missing; pip install it" in found.text
    found = doctor.of_checkpoints(packages | {"torch": replace(there, detail="no CUDA")}, "cuda")
    assert "this PyTorch has no CUDA" in found.text
