"""Small pictures, no two alike, and a model without meaning that tells them apart."""

import io
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(number, size=(60, 80), kind="PNG"):
    """The file of a picture that encodes its number: a seed of its blobs."""
    small = np.random.default_rng(number).integers(0, 256, (7, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(file, format=kind, quality=90)
    return file.getvalue()


def tiny_model(folder):
    """A tiny exported model, fp32, 64-pixel windows: the tests' own."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from helpers import tiny_model

    from segfast.export import export_onnx

    path = Path(folder) / "tiny.onnx"
    export_onnx(tiny_model(), path, precision="fp32")
    return path


def load():
    """How busy this machine was within the last minute: 2 is all of two cores."""
    return f"load {os.getloadavg()[0]:.1f}"
