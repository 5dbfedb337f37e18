"""The rule of our file formats, held against a reader of its first days."""

import dataclasses
import json
from types import MappingProxyType

import old_reader
import onnx
import pytest
from helpers import tiny_config, tiny_model
from test_plan import made

import segfast
from segfast import formats
from segfast.artifacts import sidecar
from segfast.artifacts.onnx import read_artifact
from segfast.artifacts.plan import Options, sidecar_path
from segfast.artifacts.sidecar import read_plan
from segfast.config import from_json
from segfast.errors import BadModel
from segfast.export import export_onnx

# What the first version wrote of the tiny model; files of plain models never change.
PLAIN = (
    '{"format": 1, "name": "seg-custom-mask-16", "patch": 16, "width": 64, "depth": 2, "heads": 1, "decoder": "mask", '
    '"num_classes": 2, "image_size": [64, 64], "protocol": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], '
    '"window": [64, 64], "stride": [48, 48], "small_windows": false, "crop_padding": true}, "classes": ["thing 0", '
    '"thing 1"], "palette": [[128, 0, 0], [0, 128, 0]], "decoder_depth": 2, "distilled": false, "encoder_eps": 1e-05, '
    '"decoder_eps": 1e-05, "position_mode": "bilinear", "encoder_dropout": 0.0, "decoder_dropout": 0.1, '
    '"drop_path": 0.1, "provenance": {"weights": "a tést"}, "size": [64, 64], "precision": "fp16"}'
)
FIELD = "drop_path"  # of those that are there: it stands for one that format 2 brings


@pytest.fixture
def format_2(monkeypatch):
    """A field that came with format 2; 0.1 is what models are without it."""
    late = MappingProxyType({FIELD: formats.Late(2, 0.1), "protocol.small_windows": formats.Late(3, False)})
    monkeypatch.setattr(formats, "METADATA", late)


def text_of(**changes):
    return tiny_config(num_classes=2, provenance={"weights": "a tést"}, **changes).to_json(
        size=(64, 64), precision="fp16"
    )


def test_plain_models_are_written_as_they_always_were():
    assert text_of() == PLAIN
    assert from_json(PLAIN, "x")[0] == tiny_config(num_classes=2, provenance={"weights": "a tést"})


def test_an_old_reader_reads_plain_files_the_same(tmp_path, tiny_onnx):
    values, more = old_reader.from_json(text_of())
    fields = json.loads(json.dumps(dataclasses.asdict(tiny_config(num_classes=2, provenance={"weights": "a tést"}))))
    del fields["protocol"]["fit"]  # late, and neutral
    assert values == {name: fields[name] for name in old_reader.CONFIG}
    assert more == {"size": [64, 64], "precision": "fp16"}
    metadata = {entry.key: entry.value for entry in onnx.load(tiny_onnx).metadata_props}["segfast"]
    assert old_reader.from_json(metadata)[1]["output"] == "logits"
    assert old_reader.read_sidecar(sidecar.to_text(made(tmp_path / "x.engine")))["format"] == 1


def test_a_field_with_its_neutral_value_is_not_written(format_2):
    values = json.loads(text_of())
    assert values["format"] == 1
    assert FIELD not in values
    assert "small_windows" not in values["protocol"]
    assert from_json(text_of(), "x")[0].drop_path == 0.1


@pytest.mark.parametrize(
    ("changes", "version"), [({FIELD: 0.5}, 2), ({"small": True}, 3), ({FIELD: 0.5, "small": True}, 3)]
)
def test_an_old_reader_refuses_what_it_must_not_overlook(format_2, changes, version):
    protocol = dataclasses.replace(tiny_config().protocol, small_windows=changes.pop("small", False))
    text = text_of(protocol=protocol, **changes)
    assert json.loads(text)["format"] == version
    with pytest.raises(old_reader.Refused, match=f"format {version}"):
        old_reader.from_json(text)
    config = from_json(text, "x")[0]
    assert (config.protocol, config.drop_path) == (protocol, changes.get(FIELD, 0.1))


def test_a_reader_without_the_field_refuses_it_with_the_remedy():
    newest = formats.newest(formats.METADATA)
    words = rf"x has format {newest + 1}; this segfast reads up to {newest}: open it with a newer segfast"
    with pytest.raises(BadModel, match=words):
        from_json(PLAIN.replace('"format": 1', f'"format": {newest + 1}'), "x")


def test_the_size_that_images_are_resized_to_is_format_2():
    protocol = dataclasses.replace(tiny_config().protocol, fit=(256, 64))
    text = text_of(protocol=protocol)
    assert json.loads(text)["format"] == 2
    assert from_json(text, "x")[0].protocol == protocol
    with pytest.raises(old_reader.Refused, match="format 2"):
        old_reader.from_json(text)
    for fit in ([64, 256], [64], [64, 0], "x", 64):
        values = json.loads(text)
        values["protocol"]["fit"] = fit
        with pytest.raises(BadModel, match="fit cannot be"):
            from_json(json.dumps(values), "x")


def test_int8_is_format_2_and_older_readers_are_told_so():
    given = {"size": (64, 64), "output": "logits"}
    text = tiny_config().to_json(precision="int8", **given)
    with pytest.raises(old_reader.Refused, match="format 2"):
        old_reader.from_json(text)
    assert from_json(text, "x")[1]["precision"] == "int8"
    with pytest.raises(BadModel, match="sets precision but has format 1, not 2"):
        from_json(text.replace('"format": 2', '"format": 1'), "x")
    for precision in ("fp16", "fp32"):
        text = tiny_config().to_json(precision=precision, **given)
        assert old_reader.from_json(text)[1]["precision"] == precision


def changed(**more):
    return json.dumps({**json.loads(PLAIN), **more})


@pytest.mark.parametrize("name", ["gamma", "protocol.gamma"])
def test_unknown_fields_are_refused_unless_the_file_says_that_they_may_be_ignored(name):
    values = json.loads(PLAIN)
    section = values["protocol"] if name.startswith("protocol.") else values
    section["gamma"] = 2.2
    with pytest.raises(BadModel, match=rf"x has {name}, which this segfast does not know.*newer segfast"):
        from_json(json.dumps(values), "x")
    values["ignorable"] = [name, "patch"]
    config, more = from_json(json.dumps(values), "x")
    assert config == from_json(PLAIN, "x")[0]
    assert more == {"size": [64, 64], "precision": "fp16"}


def test_a_format_that_is_lower_than_its_fields_is_refused(format_2):
    with pytest.raises(BadModel, match="sets drop_path but has format 1, not 2"):
        from_json(changed(drop_path=0.5), "x")


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_what_is_no_format_is_damage(version):
    with pytest.raises(BadModel, match="damaged"):
        from_json(changed(format=version), "x")


def test_all_three_kinds_of_file_follow_the_rule(format_2, tmp_path):
    model = tiny_model(drop_path=0.5)
    model.save(tmp_path / "m.safetensors")
    export_onnx(model, tmp_path / "m.onnx", precision="fp32")
    assert segfast.load_model(tmp_path / "m.safetensors").config.drop_path == 0.5
    artifact = read_artifact(tmp_path / "m.onnx")
    assert artifact.config.drop_path == 0.5
    text = sidecar.to_text(
        made(tmp_path / "m.engine", artifact=dataclasses.replace(artifact, path=tmp_path / "m.engine"))
    )
    assert json.loads(text)["format"] == 2  # of the model in it
    with pytest.raises(old_reader.Refused, match="format 2"):
        old_reader.read_sidecar(text)
    (tmp_path / "m.engine").write_bytes(b"")
    sidecar_path(tmp_path / "m.engine").write_text(text, encoding="utf-8")
    assert read_plan(tmp_path / "m.engine").artifact.config.drop_path == 0.5


def test_a_late_field_of_the_sidecar_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "SIDECAR", MappingProxyType({"options.level": formats.Late(2, 3)}))
    plain, high = (made(tmp_path / "x.engine", options=Options("rtx", ("sm89",), level=level)) for level in (3, 5))
    assert json.loads(sidecar.to_text(plain))["format"] == 1
    assert "level" not in json.loads(sidecar.to_text(plain))["options"]
    with pytest.raises(old_reader.Refused, match="format 2"):
        old_reader.read_sidecar(sidecar.to_text(high))


def sealed(values):
    values.pop("seal", None)
    return sidecar._dump({**values, "seal": sidecar._seal(values)})


@pytest.mark.parametrize("name", ["gamma", "options.gamma", "nodes.gamma"])
def test_unknown_fields_of_a_sidecar(tmp_path, name):
    path = tmp_path / "x.engine"
    path.write_bytes(b"")
    values = json.loads(sidecar.to_text(made(path)))
    section, _, key = name.rpartition(".")
    (values[section] if section else values)[key] = 1
    sidecar_path(path).write_text(sealed(values), encoding="utf-8")
    with pytest.raises(BadModel, match=f"has {name}, which this segfast does not know.*newer segfast"):
        read_plan(path)
    sidecar_path(path).write_text(sealed({**values, "ignorable": [name]}), encoding="utf-8")
    assert read_plan(path).options == made(path).options
