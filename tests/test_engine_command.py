"""The export's command line where it is about engines, as a new user would type it."""

import argparse
import subprocess

import pytest
from helpers import REPOSITORY
from test_tensorrt_build import NO_GPU, command, rtx

from segfast.artifacts.plan import Options, sidecar_path
from segfast.dependencies import tensorrt as trt
from segfast.errors import MissingRuntime
from segfast.export import engine_command, engine_file, targets
from segfast.machine import devices, nvidia

DEFAULTS = {"batch": (1, 1, 8), "workspace": None, "level": 3, "hardware": "none", "version_compatible": False}


def said(folder, *arguments, code=0):
    process = command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
    out, errors = process.communicate(timeout=180)
    assert process.returncode == code, errors
    return out + errors


@NO_GPU
def test_by_default_a_host_without_a_gpu_writes_the_onnx_and_says_so(tmp_path):
    words = said(tmp_path, "--model", "seg-ti-32", "--size", 64, "--fp16")
    assert "no engine was built: there is no NVIDIA GPU here; --engine rtx --target sm89" in words
    assert [path.name for path in tmp_path.iterdir()] == ["seg-ti-32-64-fp16.onnx"]


def test_one_command_from_a_name_to_an_rtx_engine(tmp_path):
    words = said(tmp_path, "--model", "seg-ti-32", "--size", 64, "--fp16", "--engine", "rtx", "--target", "sm89,sm120")
    assert "wrote seg-ti-32-64-fp16-rtx.engine" in words
    names = ["seg-ti-32-64-fp16-rtx.engine", "seg-ti-32-64-fp16-rtx.engine.json", "seg-ti-32-64-fp16.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert said(tmp_path, "--onnx", names[2], "--engine", "rtx", "--target", "sm120,sm89").startswith(
        f"{names[0]} is up to date"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "rtx", "--target", "sm90"), "no target 'sm90'"),
        (("--engine", "rtx", "--target", "sm89", "--fp32"), "no fp32 attention"),
        (("--target", "sm89"), "--target goes with --engine rtx"),
        (("--engine", "none", "--target", "sm89"), "--target goes with --engine rtx"),
        (("--engine", "rtx", "--target", "sm89", "--batch", "1,2"), "three numbers"),
        (("--engine", "rtx", "--target", "sm89", "--batch", "3,2,1"), "three rising numbers"),
        (("--batch", "3,2,1"), "three rising numbers"),
        (("--engine", "rtx", "--target", "sm89", "--size", "8"), "between the patch"),
        (("--onnx", "x.onnx", "--engine", "rtx"), "leave --model out"),
    ],
)
def test_contradictions_are_said_before_any_work(tmp_path, arguments, words):
    assert words in said(tmp_path, "--model", "seg-ti-32", *arguments, code=2)
    assert not list(tmp_path.iterdir())


@NO_GPU
def test_a_demand_is_a_demand(tmp_path):
    words = said(tmp_path, "--model", "seg-ti-32", "--engine", "tensorrt", code=2)
    assert words.startswith("error: TensorRT needs the NVIDIA GPU")
    assert words.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_none_is_no_demand():
    options = argparse.Namespace(engine="none", target=None, **DEFAULTS)
    assert engine_command.choose(options, "fp16") == engine_command.Choice(None, None)


@pytest.mark.parametrize("missing", [None, "TensorRT", "CUDA"])
def test_by_default_a_host_with_a_gpu_builds_for_it_if_all_it_takes_is_there(monkeypatch, missing):
    def load(compiler):
        assert compiler == "tensorrt"
        if missing == "TensorRT":
            raise MissingRuntime("TensorRT is not installed; pip install tensorrt")

    monkeypatch.setattr(devices, "nvidia_gpus", lambda: 1)
    monkeypatch.setattr(trt, "load", load)
    monkeypatch.setattr(nvidia, "capability", lambda device: "sm89")
    monkeypatch.setattr(targets, "has_cuda", lambda: missing != "CUDA")
    options = argparse.Namespace(engine=None, target=None, **DEFAULTS)
    choice = engine_command.choose(options, "fp16")
    assert choice.compiler == ("tensorrt" if missing is None else None)
    assert choice.why is None if missing is None else f"{missing}" in choice.why and "pip install" in choice.why
    assert "--engine tensorrt builds it" in engine_command.choose(options, "fp32").why


@pytest.mark.parametrize("cuda", [True, False])
def test_a_plan_is_tried_only_where_pytorch_can(monkeypatch, tmp_path, cuda):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(devices, "nvidia_gpus", lambda: 1)
    monkeypatch.setattr(nvidia, "capability", lambda device: "sm89")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    job = engine_file._Job(None, b"", tmp_path / "x.engine", Options("rtx", ("sm89",)), "cuda:0")
    assert job.runs_here == cuda


def test_every_target_that_we_name_is_known_to_the_compiler():
    assert {name.lower() for name in rtx.ComputeCapability.__members__} >= set(targets.CARDS)
    assert sidecar_path(REPOSITORY / "x.engine").name == "x.engine.json"
    assert targets.check_targets(" SM120,sm89,sm89") == ("sm89", "sm120")
