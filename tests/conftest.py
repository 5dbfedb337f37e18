"""Shared fixtures: exported files of a small model, and a picture."""

import numpy as np
import pytest
from helpers import tiny_model


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Compiled models of tests stay out of the user's cache directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    tiny_model().save(path)
    return path


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory):
    """An exported tiny model, fp32, logits."""
    from segfast.export import export_onnx

    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export_onnx(tiny_model(), path, precision="fp32")
    return path


@pytest.fixture(scope="session")
def tiny_labels_onnx(tmp_path_factory):
    from segfast.export import export_onnx

    path = tmp_path_factory.mktemp("onnx") / "labels.onnx"
    export_onnx(tiny_model(), path, precision="fp32", output="labels")
    return path


@pytest.fixture
def photo():
    """RGB pixels [60, 90, 3] of smooth colours: a little smaller than the tiny model's window in one direction."""
    y, x = np.mgrid[0:60, 0:90]
    channels = [127 + 120 * np.sin(x / 9 + phase) * np.cos(y / (7 + phase)) for phase in range(3)]
    return np.stack(channels, -1).astype(np.uint8)
