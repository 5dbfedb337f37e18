"""Engines are really built here: TensorRT-RTX compiles without a GPU, by the code that TensorRT is called with too."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec

import onnx
import pytest
import torch
from helpers import REPOSITORY, interrupted, tiny_model

import segfast
from segfast import files
from segfast.artifacts.plan import Options
from segfast.artifacts.sidecar import read_plan
from segfast.errors import BadModel, BadOption, CannotWrite, EngineMismatch, ExportFailed, MissingRuntime
from segfast.export import build_engine, builder, engine_file, onnx_file, tracing
from segfast.export.graph import Deployed, at_size
from segfast.machine import devices, nvidia

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
NO_GPU = pytest.mark.skipif(devices.nvidia_gpus() > 0, reason="there is a GPU")
MAGIC = b"vtrt"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model in fp16, as logits."""
    path = tmp_path_factory.mktemp("rtx") / "tiny.onnx"
    onnx_file.export_onnx(tiny_model(), path)
    return path


@functools.lru_cache(2)
def traced(name, output, size=(512, 512)):
    """A family member as the export writes it in fp16; what the export checks by running it is left out."""
    torch.manual_seed(0)
    fixed = at_size(segfast.create_model(name), size)
    program = tracing.trace(Deployed(fixed, output, torch.float16), size, 18)
    return program.model_proto.SerializeToString(), fixed.config


def build(path, folder, **options):
    return build_engine(path, folder / "x-rtx.engine", **({"compiler": "rtx", "targets": "sm89"} | options))


# The standing proof ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["logits", "labels"])
@pytest.mark.parametrize("name", ["seg-ti-mask-16", "seg-b-mask-16", "seg-b-8"])
def test_the_family_builds(name, output, record_property, capsys):
    content, config = traced(name, output)
    start = time.perf_counter()
    built = builder.build_plan(content, (512, 512), Options("rtx", ("sm89", "sm120"), (1, 1, 4)))
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\n{name}, {output}: {len(content) / 1e6:.1f} MB → {built.plan.nbytes / 1e6:.1f} MB in {seconds:.1f} s")
    assert bytes(built.plan[:4]) == MAGIC
    weights = sum(
        tensor.nbytes for tensor in map(onnx.numpy_helper.to_array, onnx.load_from_string(content).graph.initializer)
    )
    assert 0.9 * weights < built.plan.nbytes < 3 * weights  # fp16 that came out fp32 would hold twice the weights
    attentions = config.depth + (config.decoder_depth if config.decoder == "mask" else 0)
    assert len(built.nodes.attention) == attentions
    assert len(built.nodes.half) >= 6 * config.depth  # qkv, two of attention, its projection, two of the MLP
    assert built.notes == ()


def test_sizes_that_no_patch_divides_build():
    network = Deployed(at_size(tiny_model(), (50, 70)), "labels", torch.float16)
    content = tracing.trace(network, (50, 70), 18).model_proto.SerializeToString()
    assert bytes(builder.build_plan(content, (50, 70), Options("rtx", ("sm89",))).plan[:4]) == MAGIC


def test_a_target_without_fp32_products_is_named(tiny, tmp_path):
    """Turing has none, and the end of a mask decoder computes in fp32."""
    with pytest.raises(ExportFailed, match=r"SM75\): FP32 GEMM is not supported.*leave out targets"):
        build(tiny, tmp_path, targets="sm75,sm89")
    assert not list(tmp_path.iterdir())


# From a file to a file ------------------------------------------------------------------------------------------------


def test_an_engine_and_its_sidecar(tiny, tmp_path):
    report = build(tiny, tmp_path, targets=["sm120", "SM89"], batch=(1, 2, 4))
    path = tmp_path / "x-rtx.engine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x-rtx.engine", "x-rtx.engine.json"]
    assert path.read_bytes().startswith(MAGIC)  # a pure plan
    plan = read_plan(path)
    assert plan.options == Options("rtx", ("sm89", "sm120"), (1, 2, 4))
    assert plan.version == rtx.__version__
    assert plan.digest == files.sha256(path)
    assert (plan.onnx, plan.onnx_digest) == ("tiny.onnx", files.sha256(tiny))
    assert plan.artifact.config == segfast.Engine(tiny, device="cpu").config
    assert (plan.artifact.size, plan.artifact.precision, plan.artifact.output) == ((64, 64), "fp16", "logits")
    assert len(plan.nodes.attention) == 4
    assert not plan.verified or devices.nvidia_gpus()
    for words in ("wrote", "TensorRT-RTX 1.", "sm89, sm120", "batch 1 to 4, best at 2"):
        assert words in str(report)


@NO_GPU
def test_without_a_gpu_nothing_is_verified(tiny, tmp_path):
    assert "not verified: no GPU and PyTorch here run it" in str(build(tiny, tmp_path))
    assert json.loads((tmp_path / "x-rtx.engine.json").read_text())["verified"] is False
    with pytest.raises(MissingRuntime, match="no NVIDIA driver"):
        segfast.Engine(tmp_path / "x-rtx.engine", device="cuda")


def test_the_probe_is_the_answer_of_the_file(tiny, tmp_path):
    build(tiny, tmp_path)
    answer = segfast.Engine(tiny, runtime="onnxruntime", device="cpu").run(engine_file.photo((64, 64))[None])
    compared = read_plan(tmp_path / "x-rtx.engine").golden.compare(answer)
    assert (compared.relative_error, compared.labels) == (0, 1)


def test_an_engine_is_built_once(tiny, tmp_path):
    first = build(tiny, tmp_path)
    stamp = (tmp_path / "x-rtx.engine").stat().st_mtime_ns
    again = build(tiny, tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert "is up to date" in str(again)
    assert (tmp_path / "x-rtx.engine").stat().st_mtime_ns == stamp
    for change in ({"targets": "sm89,sm86"}, {"batch": (1, 1, 2)}, {"level": 1}):
        assert not build(tiny, tmp_path, **change).reused
    (tmp_path / "x-rtx.engine").write_bytes(b"damaged")
    assert not build(tiny, tmp_path, level=1).reused


def test_another_model_under_the_same_name_is_built_anew(tiny, tmp_path):
    build(tiny, tmp_path)
    model = onnx.load(tiny)
    model.producer_version = "another"
    onnx.save(model, tmp_path / "tiny.onnx")
    assert not build(tmp_path / "tiny.onnx", tmp_path).reused


def test_what_an_engine_replaces_is_said_and_trained_weights_stay_unless_they_may_go(tiny, tmp_path):
    build(tiny, tmp_path)
    before = (tmp_path / "x-rtx.engine").read_bytes()
    onnx_file.export_onnx(tiny_model(provenance={"weights": "random"}), tmp_path / "random.onnx")
    with pytest.raises(BadOption, match=r"x-rtx.engine holds trained weights.*--force"):
        build(tmp_path / "random.onnx", tmp_path)
    assert (tmp_path / "x-rtx.engine").read_bytes() == before
    said = "it replaced a file of that name: seg-custom-mask-16, 7 classes, fp16, logits, weights: "
    assert f"{said}trained" in str(build(tmp_path / "random.onnx", tmp_path, force=True)).splitlines()
    assert f"{said}random" in str(build(tiny, tmp_path)).splitlines()


def test_workspace_and_level_are_taken(tiny, tmp_path):
    report = build(tiny, tmp_path, workspace=256, level=5, batch=(2, 2, 2))
    assert report.plan.rebuild().endswith(f"--target sm89 --batch 2,2,2 --workspace 256 --level 5 --out {tmp_path}")


# What is refused ------------------------------------------------------------------------------------------------------


def refused(folder, error, words, call):
    with pytest.raises(error, match=words):
        call()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": "sm90"}, "no target 'sm90'; there are sm75"),
        ({"targets": "sm89,ada"}, "no target 'ada'"),
        ({"targets": []}, "name targets among"),
        ({"targets": [89]}, "no target 89"),
        ({"compiler": "tensorflow"}, "one of tensorrt, rtx"),
        ({"compiler": "tensorrt"}, "--engine rtx takes them"),
        ({"batch": (1, 1, 0)}, "three rising numbers"),
        ({"batch": 8}, "three rising numbers"),
        ({"hardware": "same"}, "targets in place of"),
        ({"device": "cpu:1"}, "device must be"),
    ],
)
def test_options(tiny, tmp_path, options, words):
    refused(tmp_path, BadOption, words, lambda: build(tiny, tmp_path, **options))


@NO_GPU
def test_no_target_without_a_gpu(tiny, tmp_path):
    refused(tmp_path, BadOption, "--target sm89,sm120", lambda: build(tiny, tmp_path, targets=None))


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_tensorrt_that_is_not_there(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "nvidia_gpus", lambda: 1)
    refused(
        tmp_path,
        MissingRuntime,
        "pip install tensorrt",
        lambda: build(tiny, tmp_path, compiler="tensorrt", targets=None),
    )


def test_versions_that_are_too_old(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(rtx, "__version__", "1.1.0.1")
    refused(
        tmp_path,
        MissingRuntime,
        "1.1.0.1 is too old; pip install 'tensorrt-rtx-cu13>=1.7'",
        lambda: build(tiny, tmp_path),
    )


def test_fp32_is_refused(tiny_onnx, tmp_path):
    refused(tmp_path, BadOption, "no fp32 attention; export with --fp16", lambda: build(tiny_onnx, tmp_path))


def test_names_that_say_another_format(tiny, tmp_path):
    call = functools.partial(build_engine, tiny, tmp_path / "x.onnx", compiler="rtx", targets="sm89")
    refused(tmp_path, BadOption, r"name it \*\.engine", call)


def test_foreign_files(tiny, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    model = onnx.load(tiny)
    model.graph.node[5].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "unknown.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    (tmp_path / "cut.onnx").write_bytes(tiny.read_bytes()[:5000])
    (tmp_path / "x.pth").write_bytes(b"")
    for name, error, words in (
        ("foreign.onnx", BadModel, "was not exported by segfast"),
        ("cut.onnx", BadModel, "no whole ONNX file"),
        ("none.onnx", BadModel, "there is no file"),
        ("x.pth", BadModel, r"is no \.onnx file"),
        ("unknown.onnx", ExportFailed, "TensorRT-RTX 1.* cannot read the network.*NoSuchOperator|ONNX Runtime"),
    ):
        refused(folder, (error, BadModel), words, functools.partial(build, tmp_path / name, folder))


def test_a_network_that_the_compiler_refuses(tiny):
    model = onnx.load(tiny)
    model.graph.node[5].op_type = "NoSuchOperator"
    with pytest.raises(ExportFailed, match=r"TensorRT-RTX 1\S* cannot read the network \(.*NoSuchOperator"):
        builder.build_plan(model.SerializeToString(), (64, 64), Options("rtx", ("sm89",)))


def test_a_profile_that_is_not_the_network_s(tiny):
    with pytest.raises(ExportFailed, match="did not build the network"):
        builder.build_plan(tiny.read_bytes(), (32, 32), Options("rtx", ("sm89",)))


def test_a_full_disk_leaves_what_was_there(tiny, tmp_path, monkeypatch):
    build(tiny, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CannotWrite, match="the disk is full"):
        build(tiny, tmp_path, level=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_destinations_are_refused_before_the_work(tiny, tmp_path, monkeypatch):
    def build_plan(*_, **__):
        raise AssertionError("the compiler was called")

    monkeypatch.setattr(engine_file, "build_plan", build_plan)
    refused(tmp_path, CannotWrite, "create it first", lambda: build(tiny, tmp_path / "none"))


def test_a_plan_that_fails_its_check_is_not_published(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_file._Job, "runs_here", True)

    def fails(*_):
        raise ExportFailed("fp16 was asked, but 3 layers compute in fp32")

    monkeypatch.setattr(engine_file, "_verify", fails)
    refused(tmp_path, ExportFailed, "compute in fp32", lambda: build(tiny, tmp_path))


def test_no_deserialiser_sees_a_plan_for_another_gpu_or_version(tiny, tmp_path, monkeypatch):
    build(tiny, tmp_path)

    def deserialise(*_):
        raise AssertionError("a deserialiser was made")

    monkeypatch.setattr(rtx, "Runtime", deserialise)
    monkeypatch.setattr(nvidia, "capability", lambda device: "sm86")
    with pytest.raises(EngineMismatch, match=r"built for sm89, this GPU is sm86; build it again: .*--target sm89,sm86"):
        segfast.Engine(tmp_path / "x-rtx.engine", device="cuda")
    monkeypatch.setattr(nvidia, "capability", lambda device: "sm89")
    monkeypatch.setattr(rtx, "__version__", "1.8.0.1")
    with pytest.raises(EngineMismatch, match=r"built by TensorRT-RTX 1\.7\S+, here is 1\.8\.0\.1"):
        segfast.Engine(tmp_path / "x-rtx.engine", device="cuda")


# Interruptions and company --------------------------------------------------------------------------------------------


def test_stopping_ends_a_build_within_a_step(tiny):
    stop, calls = threading.Event(), []
    bar = type("Bar", (), {"start": lambda *a: None, "step": lambda *a: calls.append(a), "finish": lambda *a: None})()
    monitor = builder._monitor(rtx, bar, stop)
    assert monitor.step_complete("phase", 0) is True
    stop.set()
    assert monitor.step_complete("phase", 1) is False
    assert len(calls) == 2
    with pytest.raises(ExportFailed, match="BuildCanceled"):
        builder._build(rtx, tiny.read_bytes(), (64, 64), Options("rtx", ("sm89",)), None, stop)


def test_an_interrupt_is_passed_on_after_the_thread_has_ended(monkeypatch):
    stop, ended = threading.Event(), []

    def work():
        stop.wait(10)
        ended.append(True)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        builder._interruptible(work, stop)
    assert ended == [True]


def test_an_error_of_the_compiler_reaches_the_caller():
    def work():
        raise ExportFailed("as it is")

    with pytest.raises(ExportFailed, match="as it is"):
        builder._interruptible(work, threading.Event())


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "segfast.export", *map(str, arguments)], env=environment, text=True, **options
    )


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """An `.onnx` file that takes seconds to compile."""
    path = tmp_path_factory.mktemp("slow") / "seg-ti-32-512-fp16.onnx"
    content, config = traced("seg-ti-32", "logits")
    proto = onnx.load_from_string(content)
    entry = proto.metadata_props.add()
    entry.key, entry.value = "segfast", config.to_json(size=(512, 512), precision="fp16", output="logits")
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(slow, tmp_path, number):
    arguments = ("--onnx", slow, "--engine", "rtx", "--target", "sm89", "--out", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    code, words = interrupted(
        [sys.executable, "-m", "segfast.export", *arguments], "building engine", number, env=environment
    )
    assert code == 130, words
    assert "interrupted" in words
    assert not list(tmp_path.iterdir())


def test_two_processes_build_one_engine_once(slow, tmp_path):
    arguments = ("--onnx", slow, "--engine", "rtx", "--target", "sm89", "--out", tmp_path)
    pair = [command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    ended = [process.communicate(timeout=180) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ended
    assert sorted(("is up to date" in out, "wrote" in out) for out, _ in ended) == [(False, True), (True, False)]
    waited = next(errors for out, errors in ended if "is up to date" in out)
    assert "another process builds" in waited
    read_plan(tmp_path / "seg-ti-32-512-fp16-rtx.engine").read()
