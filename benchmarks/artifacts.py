"""Files that columns run: made once, and kept between runs in a folder if one is named."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import segfast
from segfast.dependencies.packages import version

REPOSITORY = Path(__file__).parent.parent
# What a file depends on besides its name: what writes it, and with what.
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt")
SOURCES = ("segfast", "kernels", "export", "benchmarks/columns.py")


class Artifacts:
    """Files by name below a folder; those of other versions of the code are passed over."""

    def __init__(self, folder: Path):
        self.root = folder.resolve()
        self.folder = self.root / digest()

    def __call__(self, name: str, write: Callable[[Path], object]) -> Path:
        """The file, which `write` makes at the path it is given, with whatever belongs beside it."""
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
                write(Path(temporary) / name)
                for made in sorted(Path(temporary).iterdir(), key=lambda one: one.name == name):
                    made.replace(self.folder / made.name)  # the file itself last
        return path

    def clear(self) -> None:
        """Remove them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def digest() -> str:
    """Of the code that writes the files, of the versions it uses, and of the GPU, whose engines fit no other."""
    versions = [segfast.__version__, *(version(package) for package in PACKAGES)]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found = hashlib.sha256(repr((versions, gpu)).encode())
    for source in SOURCES:
        path = REPOSITORY / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()[:12]
