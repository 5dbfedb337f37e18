"""A model repository for NVIDIA's Triton server: its configuration as the published protobuf reads it, its Python as run here."""

import importlib.util
import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_commands import run

from segfast import Engine
from segfast.export import export_triton


@pytest.fixture
def repository(tmp_path, tiny_onnx):
    export_triton(tiny_onnx, tmp_path / "models")
    return tmp_path / "models"


def config(path):
    """A configuration, by NVIDIA's own protobuf."""
    grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(path.read_text(), grpc.model_config_pb2.ModelConfig())


def test_the_repository_is_laid_out_as_triton_wants(repository, tiny_onnx):
    assert {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()} == {
        "tiny/1/model.onnx", "tiny/1/model.py", "tiny/config.pbtxt", "tiny/labels.txt",
        "tiny-windows/1/model.onnx", "tiny-windows/config.pbtxt", "tiny-windows/labels.txt",
    }  # fmt: skip
    assert (repository / "tiny" / "1" / "model.onnx").read_bytes() == tiny_onnx.read_bytes()
    assert (repository / "tiny" / "labels.txt").read_text().splitlines() == [f"thing {i}" for i in range(7)]


def test_windows_are_what_the_network_takes_and_gives(repository):
    onnxruntime = pytest.importorskip("onnxruntime")
    found = config(repository / "tiny-windows" / "config.pbtxt")
    assert (found.name, found.backend) == ("tiny-windows", "onnxruntime")
    assert found.HasField("dynamic_batching")
    assert [warm.batch_size for warm in found.model_warmup] == [1, found.max_batch_size]
    assert len(found.instance_group) == 1
    network = onnxruntime.InferenceSession(repository / "tiny-windows" / "1" / "model.onnx")
    for ours, theirs in ((found.input, network.get_inputs()), (found.output, network.get_outputs())):
        assert [(one.name, list(one.dims)) for one in ours] == [(one.name, one.shape[1:]) for one in theirs]
    kinds = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
    for ours, theirs in ((found.input, network.get_inputs()), (found.output, network.get_outputs())):
        kind = ours[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[ours[0].data_type].name
        assert kind == kinds[theirs[0].type]


def test_labels_files_give_labels(tmp_path, tiny_labels_onnx):
    export_triton(tiny_labels_onnx, tmp_path)
    (output,) = config(tmp_path / "labels-windows" / "config.pbtxt").output
    assert (output.name, list(output.dims)) == ("labels", [64, 64])


class Tensor:
    """As of the server's `triton_python_backend_utils`."""

    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


@pytest.fixture
def backend(repository, monkeypatch):
    """The model of the Python backend, as the server sets it up, with a stand-in of the server's module."""
    utils = SimpleNamespace(
        Tensor=Tensor,
        TritonError=str,
        InferenceResponse=lambda tensors, error=None: SimpleNamespace(tensors=tensors, error=error),
        get_input_tensor_by_name=lambda request, name: request[name],
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    spec = importlib.util.spec_from_file_location("model", repository / "tiny" / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_instance_kind": "CPU", "model_instance_device_id": "0"})
    return model


def request(*pictures):
    return {"picture": Tensor("picture", np.array([pictures], object))}


def test_pictures_of_any_size_and_bad_ones(backend, repository, tiny_onnx, photo, tmp_path, monkeypatch):
    files = []
    for picture in (photo, photo[:40], photo[::-1, 10:]):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="PNG")
        files.append(file.getvalue())
    (tmp_path / "secret.png").write_bytes(files[0])
    monkeypatch.chdir(tmp_path)
    responses = backend.execute([
        request(files[0]), request(b"secret.png"), request(files[1], files[2]), request(files[2]), request(files[1]),
    ])  # fmt: skip
    errors = [response.error for response in responses]
    assert [error is None for error in errors] == [True, False, False, True, True]
    assert "is no picture" in errors[1]  # and never the file of that name
    assert "has 2" in errors[2]
    (declared,) = config(repository / "tiny" / "config.pbtxt").output
    assert (declared.name, list(declared.dims)) == ("labels", [-1, -1])
    engine = Engine(tiny_onnx, device="cpu")
    for index, file in ((0, files[0]), (3, files[2]), (4, files[1])):
        (tensor,) = responses[index].tensors
        expected = engine.segment(io.BytesIO(file)).labels
        assert tensor.name() == "labels"
        assert tensor.as_numpy().dtype == np.uint8
        np.testing.assert_array_equal(tensor.as_numpy(), expected[None])


def test_the_command_writes_it(tmp_path, tiny_onnx):
    ended = run("segfast.export", "--onnx", tiny_onnx, "--triton", "models", cwd=tmp_path)
    assert "wrote models: tiny for pictures of any size, tiny-windows for windows" in ended.stdout
    assert (tmp_path / "models" / "tiny" / "config.pbtxt").is_file()
    ended = run("segfast.export", "--onnx", tiny_onnx, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert "--triton" in ended.stderr
