"""Writing: a full, read-only or interrupted destination leaves what was there, and nothing half written."""

import errno
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import REPOSITORY, interrupted, tiny_model

import segfast
from segfast import files
from segfast.errors import BadOption, CannotWrite
from segfast.export import export_onnx


def write(path, content):
    path.write_bytes(content)
    return path


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


SUFFIXES = {"export": ".onnx", "checkpoint": ".safetensors", "labels": ".png"}
WRITES = {
    "export": lambda path: export_onnx(tiny_model(), path),
    "checkpoint": lambda path: tiny_model().save(path),
    "labels": lambda path: segfast.Engine(tiny_model(), device="cpu").segment(np.zeros((9, 9, 3), np.uint8)).save(path),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, what):
    target = write(tmp_path / f"target{SUFFIXES[what]}", b"what was there")
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(CannotWrite, match="the disk is full; free some space"):
        WRITES[what](target)
    assert target.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("what", ["export", "checkpoint"])
def test_a_write_that_stops_half_way_leaves_nothing(tmp_path, what):
    """The kernel refuses to write past 64 KiB, in the middle of the file."""
    code = (
        "import resource, signal, sys\n"
        f"sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / 'tests')!r}]\n"
        "from test_writing import CannotWrite, WRITES\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n"
        f"    WRITES[{what!r}]('target{SUFFIXES[what]}')\n"
        "except CannotWrite as error:\n"
        "    sys.exit(17)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 17
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", WRITES)
def test_impossible_destinations(tmp_path, what):
    suffix = SUFFIXES[what]
    write(tmp_path / "file", b"")
    (tmp_path / f"folder{suffix}").mkdir()
    for target, remedy in (
        (tmp_path / "none" / f"x{suffix}", "create it first"),
        (tmp_path / "file" / f"x{suffix}", "not a folder"),
        (tmp_path / f"folder{suffix}", "name a file"),
    ):
        with pytest.raises(CannotWrite, match=remedy):
            WRITES[what](target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", f"folder{suffix}"]


@pytest.mark.parametrize("what", WRITES)
def test_names_that_say_another_format(tmp_path, what):
    with pytest.raises(BadOption, match=rf"name it \*{SUFFIXES[what]}"):
        WRITES[what](tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())


def test_the_longest_names_are_written(tmp_path):
    for name in ("n" * 251 + ".txt", "ж" * 127, "x." + "y" * 250):
        files.write_text("text", tmp_path / name)
        assert (tmp_path / name).read_text() == "text"
    with pytest.raises(CannotWrite, match="choose a shorter one") as caught:
        files.write_text("text", tmp_path / ("n" * 256))
    assert caught.value.own


def test_read_only_file_systems_say_so(tmp_path, monkeypatch):
    def read_only(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.os, "open", read_only)
    with pytest.raises(CannotWrite, match="read-only; choose another folder"):
        tiny_model().save(tmp_path / "x.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("reference", signal.SIGINT),
        ("tracing", signal.SIGINT),
        ("ONNX Runtime", signal.SIGINT),
        ("activations", signal.SIGTERM),
    ],
)
def test_an_interrupted_export_leaves_nothing(tmp_path, phase, number):
    command = [sys.executable, "-m", "segfast.export", "--model", "seg-ti-mask-16", "--fp16", "--out", tmp_path]
    code, words = interrupted(command, phase, number, cwd=REPOSITORY)
    assert code == 130, words
    assert "interrupted" in words
    assert not list(tmp_path.iterdir())
