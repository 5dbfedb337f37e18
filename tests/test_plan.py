"""Engine files and their sidecars: everything that can be known without a GPU is refused before a deserialiser runs."""

import hashlib
import json
import shlex
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny_config

import segfast
from segfast import formats
from segfast.artifacts import sidecar
from segfast.artifacts.golden import Golden
from segfast.artifacts.onnx import Artifact
from segfast.artifacts.plan import Nodes, Options, Plan, sidecar_path
from segfast.artifacts.sidecar import mark, publish, read_plan
from segfast.dependencies import tensorrt as trt
from segfast.errors import BadModel, BadOption, EngineMismatch, MissingRuntime
from segfast.machine import devices

CONTENT = np.random.default_rng(0).bytes(20_000)


def made(path, output="logits", **changes):
    """A Plan of the tiny model's shape; its content is noise, which no deserialiser must see."""
    shape = (1, 7, 4, 4) if output == "logits" else (1, 64, 64)
    answer = np.random.default_rng(1).integers(0, 7, shape)
    values = {
        "artifact": Artifact(path, tiny_config(), (64, 64), "fp16", output),
        "options": Options("rtx", ("sm89", "sm120")),
        "version": "1.7.1.116",
        "device": None,
        "driver": None,
        "digest": hashlib.sha256(CONTENT).hexdigest(),
        "onnx": "tiny.onnx",
        "onnx_digest": "0" * 64,
        "nodes": Nodes(("softmax", "softmax_1"), ("matmul",)),
        "golden": Golden.of(output, answer.astype(np.float16 if output == "logits" else np.uint8)),
        "verified": False,
    }
    return Plan(**(values | changes))


def write(plan, content):
    with publish(plan.path) as writer:
        writer(plan, content)


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "tiny-rtx.engine"
    write(made(path), CONTENT)
    return path


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """Whoever asks for a compiler's module here, of which the deserialiser is a part, has checked too late."""

    def load(compiler):
        raise AssertionError("a compiler was loaded")

    monkeypatch.setattr(trt, "load", load)


def test_marking_changes_nothing_else(engine):
    before = read_plan(engine)
    mark(before)
    same(read_plan(engine), replace(before, verified=True))
    assert engine.read_bytes() == CONTENT


def test_a_plan_that_took_anothers_place_is_not_marked(engine):
    before, newer = read_plan(engine), CONTENT + b"newer"
    write(made(engine, digest=hashlib.sha256(newer).hexdigest()), newer)
    mark(before)
    after = read_plan(engine)
    assert after.read() == newer
    assert not after.verified


def same(a, b):
    np.testing.assert_array_equal(a.golden.values, b.golden.values)
    assert a.golden.values.dtype == b.golden.values.dtype
    assert replace(a, golden=b.golden) == b


@pytest.mark.parametrize("output", ["logits", "labels"])
def test_a_sidecar_says_all_of_it(tmp_path, output):
    options = Options("tensorrt", ("sm90",), (1, 4, 32), 2048, 5, "same", True)
    given = made(tmp_path / "x.engine", output, options=options, device="H100", driver="580.65", verified=True)
    write(given, CONTENT)
    same(read_plan(given.path), given)
    assert given.path.read_bytes() == CONTENT  # a pure plan
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.engine", "x.engine.json"]
    values = json.loads(sidecar_path(given.path).read_text())
    assert values["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert values["model"]["classes"][0] == "thing 0"
    assert values["verified"] is True


def refused(path, kind=BadModel, words="segfast.export --onnx"):
    with pytest.raises(kind, match=words) as caught:
        segfast.Engine(path, device="cuda")
    assert "python -m segfast.export --onnx" in str(caught.value)
    with pytest.raises(kind):
        segfast.Engine(path, device="cuda", trusted=True)  # vouching is for files without a sidecar


@pytest.mark.parametrize("what", ["plan", "sidecar"])
def test_truncation_at_100_offsets(engine, what):
    path = engine if what == "plan" else sidecar_path(engine)
    whole = path.read_bytes()
    for offset in np.linspace(0, len(whole) - 1, 100).astype(int):
        path.write_bytes(whole[:offset])
        refused(engine, EngineMismatch if what == "plan" else BadModel)


@pytest.mark.parametrize("what", ["plan", "sidecar"])
def test_one_flipped_byte_at_100_places(engine, what):
    path = engine if what == "plan" else sidecar_path(engine)
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 100).astype(int):
        for bits in (0xFF, 0x01):
            changed = bytearray(whole)
            changed[place] ^= bits
            path.write_bytes(changed)
            refused(engine, EngineMismatch if what == "plan" else BadModel)


def test_more_bytes_than_there_should_be(engine):
    engine.write_bytes(CONTENT + b"\0")
    refused(engine, EngineMismatch, "damaged or was exchanged")


def test_another_engine_under_the_same_name(engine, tmp_path):
    other = tmp_path / "other.engine"
    content = CONTENT[::-1]
    write(made(other, digest=hashlib.sha256(content).hexdigest()), content)
    shutil.copy(other, engine)
    refused(engine, EngineMismatch, "damaged or was exchanged")


def test_a_missing_plan(engine):
    engine.unlink()
    refused(engine, words="there is no file")


def test_a_missing_sidecar_needs_trust(engine):
    sidecar_path(engine).unlink()
    with pytest.raises(BadModel, match=r"has no tiny-rtx.engine.json beside it.*trusted=True only if you vouch for it"):
        segfast.Engine(engine, device="cuda")
    assert read_plan(engine, trusted=True) is None


def test_a_folder_is_no_engine(tmp_path):
    (tmp_path / "x.engine").mkdir()
    refused(tmp_path / "x.engine", words="there is no file")


def edited(engine, change):
    """The sidecar after an edit by hand, sealed anew where the edit is about its content."""
    values = json.loads(sidecar_path(engine).read_text())
    change(values)
    seal = values.pop("seal")
    values["seal"] = sidecar._seal(values) if seal is not None else "0" * 64
    sidecar_path(engine).write_text(sidecar._dump(values))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(seal=None),
        lambda v: v.pop("model"),
        lambda v: v.update(model=7),
        lambda v: v["model"].update(num_classes=8),
        lambda v: v["model"].pop("size"),
        lambda v: v.update(options={}),
        lambda v: v["options"].update(batch=[1, 2]),
        lambda v: v["options"].update(batch=[3, 2, 1]),
        lambda v: v["options"].update(level="5"),
        lambda v: v["probe"].update(shape=[7, 10**9]),
        lambda v: v["probe"].update(values="!"),
        lambda v: v["probe"].update(dtype="object"),
        lambda v: v.update(onnx=None),
        lambda v: v.update(format="1"),
        lambda v: v.update(format=True),
    ],
)
def test_sidecars_that_were_never_ours(engine, change):
    edited(engine, change)
    refused(engine, words="damaged")


def test_a_whole_sidecar_of_unknown_options_is_not_called_damaged(engine):
    edited(engine, lambda values: values["options"].update(more=1))
    with pytest.raises(BadModel, match=r"has options\.more, which this segfast does not know.*newer segfast"):
        segfast.Engine(engine, device="cuda")


def test_a_newer_format_asks_for_an_upgrade(engine):
    newest = formats.newest(formats.sidecar())
    edited(engine, lambda values: values.update(format=newest + 1))
    with pytest.raises(BadModel, match=f"reads up to {newest}: open it with a newer segfast"):
        segfast.Engine(engine, device="cuda")


def test_a_name_in_the_sidecar_cannot_point_elsewhere(engine):
    edited(engine, lambda values: values["onnx"].update(name="../../etc/passwd"))
    assert read_plan(engine).onnx == "passwd"


def test_a_sidecar_may_hold_no_bomb(engine):
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(bytes(50_000_000))).decode()
    edited(engine, lambda values: values["probe"].update(values=bomb))
    refused(engine, words="damaged")


TENSORRT = Options("tensorrt", ("sm89",))


@pytest.mark.parametrize(
    ("options", "built", "here", "capability", "fits"),
    [
        (Options("rtx", ("sm89", "sm120")), "1.7.1.116", "1.7.1.116", "sm120", True),
        (Options("rtx", ("sm89", "sm120")), "1.7.1.116", "1.7.1.116", "sm86", False),
        (Options("rtx", ("sm89", "sm120")), "1.7.1.116", "1.7.1.117", "sm120", False),
        (TENSORRT, "11.4.0.1", "11.4.0.1", "sm89", True),
        (TENSORRT, "11.4.0.1", "11.4.0.1", "sm90", False),
        (TENSORRT, "11.4.0.1", "11.5.0.1", "sm89", False),
        (replace(TENSORRT, hardware="same"), "11.4.0.1", "11.4.0.1", "sm89", True),
        (replace(TENSORRT, hardware="same"), "11.4.0.1", "11.4.0.1", "sm90", False),
        (replace(TENSORRT, hardware="ampere+"), "11.4.0.1", "11.4.0.1", "sm120", True),
        (replace(TENSORRT, hardware="ampere+"), "11.4.0.1", "11.4.0.1", "sm75", False),
        (replace(TENSORRT, version_compatible=True), "10.12.0", "10.14.1", "sm89", True),
        (replace(TENSORRT, version_compatible=True), "10.14.1", "10.12.0", "sm89", False),
        (replace(TENSORRT, version_compatible=True), "10.12.0", "11.4.0", "sm89", False),
    ],
)
def test_versions_and_gpus_that_fit(tmp_path, options, built, here, capability, fits):
    given = made(tmp_path / "x.engine", options=options, version=built)
    if fits:
        given.check_host(here, capability)
        return
    with pytest.raises(EngineMismatch, match=r"build it again: python -m segfast\.export --onnx") as caught:
        given.check_host(here, capability)
    assert (here if here != built else capability) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        Options("rtx", ("sm89", "sm120")),
        Options("tensorrt", ("sm89",), (2, 4, 16), 512, 5, "ampere+", True),
        Options("tensorrt", ("sm89",)),
    ],
)
def test_the_command_in_the_message_builds_the_same(tmp_path, monkeypatch, options):
    from segfast.export import __main__ as command

    given = made(tmp_path / "a folder" / "x.engine", options=options)
    words = shlex.split(given.rebuild("sm120"))
    assert words[:3] == ["python", "-m", "segfast.export"]
    monkeypatch.setattr(sys, "argv", words[2:])
    parsed = command._parse()
    assert parsed.onnx == str(tmp_path / "a folder" / "tiny.onnx")
    assert parsed.out == str(tmp_path / "a folder")
    assert parsed.engine == options.compiler
    assert parsed.target == ("sm89,sm120" if options.compiler == "rtx" else None)
    for name in ("batch", "workspace", "level", "hardware", "version_compatible"):
        assert getattr(parsed, name) == getattr(options, name)


@pytest.mark.skipif(devices.nvidia_gpus() > 0, reason="there is a GPU")
def test_a_whole_engine_without_a_gpu(engine):
    for device in (None, "cpu", "cuda"):
        with pytest.raises(MissingRuntime, match=r"NVIDIA GPU.*\.onnx file|no NVIDIA driver"):
            segfast.Engine(engine, device=device)


def test_choices_that_an_engine_file_has_made(engine):
    for choice in ({"runtime": "onnxruntime"}, {"precision": "fp16"}, {"attention": "sdpa"}):
        with pytest.raises(BadOption, match=next(iter(choice))):
            segfast.Engine(engine, **choice)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": (0, 1, 8)}, "three rising numbers"),
        ({"batch": (1, 9, 8)}, "three rising numbers"),
        ({"batch": (1, 8)}, "three rising numbers"),
        ({"batch": (1, 1.0, 8)}, "three rising numbers"),
        ({"workspace": 0}, "number of MiB"),
        ({"level": 6}, "from 0 to 5"),
        ({"level": True}, "from 0 to 5"),
        ({"hardware": "any"}, "none, same, ampere+"),
        ({"compiler": "rtx", "hardware": "same"}, "targets in place of"),
        ({"compiler": "rtx", "version_compatible": True}, "targets in place of"),
    ],
)
def test_impossible_options(change, words):
    with pytest.raises(BadOption, match=words.replace("+", r"\+")):
        replace(TENSORRT, **change).check()
