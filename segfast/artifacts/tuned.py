"""The record beside an `.onnx` file that says how it runs fastest on this machine: `X.onnx.tuned.json`.

It may choose a runtime and a number of threads for who gives none, and nothing that changes what is computed: the
precision and the tokens are the file's. One of another machine, or of another file, chooses nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from segfast import files
from segfast.artifacts.onnx import Artifact
from segfast.kernels.quota import cpus
from segfast.machine import cpu
from segfast.values import is_number, is_whole

FORMAT = 1
RUNTIMES = ("openvino", "onnxruntime")
_LARGEST = 1 << 16
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Tuned:
    """What was found the fastest.

    Attributes:
        runtime: `openvino` or `onnxruntime`.
        threads: as an Engine takes them; None for its default.
        images_per_second: that `segment_many` reached.
    """

    runtime: str
    threads: int | None
    images_per_second: float

    def __str__(self) -> str:
        return f"{self.runtime}, {'all cores' if self.threads is None else f'threads={self.threads}'}"


@dataclass(frozen=True)
class Found:
    """A record that was looked for: what it says, if it counts here, and else why not."""

    tuned: Tuned | None = None
    note: str = ""


def record_path(path: Path) -> Path:
    """Where the record of a file lies."""
    return path.with_name(f"{path.name}.tuned.json")


def write(artifact: Artifact, tuned: Tuned) -> Path:
    """Write the record of a file, atomically, for this machine.

    Raises:
        CannotWrite: the destination is full, read-only or missing.
    """
    path = record_path(artifact.path)
    values = {"format": FORMAT, "file": digest(artifact), "machine": machine(), **asdict(tuned)}
    files.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", path)
    return path


def read(artifact: Artifact) -> Found:
    """What the record of a file chooses here; nothing where there is none, and a note where it does not count."""
    path = record_path(artifact.path)
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST)
    except FileNotFoundError:
        return Found()
    except OSError as error:
        return Found(note=f"{path.name} cannot be read ({error.strerror}) and is ignored")
    try:
        values = json.loads(content.decode())
        tuned = Tuned(values["runtime"], values["threads"], values["images_per_second"])
        _check(values["format"], tuned)
        file_digest, its_machine = values["file"], values["machine"]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return Found(note=f"{path.name} is damaged and ignored; python -m segfast.tune {artifact.path} writes it again")
    if file_digest != digest(artifact):
        return Found(note=f"{path.name} is ignored: it was measured with another file of this name")
    if its_machine != machine():
        return Found(note=f"{path.name} is ignored: it was measured on another machine")
    return Found(tuned)


def digest(artifact: Artifact) -> str:
    """Of what tells a file from others: its metadata, in which the weights' digest is, and its size.

    An int8 file that is calibrated anew may have the same; it runs as fast, and a record says no more.
    """
    return hashlib.sha256(repr(artifact.identity).encode()).hexdigest()


def machine() -> dict[str, object]:
    """What speed depends on: the CPU, its instructions, and how many cores this process may use."""
    return {"cpu": cpu.cpu_model(), "instructions": cpu.instructions(), "cores": cpus()}


def _check(version: object, tuned: Tuned) -> None:
    """Raises ValueError for what no record says."""
    threads, rate = tuned.threads, tuned.images_per_second
    fits = threads is None or (is_whole(threads) and 1 <= threads <= _MOST_THREADS)
    if version != FORMAT or tuned.runtime not in RUNTIMES or not fits or not is_number(rate) or rate <= 0:
        raise ValueError("no such record")
