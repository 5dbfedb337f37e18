"""Pictures in batches: SegmentBatch on its own, then the command on one actor of Ray."""

import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import ray.exceptions
from helpers import REPOSITORY
from PIL import Image
from test_commands import run

from benchmarks.scale.pictures import encoded
from segfast import Engine
from segfast.errors import BadOption, CannotWrite, NotSupported
from segfast.pictures import runs
from segfast.ray import SegmentBatch
from segfast.scale import attempts, manifest, sources
from segfast.scale.run import Job, SegmentChunks, typed
from segfast.scale.sources import Picture
from segfast.scale.store import Folder, open_store


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return Engine(tiny_onnx, device="cpu")


@pytest.fixture
def photos(tmp_path):
    """20 pictures, one of them bad, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(18):
        (folder / f"{number}.png").write_bytes(encoded(number))
    (folder / "deep" / "0.png").write_bytes(encoded(100))
    (folder / "bad.jpg").write_bytes(b"0.png")  # the name of another, which must not be opened for it
    (folder / "notes.txt").write_text("not meant")
    return folder


def test_a_run_on_one_actor_and_another_that_goes_on(photos, tmp_path, tiny_onnx, engine):
    ended = run("segfast", "batch", tiny_onnx, "photos", "-o", "out", cwd=tmp_path, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "left out 1: 1 .txt" in ended.stdout
    assert "19 of 20 pictures written to out" in ended.stdout
    assert "failed: bad.jpg: " in ended.stderr
    rows = {row["name"]: row for row in pyarrow.parquet.read_table(tmp_path / "out" / "segfast-manifest").to_pylist()}
    assert len(rows) == 20
    for name, row in rows.items():
        path = photos / name
        if name == "bad.jpg":
            assert row["labels"] is row["height"] is row["shares"] is None
            assert "is no picture" in row["error"]
            continue
        expected = engine.segment(path)
        assert (row["source"], row["error"], row["labels"]) == (str(path), None, f"{name}-labels.png")
        assert dict(row["shares"]) == pytest.approx(expected.areas)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / row["labels"])), expected.labels)
    assert len([path for path in (tmp_path / "out").rglob("*.png") if path.is_file()]) == 19

    # The bad picture is mended and another lost: the same command does one, and leaves the others alone.
    (photos / "bad.jpg").write_bytes(encoded(200))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    ended = run("segfast.batch", tiny_onnx, "photos", "-o", "out", cwd=tmp_path)
    assert "20 pictures, 19 of them done before" in ended.stdout
    assert "1 of 1 pictures written" in ended.stdout
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "segfast-manifest").to_pylist()
    assert sorted(row["name"] for row in rows) == sorted(
        [*(path.relative_to(photos).as_posix() for path in photos.rglob("*.png")), "bad.jpg"]
    )
    assert all(row["error"] is None for row in rows)


@pytest.fixture(scope="module")
def segment(tiny_onnx):
    return SegmentBatch(str(tiny_onnx), device="cpu", labels="rle")


def test_arrays_bytes_and_paths(segment, engine, photos, photo):
    files = [str(photos / f"{number}.png") for number in range(3)]
    expected = [engine.segment(path).labels for path in files]
    pixels = np.stack([np.asarray(Image.open(path)) for path in files])
    contents = np.array([encoded(number) for number in range(3)], object)
    for batch in (
        {"path": np.array(files), "id": np.arange(3)},
        {"bytes": contents, "id": np.arange(3), "path": np.array(files)},
        {"image": pixels, "id": np.arange(3)},
    ):
        table = segment(batch)
        assert ("path" in table.column_names) == ("path" in batch)
        assert table["id"].to_pylist() == [0, 1, 2]
        assert table["error"].null_count == 3
        for row, labels in zip(table.to_pylist(), expected, strict=True):
            found = runs.decode(
                runs.Runs(np.array(row["label_runs"]), np.array(row["run_lengths"])), (row["height"], row["width"])
            )
            np.testing.assert_array_equal(found, labels)


def test_bad_pictures_are_rows_wherever_they_stand(segment):
    contents = [b"", encoded(0), b"/etc/passwd", b"GIF89a", encoded(1), encoded(2)[:200]]
    table = segment({"bytes": np.array(contents, object)})
    assert [error is None for error in table["error"].to_pylist()] == [False, True, False, False, True, False]
    assert [height is None for height in table["height"].to_pylist()] == [True, False, True, True, False, True]
    assert segment({"path": np.array(["none.png", "memory://none.png"])})["error"].null_count == 0


def test_columns_are_kept_whatever_they_hold(segment):
    found = segment(
        {"bytes": np.array([encoded(0)], object), "mask": np.ones((1, 4, 5), np.uint8), "id": np.array(["a"])}
    )
    assert found["id"].to_pylist() == ["a"]
    np.testing.assert_array_equal(found["mask"].chunk(0).to_numpy_ndarray()[0], np.ones((4, 5)))


def test_what_a_batch_must_be(segment, tiny_onnx):
    with pytest.raises(BadOption, match="it has columns picture"):
        segment({"picture": []})
    with pytest.raises(BadOption, match="batch_format='numpy'; it has a Table"):
        segment(pyarrow.table({"bytes": [b""]}))
    with pytest.raises(BadOption, match="labels must be one of"):
        SegmentBatch(str(tiny_onnx), labels="jpg")


def test_names_come_from_the_pictures_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = tmp_path.relative_to(tmp_path.anchor).as_posix()
    listed = {
        "a.png": f"{here}/a.png",
        "../../../../../../../../etc/a.png": "etc/a.png",
        "s3://bucket/../../x/a.png": "x/a.png",
        "s3://bucket/deep/a b.png": "bucket/deep/a b.png",
    }
    (tmp_path / "list.txt").write_text("\ufeff" + "\n".join([*listed, "", "a.png"]))
    found = sources.find("list.txt", "out")
    assert [picture.name for picture in found.pictures] == list(listed.values())
    assert found.pictures[0].address == str(tmp_path / "a.png")
    pyarrow.parquet.write_table(pyarrow.table({"file": [*listed, None]}), "list.parquet")
    assert sources.find("list.parquet", "out", "file") == found
    with pytest.raises(BadOption, match="no column 'path'; name one of file"):
        sources.find("list.parquet", "out")
    pyarrow.parquet.write_table(pyarrow.table({"path": [1]}), "numbers.parquet")
    with pytest.raises(BadOption, match="holds int, not addresses"):
        sources.find("numbers.parquet", "out")
    (tmp_path / "twice.txt").write_text("s3://a/x.png\ngs://a/x.png")
    with pytest.raises(BadOption, match=r"several pictures of the name a/x\.png"):
        sources.find("twice.txt", "out")
    for source in ("none.txt", "nothere://x", "none.parquet"):
        with pytest.raises(BadOption, match="cannot be read"):
            sources.find(source, "out")
    with pytest.raises(BadOption, match="there are no pictures"):
        sources.find("memory://nothing/here", "out")


def test_keys_of_a_store_never_leave_the_destination(monkeypatch):
    """Nor are the labels that lie below the source taken for pictures."""
    keys = ["../../../../etc/x.png", "a.png", "a.png-labels.png", "out/a.png-labels.png", "out/b.png", "outer.png"]
    system = SimpleNamespace(find=lambda root: [f"{root}/{key}" for key in keys])
    monkeypatch.setattr("fsspec.url_to_fs", lambda address: (system, "bucket/photos"))
    found = sources.find("s3://bucket/photos", "s3://bucket/photos/out/")
    assert {picture.name: picture.address for picture in found.pictures} == {
        "etc/x.png": "s3://bucket/photos/../../../../etc/x.png",
        "a.png": "s3://bucket/photos/a.png",
        "outer.png": "s3://bucket/photos/outer.png",
    }
    assert "2 below s3://bucket/photos/out/, where this run writes" in found.left_out


def test_labels_beside_their_pictures_are_none(tmp_path):
    for name in ("a.png", "a.png-labels.png"):
        (tmp_path / name).write_bytes(encoded(0))
    assert [picture.name for picture in sources.find(str(tmp_path), str(tmp_path)).pictures] == ["a.png"]


class Death(BaseException):
    """Of a process."""


def test_a_picture_at_which_processes_die_is_left_and_the_others_are_not(tmp_path, tiny_onnx, monkeypatch):
    names = [f"{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(number))
    job = Job(str(tiny_onnx), str(tmp_path / "out"), {"device": "cpu"}, 1, 1)
    actor, began = SegmentChunks(job), []
    segment = actor._writer._segment

    def answers(pictures, real=segment.answers):
        began.append(len(pictures))
        if str(tmp_path / "2.png") in pictures:
            raise Death
        return real(pictures)

    monkeypatch.setattr(segment, "answers", answers)
    row = {"addresses": [str(tmp_path / name) for name in names], "names": names}
    for _ in range(2 * attempts.MOST):
        with pytest.raises(Death):
            actor(row)
    found = actor(row)
    assert found["written"] == 3
    assert "2.png: the process died 2 times over it" in found["failed"][0]
    assert began == [4] * attempts.MOST + [1, 1, 1] * attempts.MOST + [1] * 3
    folder = tmp_path / "out" / manifest.FOLDER
    rows = pyarrow.parquet.read_table(folder).to_pylist()
    assert [row["name"] for row in rows if row["error"]] == ["2.png"]
    assert len(list(folder.iterdir())) == 1  # the count is gone with the chunk


def open_dies(monkeypatch):
    monkeypatch.setattr("segfast.ray.SegmentBatch", lambda *arguments, **options: os._exit(9))


def import_dies(monkeypatch):
    """As where a library is built for another CPU."""

    def find_spec(name, *where):
        if name == "segfast.scale.chunk":
            os._exit(9)

    monkeypatch.delitem(sys.modules, "segfast.scale.chunk", raising=False)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find_spec), *sys.meta_path])


@pytest.mark.parametrize("dies", [open_dies, import_dies])
def test_processes_that_die_as_they_get_ready_end_the_run(tmp_path, tiny_onnx, monkeypatch, dies):
    dies(monkeypatch)
    job, row = Job(str(tiny_onnx), str(tmp_path), {}, 1, 1), {"addresses": [], "names": []}
    for _ in range(attempts.MOST + 1):
        child = multiprocessing.get_context("fork").Process(target=SegmentChunks, args=(job,))
        child.start()
        child.join()
        assert child.exitcode == 9
    found = SegmentChunks(job)(row)
    assert found["fault"] == "NotSupported"
    assert "3 processes died as they opened the model" in found["reason"]
    assert Folder(str(tmp_path)).names(manifest.FOLDER) == []


def test_an_actor_imports_no_library_of_ours_before_its_mark():
    """What a process dies of without a mark, Ray begins again for ever."""
    code = (
        "import sys, segfast.scale.run; assert not {'numpy', 'numba', 'openvino', 'segfast.engine'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


@pytest.mark.parametrize("error", [ConnectionError("lost"), ray.exceptions.RayActorError()])
def test_a_cluster_that_is_lost_is_told(error):
    with pytest.raises(NotSupported, match="Ray gave up"), typed():
        raise error


def test_a_model_that_cannot_be_opened_ends_the_run(photos, tmp_path):
    """In the words of the Engine, not in Ray's."""
    ended = run("segfast.batch", "none.onnx", "photos", "-o", "out", cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert "error: there is no file none.onnx; check the path" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_deaths_of_another_run_do_not_count(tmp_path):
    store = Folder(str(tmp_path))
    for owner in ("a", "a", "b"):
        assert not attempts.Attempts(store, owner, "chunk").careful
    assert [attempts.Attempts(store, "b", "chunk").careful for _ in range(attempts.MOST)][-1]
    assert manifest.done(store) == set()
    assert store.names(manifest.FOLDER) == []


def test_a_destination_keeps_to_one_model(tmp_path):
    store = Folder(str(tmp_path))
    for _ in range(2):
        manifest.check_run(store, {"sha256": "a"})
    with pytest.raises(BadOption, match="another model"):
        manifest.check_run(store, {"sha256": "b"})


def test_parts_are_replaced_and_bad_rows_tried_again(tmp_path):
    store, chunk = Folder(str(tmp_path)), [Picture("/a", "a"), Picture("/b", "b")]
    rows = pyarrow.table({"name": ["a", "b"], "error": pyarrow.array(["bad", None])})
    for _ in range(2):
        manifest.write_part(store, chunk, rows)
    assert len(store.names(manifest.FOLDER)) == 1
    assert manifest.done(store) == {"b"}
    assert pyarrow.parquet.read_table(tmp_path / "segfast-manifest").to_pylist() == [{"name": "b", "error": None}]


def test_what_a_killed_writer_left_is_swept(tmp_path):
    store = Folder(str(tmp_path))
    old, young = (tmp_path / "segfast-manifest" / f".segfast-{name}.parquet" for name in ("old", "young"))
    old.parent.mkdir()
    for path in (old, young):
        path.touch()
    os.utime(old, (1, 1))
    assert store.names(manifest.FOLDER) == []
    store.sweep([manifest.FOLDER])
    assert [path for path in (old, young) if path.exists()] == [young]


def test_a_store_that_cannot_be_written():
    with pytest.raises(CannotWrite, match="check the address"):
        open_store("nothere://bucket")


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """A bucket of a local server."""
    for package in ("moto", "s3fs", "flask"):
        pytest.importorskip(package, reason=f"{package} is not installed: moto[s3,server] and s3fs are a local S3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    settings = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(endpoint_url=settings["FSSPEC_S3_ENDPOINT_URL"], key="x", secret="x")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                break
        except OSError:
            time.sleep(0.2)
    system.mkdir("bucket")
    yield system
    server.kill()
    server.wait()


def test_an_object_store_in_and_out(s3, tmp_path, tiny_onnx, engine):
    for number in range(3):
        s3.pipe_file(f"bucket/photos/deep/{number}.png", encoded(number))
    s3.pipe_file("bucket/photos/notes.txt", b"not meant")
    for done in (0, 3):
        ended = run("segfast.batch", tiny_onnx, "s3://bucket/photos", "-o", "s3://bucket/labels", cwd=tmp_path)
        assert f"3 pictures, {done} of them done before" in ended.stdout
        assert "left out 1: 1 .txt" in ended.stdout
    for number in range(3):
        found = Image.open(io.BytesIO(s3.cat_file(f"bucket/labels/deep/{number}.png-labels.png")))
        np.testing.assert_array_equal(np.asarray(found), engine.segment(io.BytesIO(encoded(number))).labels)
    assert json.loads(s3.cat_file("bucket/labels/segfast-run.json"))["model"] == "tiny.onnx"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["segfast", "segfast.batch", "segfast.ray", "segfast.serve", "segfast.scale.run"])
def test_importing_starts_nothing(module):
    """Of what the base installation lacks."""
    absent = "{'ray', 'pyarrow', 'fsspec', 'starlette', 'uvicorn', 'h11', 'prometheus_client', 'torch'}"
    code = f"import sys, {module}; assert not {absent} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
