"""Compiled models between starts: a whole one is taken, a damaged one never, and whatever fails, labels are the same."""

import locale
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import segfast
from segfast.runtimes import openvino_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


def start(path):
    return segfast.Engine(path, runtime="openvino", device="cpu")


def loaded(engine):
    return engine._runtime._networks[1].get_property("LOADED_FROM_CACHE")


def zeroed(blob, other):
    content = bytearray(blob.read_bytes())
    at = 64 * (len(content) * 3 // 4 // 64)  # among the weights
    assert any(content[at : at + 64])
    content[at : at + 64] = bytes(64)
    blob.write_bytes(content)


def truncated(blob, other):
    os.truncate(blob, blob.stat().st_size - 4096)


def swapped(blob, other):
    os.replace(other, blob)


def swapped_with_its_digest(blob, other):
    key, name, _, suffix = blob.name.split(".")
    os.replace(other, blob.with_name(".".join((key, name, other.name.split(".")[2], suffix))))
    blob.unlink()


def without_a_digest(blob, other):
    os.replace(blob, blob.with_name(f"{blob.name.split('.')[1]}.blob"))


@pytest.mark.parametrize("damage", [zeroed, truncated, swapped, swapped_with_its_digest, without_a_digest])
def test_what_is_damaged_is_dropped_and_made_again(cache, tiny_onnx, tiny_labels_onnx, photo, damage):
    first = start(tiny_onnx)
    expected = first.segment(photo).labels
    (blob,) = cache.iterdir()
    assert loaded(start(tiny_onnx))
    start(tiny_labels_onnx)
    (other,) = set(cache.iterdir()) - {blob}
    damage(blob, other)
    again = start(tiny_onnx)
    assert not loaded(again)
    np.testing.assert_array_equal(again.segment(photo).labels, expected)
    assert ("damaged" in repr(again)) == (damage is not without_a_digest)
    third = start(tiny_onnx)
    assert loaded(third)
    assert "compiled model" not in repr(third)
    assert len(list(cache.glob(f"{blob.name.rsplit('.', 2)[0]}.*.blob"))) == 1
    assert len(list(cache.iterdir())) == (2 if other.exists() else 1)


def test_pairs_are_kept_too(cache, tiny_onnx):
    for kept in (1, 2):
        engine = start(tiny_onnx)
        assert len(list(cache.iterdir())) == kept
        engine._runtime.compile_pairs()
    assert engine._runtime._networks[2].get_property("LOADED_FROM_CACHE")
    assert len(list(cache.iterdir())) == 2


def no_home(monkeypatch, cache):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    for name in ("SEGFAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)


def a_file_in_the_way(monkeypatch, cache):
    cache.parent.mkdir()
    cache.write_text("not a folder")


def no_folder_above(monkeypatch, cache):
    cache.parent.write_text("not a folder")


def read_only(monkeypatch, cache):
    true = tempfile.mkdtemp

    def refuse(*arguments, dir=None, **options):
        if dir is not None and Path(dir) == cache:
            raise PermissionError(13, "Permission denied")
        return true(*arguments, dir=dir, **options)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)


def full_when_moved(monkeypatch, cache):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino_cache.os, "replace", refuse)


def full_when_written(monkeypatch, cache):
    """OpenVINO removes what it could not write whole, and says nothing."""
    true = openvino_cache.Kept._keep

    def empty(self, own):
        for path in own.iterdir():
            path.unlink()
        true(self, own)

    monkeypatch.setattr(openvino_cache.Kept, "_keep", empty)


@pytest.mark.parametrize(
    "trouble", [no_home, a_file_in_the_way, no_folder_above, read_only, full_when_moved, full_when_written]
)
def test_without_a_cache_it_runs_and_says_so(cache, tiny_onnx, photo, monkeypatch, trouble):
    expected = start(tiny_onnx).segment(photo).labels
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
    cache.parent.rmdir()
    trouble(monkeypatch, cache)
    engine = start(tiny_onnx)
    assert "compiled models are not kept, so that each start takes longer (" in repr(engine)
    np.testing.assert_array_equal(engine.segment(photo).labels, expected)
    assert not cache.is_dir() or not list(cache.iterdir())


def test_a_cache_that_can_only_be_read_is_used(cache, tiny_onnx, monkeypatch, tmp_path):
    start(tiny_onnx)
    kept = list(cache.iterdir())
    read_only(monkeypatch, cache)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = start(tiny_onnx)
    assert loaded(engine)
    assert "compiled models" not in repr(engine)
    assert list(cache.iterdir()) == kept
    assert not list(tmp_path.glob("segfast-*"))


def test_what_cannot_be_read_is_left_alone(cache, tiny_onnx, monkeypatch):
    start(tiny_onnx)
    kept = list(cache.iterdir())

    def refuse(path, name):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(openvino_cache, "_digest", refuse)
        assert not loaded(start(tiny_onnx))
    assert list(cache.iterdir()) == kept


def test_many_at_once_leave_one_whole_model(cache, tiny_onnx, photo):
    answers, spoken = [], locale.setlocale(locale.LC_ALL)
    threads = [
        threading.Thread(target=lambda: answers.append(start(tiny_onnx).segment(photo).labels)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert locale.setlocale(locale.LC_ALL) == spoken
    assert len(answers) == 4
    assert all((answer == answers[0]).all() for answer in answers)
    assert [path for path in cache.iterdir() if not path.name.endswith(".blob")] == []
    assert loaded(start(tiny_onnx))


def test_readers_of_the_model_may_read_what_is_kept(cache, tmp_path, tiny_onnx):
    for mode, kept in ((0o644, 0o644), (0o600, 0o600)):
        (tmp_path / "m.onnx").write_bytes(tiny_onnx.read_bytes())
        (tmp_path / "m.onnx").chmod(mode)
        start(tmp_path / "m.onnx")
        (blob,) = cache.iterdir()
        assert blob.stat().st_mode & 0o777 == kept
        blob.unlink()


def test_leftovers_of_interrupted_starts_are_swept(cache, tiny_onnx):
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        (cache / f".start-{name}").mkdir(parents=True)
        (cache / f".start-{name}" / "1.blob").write_bytes(b"half")
        os.utime(cache / f".start-{name}", (time.time() - age,) * 2)
    start(tiny_onnx)
    assert {path.name for path in cache.glob(".start-*")} == {".start-new"}
