"""What a user can get wrong: a typed error with the remedy, nothing half written, nothing executed."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import onnx
import pytest
import torch
from helpers import REPOSITORY, reference, tiny_model
from PIL import Image

import segfast
from segfast.artifacts.onnx import read_artifact
from segfast.dependencies import installation
from segfast.errors import BadImage, BadModel, BadOption, MissingRuntime, SegfastError, UnknownModel

MARK = "executed"


class Payload:
    """Unpickling it would create the file `executed` in the working directory."""

    def __reduce__(self):
        return (open, (MARK, "w"))


def write(path, content):
    path.write_bytes(content)
    return path


def torch_file(path, content, **options):
    torch.save(content, path, **options)
    return path


def truncated(path, source, share=0.5):
    content = source.read_bytes()
    return write(path, content[: int(len(content) * share)])


def mmseg():
    return reference("mmseg/linear-16") / "checkpoint.pth"


def original(folder, variant=None, state=None):
    """A copy of an original checkpoint, with its variant.yml or state changed."""
    source = reference("official/linear-8")
    content = torch.load(source / "checkpoint.pth", weights_only=True)
    torch.save({**content, "model": state(content["model"]) if state else content["model"]}, folder / "checkpoint.pth")
    text = (source / "variant.yml").read_text()
    if variant is not False:
        (folder / "variant.yml").write_text(variant(text) if variant else text)
    return folder / "checkpoint.pth"


def safetensors(path, change=lambda metadata: metadata, state=lambda state: state):
    """One of our files, its metadata or tensors changed."""
    from safetensors.torch import save_file

    model = tiny_model()
    metadata = change(json.loads(model.config.to_json()))
    save_file(
        state(dict(model.state_dict())),
        path,
        {"segfast": metadata if isinstance(metadata, str) else json.dumps(metadata)},
    )
    return path


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


CHECKPOINTS = {
    "missing": (lambda t: t / "none.pth", "no file"),
    "missing safetensors": (lambda t: t / "none.safetensors", "no file"),
    "folder": (lambda t: t, "folder without a checkpoint.pth"),
    "empty": (lambda t: write(t / "a.pth", b""), "copy or download it again"),
    "text": (lambda t: write(t / "a.pth", b"hello " * 99), "refused|copy or download it again"),
    "truncated pth": (lambda t: truncated(t / "a.pth", mmseg()), "copy or download it again"),
    "truncated safetensors": (
        lambda t: truncated(t / "b.safetensors", safetensors(t / "a.safetensors")),
        "copy or download it again",
    ),
    "empty safetensors": (lambda t: write(t / "a.safetensors", b""), "copy or download it again"),
    "safetensors with a huge header": (
        lambda t: write(t / "a.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
        "copy or download it again",
    ),
    "plain pickle": (lambda t: write(t / "a.pth", pickle.dumps({"state_dict": Payload()})), "refused"),
    "payload": (lambda t: torch_file(t / "a.pth", {"state_dict": Payload()}), "refused: it calls .*open.*strip it"),
    "payload of the old format": (
        lambda t: torch_file(t / "a.pth", {"x": Payload()}, _use_new_zipfile_serialization=False),
        "refused",
    ),
    "payload beside weights": (
        lambda t: torch_file(t / "a.pth", {**torch.load(mmseg(), weights_only=True), "hook": Payload()}),
        "refused",
    ),
    "foreign class": (
        lambda t: torch_file(t / "a.pth", {"model": subprocess.CompletedProcess([], 0)}),
        "CompletedProcess",
    ),
    "a whole module": (lambda t: torch_file(t / "a.pth", torch.nn.Linear(2, 2)), "refused"),
    "list": (lambda t: torch_file(t / "a.pth", [1, 2]), "not a dictionary"),
    "no segmenter": (lambda t: torch_file(t / "a.pth", {"conv.weight": torch.zeros(3)}), "no Segmenter.*conv.weight"),
    "nothing": (lambda t: torch_file(t / "a.pth", {}), "no Segmenter"),
    "no variant.yml": (lambda t: original(t, variant=False), "variant.yml is missing"),
    "garbled variant.yml": (lambda t: original(t, lambda s: "a: [b"), "cannot be read"),
    "empty variant.yml": (lambda t: original(t, lambda s: ""), "holds no settings"),
    "variant.yml without the net": (lambda t: original(t, lambda s: s.replace("net_kwargs", "x")), "net_kwargs"),
    "variant.yml of another decoder": (
        lambda t: original(t, lambda s: s.replace("name: linear", "name: unet")),
        "unet",
    ),
    "variant.yml that calls": (
        lambda t: original(t, lambda s: s + f"evil: !!python/object/apply:builtins.open [{MARK}, w]\n"),
        "cannot be read",
    ),
    "wrong class count": (
        lambda t: original(t, lambda s: s.replace("n_cls: 5", "n_cls: 9")),
        r"does not fit seg-custom-8 with 9 classes: decoder.head.weight is \[5, 64\] instead of \[9, 64\]",
    ),
    "missing tensor": (lambda t: original(t, state=without("encoder.norm.bias")), "encoder.norm.bias is missing"),
    "wrong depth": (
        lambda t: original(t, lambda s: s.replace("n_layers: 2", "n_layers: 3")),
        "encoder.blocks.2.* is missing",
    ),
    "impossible sizes": (lambda t: original(t, lambda s: s.replace("n_heads: 1", "n_heads: 3")), "heads cannot be 3"),
    "mmseg without its head": (
        lambda t: torch_file(
            t / "a.pth",
            {
                "state_dict": {
                    name: value
                    for name, value in torch.load(mmseg(), weights_only=True)["state_dict"].items()
                    if "backbone" in name
                }
            },
        ),
        "no Segmenter of MMSegmentation",
    ),
    "heads that its mask decoder has not": (lambda t: other_heads(t), "n_heads 2, where the mask decoder has 1"),
    "safetensors of others": (lambda t: safetensors_of_others(t / "a.safetensors"), "no segfast metadata"),
    "newer format": (lambda t: safetensors(t / "a.safetensors", lambda m: {**m, "format": 99}), "with a newer segfast"),
    "damaged metadata": (lambda t: safetensors(t / "a.safetensors", lambda m: "{"), "damaged"),
    "metadata is a list": (lambda t: safetensors(t / "a.safetensors", lambda m: []), "damaged"),
    "metadata without sizes": (lambda t: safetensors(t / "a.safetensors", lambda m: {"format": 1}), "damaged"),
    "metadata with impossible sizes": (
        lambda t: safetensors(t / "a.safetensors", lambda m: {**m, "width": -64}),
        "width cannot be -64",
    ),
    "metadata with too few names": (
        lambda t: safetensors(t / "a.safetensors", lambda m: {**m, "classes": ["a"]}),
        "classes cannot be 1 names",
    ),
    "a name that is a path": (
        lambda t: safetensors(t / "a.safetensors", lambda m: {**m, "name": "../outside/evil"}),
        "name cannot be",
    ),
    "a stride over the window": (
        lambda t: original(t, lambda s: s.replace("window_stride: 64", "window_stride: 100")),
        "stride cannot be",
    ),
    "an enormous width": (
        lambda t: original(
            t, lambda s: s.replace("d_model: 64", "d_model: 16384").replace("n_heads: 1", "n_heads: 256")
        ),
        "does not fit",
    ),
    "an enormous class count": (
        lambda t: original(t, lambda s: s.replace("n_cls: 5", "n_cls: 20000000")),
        "n_cls 20000000",
    ),
    "no dataset settings": (lambda t: original(t, lambda s: "dataset_kwargs:\nnet_kwargs:\n"), "lacks or garbles"),
    "a deeply nested variant.yml": (lambda t: original(t, lambda s: "[" * 9000), "cannot be read"),
    "deeply nested metadata": (lambda t: safetensors(t / "a.safetensors", lambda m: "[" * 100_000), "damaged"),
    "a dropout over 1": (
        lambda t: safetensors(t / "a.safetensors", lambda m: {**m, "decoder_dropout": 5}),
        "decoder_dropout cannot be 5",
    ),
    "a word for a number": (
        lambda t: safetensors(t / "a.safetensors", lambda m: {**m, "encoder_eps": "x"}),
        "encoder_eps cannot be x",
    ),
    "an infinite mean": (
        lambda t: safetensors(t / "a.safetensors", protocol("mean", [10**400, 0, 0])),
        "mean cannot be",
    ),
    "a word for a flag": (
        lambda t: safetensors(t / "a.safetensors", protocol("small_windows", "no")),
        "small_windows cannot be no",
    ),
    "numbers for names": (
        lambda t: safetensors(t / "a.safetensors", lambda m: {**m, "classes": list(range(7))}),
        "anything but names",
    ),
    "a vector of positions": (
        lambda t: original(t, state=lambda s: {**s, "encoder.pos_embed": torch.zeros(5)}),
        "no square grid",
    ),
    "a sparse tensor": (
        lambda t: original(t, state=lambda s: {**s, "encoder.norm.bias": torch.zeros(64).to_sparse()}),
        "encoder.norm.bias is missing",
    ),
    "numbers for tensor names": (
        lambda t: torch_file(t / "a.pth", {"state_dict": {1: torch.zeros(2)}}),
        "no Segmenter",
    ),
    "a compressed archive": (lambda t: compressed(t / "a.pth"), "compressed archive"),
    "an exported file": (lambda t: write(t / "a.onnx.pth", b"") and t / "none.onnx", "no file"),
    "safetensors without a tensor": (
        lambda t: safetensors(t / "a.safetensors", state=without("decoder.cls_emb")),
        "decoder.cls_emb is missing",
    ),
}


def other_heads(folder):
    source = reference("official/deit-mask-16")
    text = (source / "variant.yml").read_text()
    assert "n_heads: 1" in text
    (folder / "variant.yml").write_text(text.replace("n_heads: 1", "n_heads: 2"))
    return write(folder / "checkpoint.pth", (source / "checkpoint.pth").read_bytes())


def protocol(name, value):
    return lambda metadata: {**metadata, "protocol": {**metadata["protocol"], name: value}}


def compressed(path):
    import zipfile

    with zipfile.ZipFile(mmseg()) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return path


def safetensors_of_others(path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, path)
    return path


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    make, remedy = CHECKPOINTS[case]
    path = make(tmp_path)
    for use in (segfast.load_model, lambda path: segfast.Engine(path, device="cpu")):
        with pytest.raises(BadModel, match=f"(?s){remedy}"):
            use(path)
    assert not (tmp_path / MARK).exists()


def changed(path, tiny_onnx, change):
    model = onnx.load(tiny_onnx)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def metadata(**changes):
    def change(model):
        values = {**json.loads(model.metadata_props[0].value), **changes}
        model.metadata_props[0].value = json.dumps({key: value for key, value in values.items() if value is not None})

    return change


ARTIFACTS = {
    "metadata of other classes": (
        lambda t, o: changed(t / "a.onnx", o, metadata(num_classes=3, classes=["a"] * 3, palette=[[0, 0, 0]] * 3)),
        "its metadata says",
    ),
    "metadata of another output": (
        lambda t, o: changed(t / "a.onnx", o, metadata(output="labels")),
        "its metadata says",
    ),
    "metadata of another size": (
        lambda t, o: changed(
            t / "a.onnx",
            o,
            metadata(
                size=[128, 128],
                protocol={"mean": [0.5] * 3, "std": [0.5] * 3, "window": [128, 128], "stride": [64, 64]},
            ),
        ),
        "its metadata says",
    ),
    "missing": (lambda t, o: t / "none.onnx", "no file"),
    "empty": (lambda t, o: write(t / "a.onnx", b""), "export or copy it again"),
    "text": (lambda t, o: write(t / "a.onnx", b"hello " * 99), "export or copy it again"),
    "truncated": (lambda t, o: truncated(t / "a.onnx", o), "export or copy it again"),
    "a folder": (lambda t, o: (t / "a.onnx").mkdir() or t / "a.onnx", "export or copy it again"),
    "a picture": (lambda t, o: write(t / "a.onnx", b"\x89PNG\r\n\x1a\n" + bytes(99)), "export or copy it again"),
    "without our metadata": (
        lambda t, o: changed(t / "a.onnx", o, lambda m: m.ClearField("metadata_props")),
        "was not exported by segfast",
    ),
    "newer format": (lambda t, o: changed(t / "a.onnx", o, metadata(format=99)), "with a newer segfast"),
    "damaged metadata": (lambda t, o: changed(t / "a.onnx", o, metadata(protocol=3)), "damaged"),
    "no size": (lambda t, o: changed(t / "a.onnx", o, metadata(size=None)), "damaged"),
    "unknown output": (lambda t, o: changed(t / "a.onnx", o, metadata(output="boxes")), "damaged"),
    "no graph": (lambda t, o: changed(t / "a.onnx", o, lambda m: m.ClearField("graph")), "export it again"),
    "nodes missing": (lambda t, o: changed(t / "a.onnx", o, lambda m: m.graph.node.pop(3)), "export it again"),
}


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("case", ARTIFACTS)
def test_artifacts(tmp_path, tiny_onnx, case, runtime):
    make, remedy = ARTIFACTS[case]
    with pytest.raises(BadModel, match=remedy):
        segfast.Engine(make(tmp_path, tiny_onnx), runtime=runtime, device="cpu")


def test_mutated_artifacts_never_crash_the_reader(tmp_path, tiny_onnx):
    content, random = tiny_onnx.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        mutated = bytearray(content)
        for at in random.integers(0, len(content), 8):
            mutated[at] = random.integers(256)
        mutated[random.integers(64)] = random.integers(256)
        path = write(tmp_path / "m.onnx", bytes(mutated))
        try:
            read_artifact(path)
        except BadModel:
            refused += 1
    assert refused > 20


IMAGES = {
    "missing": (lambda t: t / "none.jpg", "no file"),
    "folder": (lambda t: t, "is a folder"),
    "empty": (lambda t: write(t / "a.jpg", b""), "is empty"),
    "text named as a picture": (lambda t: write(t / "a.jpg", b"hello " * 99), "convert it to PNG or JPEG"),
    "truncated": (lambda t: truncated(t / "a.jpg", REPOSITORY / "examples" / "cat.jpg"), "copy or download it again"),
    "no pixels": (lambda t: Image.new("RGB", (0, 5)), "no pixels"),
    "too many pixels": (lambda t: Image.new("1", (9000, 9000)).save(t / "a.png") or t / "a.png", "64 megapixels"),
    "too many pixels in a header alone": (lambda t: write(t / "a.bmp", bytes_of_a_huge_bmp()), "64 megapixels"),
    "none": (lambda t: None, "pass a path, a PIL image or a uint8 array"),
    "number": (lambda t: 5, "pass a path"),
    "list": (lambda t: [[1, 2], [3, 4]], "pass a path"),
    "floats": (lambda t: np.zeros((4, 4, 3), np.float32), r"\(image \* 255\)"),
    "nan": (lambda t: np.full((4, 4, 3), np.nan), "must be uint8"),
    "tensor of floats": (lambda t: torch.zeros(4, 4, 3), "must be uint8"),
    "channels first": (lambda t: torch.zeros(3, 4, 4, dtype=torch.uint8), r"permute it with \(1, 2, 0\)"),
    "grey array": (lambda t: np.zeros((4, 4), np.uint8), r"\[H, W, 3\], not \[4, 4\]"),
    "batch": (lambda t: np.zeros((1, 4, 4, 3), np.uint8), "without a batch axis"),
    "four channels": (lambda t: np.zeros((4, 4, 4), np.uint8), r"\[H, W, 3\]"),
    "array without pixels": (lambda t: np.zeros((0, 4, 3), np.uint8), "no pixels"),
    "signed": (lambda t: np.zeros((4, 4, 3), np.int8), "not int8"),
    "objects": (lambda t: np.full((4, 4, 3), None), "must be uint8"),
}


def bytes_of_a_huge_bmp():
    header = struct.pack("<IiiHHIIiiII", 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


@pytest.mark.parametrize("case", IMAGES)
def test_images(tmp_path, tiny_onnx, case):
    make, remedy = IMAGES[case]
    with pytest.raises(BadImage, match=remedy):
        segfast.Engine(tiny_onnx, device="cpu").segment(make(tmp_path))


CALLS = {
    "unknown model": (lambda: segfast.create_model("seg-x-mask-16"), UnknownModel, "did you mean"),
    "nothing like a model": (lambda: segfast.create_model("resnet50"), UnknownModel, "seg-b-mask-16"),
    "not a name": (lambda: segfast.create_model(16), UnknownModel, "no model is named 16"),
    "no classes": (lambda: segfast.create_model("seg-ti-16", num_classes=0), BadOption, "num_classes"),
    "half a class": (lambda: segfast.create_model("seg-ti-16", num_classes=2.5), BadOption, "num_classes"),
    "tiny image size": (lambda: segfast.create_model("seg-ti-16", image_size=8), BadOption, "image_size"),
    "three sides": (lambda: segfast.create_model("seg-ti-16", image_size=(1, 2, 3)), BadOption, "image_size"),
    "missing encoder file": (
        lambda: segfast.create_model("seg-ti-16", pretrained="none.npz"), BadModel, "no file none.npz"),
    "missing encoder checkpoint": (
        lambda: segfast.create_model("seg-ti-16", pretrained="none.pth"), BadModel, "no file none.pth"),
    "unknown weights": (lambda: segfast.load_model("seg-b-mask-16@mars"), UnknownModel, "seg-b-mask-16@ade20k"),
    "a list for a name": (lambda: segfast.create_model(["seg-ti-16"]), UnknownModel, "no model is named"),
    "a number for weights": (lambda: segfast.create_model("seg-ti-16", pretrained=5), BadOption, "pretrained must be"),
    "no checkpoint": (lambda: segfast.load_model(None), BadModel, "a path or a published name"),
    "a path with an at sign": (lambda: segfast.load_model("runs/exp@3/a.pth"), BadModel, "no file runs/exp@3/a.pth"),
    "no engine": (lambda: segfast.Engine(5), BadModel, "takes a path"),
    "engine of an unknown file": (lambda: segfast.Engine("photo.jpg"), BadModel, "no file photo.jpg"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_calls(case):
    call, error, remedy = CALLS[case]
    with pytest.raises(error, match=remedy):
        call()


def test_a_corrupt_npz_is_refused(tmp_path):
    for name, content in (("a.npz", b""), ("b.npz", b"PK\x03\x04" + bytes(50)), ("c.npz", pickle.dumps(Payload()))):
        with pytest.raises(BadModel, match="download it again"):
            segfast.create_model("seg-ti-16", pretrained=write(tmp_path / name, content))


COMMANDS = {
    "unknown model": (["segfast.export", "--model", "seg-b-mask-17"], "did you mean seg-b-mask-16"),
    "nothing": (["segfast.export"], "--model"),
    "unknown option": (["segfast.export", "--model", "seg-ti-16", "--int4"], "--int4"),
    "size": (["segfast.export", "--model", "seg-ti-16", "--size", "big"], "512x1024"),
    "small size": (["segfast.export", "--model", "seg-ti-16", "--size", "4"], "between the patch"),
    "classes": (["segfast.export", "--model", "seg-ti-16", "--classes", "none.txt"], "one name a line"),
    "both precisions": (["segfast.export", "--model", "seg-ti-16", "--fp16", "--fp32"], "not allowed"),
    "opset": (["segfast.export", "--model", "seg-ti-16", "--size", "64", "--opset", "9"], "18 to 22"),
    "weights": (["segfast.export", "--weights", "none.pth"], "no file none.pth"),
    "engine": (["segfast.segment", "none.onnx", "a.jpg", "-o", "out"], "no file none.onnx"),
    "unknown command": (["segfast", "exprot"], "did you mean export"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(tmp_path, case):
    arguments, remedy = COMMANDS[case]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert remedy in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())


NEEDS = {
    "create_model": ("torch", lambda: segfast.create_model("seg-ti-16")),
    "load_model": ("yaml", lambda: segfast.load_model(mmseg())),
    "a published name": ("filelock", lambda: segfast.load_model("seg-b-mask-16@ade20k")),
    "save": ("safetensors", lambda: tiny_model().save("never.safetensors")),
    "an encoder": ("timm", lambda: segfast.create_model("seg-ti-16", pretrained=True)),
    "export": ("onnxscript", lambda: segfast.export.export_onnx),
}


@pytest.mark.parametrize("case", NEEDS)
def test_missing_libraries_are_said_before_any_work(monkeypatch, case):
    from segfast.dependencies import imports

    module, call = NEEDS[case]
    find = imports.find_spec
    monkeypatch.setattr(imports, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(MissingRuntime, match=re.escape(f"needs {module}; {installation.install('export')}")):
        call()


def test_threads_may_load_at_the_same_time():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(segfast.load_model, [mmseg()] * 12))
    assert len({model.config.num_classes for model in models}) == 1


def test_every_error_is_one_of_ours():
    for name in segfast.errors.__all__:
        assert issubclass(getattr(segfast, name), SegfastError)


def test_ordered_dicts_and_other_plain_values_are_read(tmp_path):
    content = torch.load(mmseg(), weights_only=True)
    content["state_dict"] = OrderedDict(content["state_dict"])
    content["extra"] = {"set": {1, 2}, "size": torch.Size([1]), "dtype": torch.float16, "device": torch.device("cpu")}
    assert segfast.load_model(torch_file(tmp_path / "a.pth", content)).config.num_classes == 5
