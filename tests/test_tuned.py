"""The record beside a file: what it may choose, and when it is ignored."""

import json

import pytest

import segfast
from segfast.artifacts import tuned
from segfast.artifacts.onnx import read_artifact
from segfast.artifacts.tuned import Tuned
from segfast.errors import MissingRuntime
from segfast.runtimes import select


@pytest.fixture
def own(tmp_path, tiny_onnx):
    path = tmp_path / "own.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    return path


def record(path, runtime="onnxruntime", threads=1):
    return tuned.write(read_artifact(path), Tuned(runtime, threads, 12.5))


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_it_chooses_runtime_and_threads(own, photo):
    plain = segfast.Engine(own, device="cpu")
    record(own)
    engine = segfast.Engine(own, device="cpu")
    assert engine.runtime.startswith("ONNX Runtime")
    assert engine._threads == 1
    assert "as tuned here: onnxruntime, threads=1" in repr(engine)
    assert (engine.segment(photo).labels == plain.segment(photo).labels).mean() > 0.99


def test_what_the_user_says_counts(own):
    record(own)
    assert segfast.Engine(own, device="cpu", runtime="openvino").runtime.startswith("OpenVINO")
    engine = segfast.Engine(own, device="cpu", threads=2)
    assert engine.runtime.startswith("OpenVINO")
    assert "tuned" not in repr(engine)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"machine": {"cpu": "another"}}, "another machine"),
        ({"file": "0" * 64}, "another file"),
        ({"runtime": "tensorrt"}, "damaged"),
        ({"threads": 0}, "damaged"),
        ({"threads": "2"}, "damaged"),
        ({"images_per_second": None}, "damaged"),
        ({"format": 2}, "damaged"),
    ],
)
def test_one_that_does_not_count_is_ignored_with_a_note(own, values, said):
    change(record(own), **values)
    engine = segfast.Engine(own, device="cpu")
    assert engine.runtime.startswith("OpenVINO")
    assert said in repr(engine)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60000])
def test_a_damaged_one_is_ignored_with_a_note(own, content):
    tuned.record_path(own).write_bytes(content)
    assert "damaged" in repr(segfast.Engine(own, device="cpu"))


def test_it_chooses_neither_precision_nor_anything_else(own):
    change(record(own), precision="fp16", merge={"fraction": 0.5, "block": 1}, device="cuda")
    engine = segfast.Engine(own, device="cpu")
    assert engine.runtime == "ONNX Runtime on cpu in fp32"
    assert engine.config.merge is None


def test_a_runtime_that_is_missing_or_broken_is_not_followed(own, monkeypatch):
    record(own)
    true = select._start

    def broken(runtime, *arguments):
        if runtime == "onnxruntime":
            raise MissingRuntime("ONNX Runtime is broken; pip install it")
        return true(runtime, *arguments)

    monkeypatch.setattr(select, "_start", broken)
    engine = segfast.Engine(own, device="cpu")
    assert engine.runtime.startswith("OpenVINO")
    assert "not as tuned here" in repr(engine)


def test_none_is_nothing_to_speak_of(own):
    assert "tuned" not in repr(segfast.Engine(own, device="cpu"))


def test_it_holds_what_was_written(own):
    path = record(own, "openvino", None)
    assert path.name == "own.onnx.tuned.json"
    assert tuned.read(read_artifact(own)).tuned == Tuned("openvino", None, 12.5)
    assert "/" not in json.loads(path.read_text())["file"], "no path of the machine is in it"
