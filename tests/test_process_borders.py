"""Engines and answers in other processes: pickled, copied, forked."""

import copy
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import REPOSITORY, reference, tiny_model

import segfast
from segfast.checkpoints import download
from segfast.errors import BadModel, NotSupported
from segfast.inference import limits
from segfast.processes import forks


def sent(value):
    return pickle.loads(pickle.dumps(value))


# --- pickled Engines ----------------------------------------------------------------------------


def test_an_engine_of_a_file_is_opened_again(tiny_onnx, photo, monkeypatch):
    monkeypatch.chdir(tiny_onnx.parent)
    engine = segfast.Engine(tiny_onnx.name, runtime="onnxruntime", device="cpu", threads=1)
    monkeypatch.chdir("/")
    pickled = pickle.dumps(engine)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert again is not engine
    assert repr(again) == repr(engine)
    assert (again._threads, again.config) == (1, engine.config)
    np.testing.assert_array_equal(again.segment(photo).labels, engine.segment(photo).labels)


def test_an_engine_of_a_checkpoint_is_opened_again(tiny_checkpoint, photo):
    engine = segfast.Engine(tiny_checkpoint, device="cpu", precision="bf16")
    again = sent(engine)
    assert again.runtime == "PyTorch on cpu in bf16"
    np.testing.assert_array_equal(again.segment(photo).labels, engine.segment(photo).labels)
    folder = reference("official/linear-8")  # the original's: a folder with two files
    assert sent(segfast.Engine(folder, device="cpu")).config == segfast.Engine(folder, device="cpu").config


def test_an_engine_of_a_published_name_is_opened_again(tmp_path, monkeypatch):
    source = reference("mmseg/linear-16") / "checkpoint.pth"
    (tmp_path / "weights.pth").write_bytes(source.read_bytes())
    row = download.Weights("http://127.0.0.1/weights.pth", "", (0.0, 0.0))
    monkeypatch.setattr(download, "PUBLISHED", {"seg-tiny-16@test": row})
    monkeypatch.setenv("SEGFAST_CACHE", str(tmp_path))
    engine = segfast.Engine("seg-tiny-16@test", device="cpu")
    pickled = pickle.dumps(engine)
    assert b"seg-tiny-16@test" in pickled
    assert bytes(tmp_path) not in pickled  # another machine's cache lies elsewhere
    assert pickle.loads(pickled).config == engine.config


def test_a_file_that_is_not_there_or_another_is_refused(tmp_path, tiny_onnx, tiny_labels_onnx):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    pickled = pickle.dumps(segfast.Engine(path, device="cpu"))
    path.write_bytes(tiny_labels_onnx.read_bytes())
    with pytest.raises(BadModel, match=r"m\.onnx was sent here, where that file is another .*; copy the sender's"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(
        BadModel, match=r"m\.onnx was sent here, where that file cannot be read .*; copy it to the same path"
    ):
        pickle.loads(pickled)


def test_a_file_that_changed_under_an_engine_is_not_sent(tmp_path, tiny_onnx, tiny_labels_onnx):
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    engine = segfast.Engine(path, device="cpu")
    path.write_bytes(tiny_labels_onnx.read_bytes())
    with pytest.raises(BadModel, match="has changed since this Engine opened it"):
        pickle.dumps(engine)


def test_an_engine_of_a_segmenter_says_how_to_send_it(tmp_path):
    model = tiny_model()
    with pytest.raises(NotSupported, match="save the model"):
        pickle.dumps(segfast.Engine(model, device="cpu"))
    model.save(tmp_path / "model.safetensors")
    sent(segfast.Engine(tmp_path / "model.safetensors", device="cpu"))


def test_a_copy_is_the_engine_itself(tiny_onnx):
    for engine in (segfast.Engine(tiny_onnx, device="cpu"), segfast.Engine(tiny_model(), device="cpu")):
        assert copy.copy(engine) is engine
        assert copy.deepcopy({"engine": engine})["engine"] is engine


def test_opening_computes_no_digest(tiny_onnx, monkeypatch):
    monkeypatch.setattr("segfast.files.sha256", None)
    segfast.Engine(tiny_onnx, device="cpu")


def answer_of(engine, image):
    return engine.segment(image)


def test_engines_and_answers_go_through_spawned_workers(tiny_onnx, photo, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    engine = segfast.Engine(tiny_onnx, device="cpu")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer = pool.apply_async(answer_of, (engine, photo)).get(120)
    here = engine.segment(photo)
    np.testing.assert_array_equal(answer.labels, here.labels)
    np.testing.assert_array_equal(answer.scores, here.scores)


# --- pickled answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("multiscale", [False, True])
def test_an_answer_keeps_its_scores(tiny_onnx, photo, multiscale):
    answer = segfast.Engine(tiny_onnx, device="cpu").segment(photo, multiscale=multiscale)
    before, moved = sent(answer), copy.deepcopy(answer)
    scores = answer.scores
    for other in (before, moved, sent(answer)):
        np.testing.assert_array_equal(other.labels, answer.labels)
        np.testing.assert_array_equal(other.image, answer.image)
        assert (other.classes, other.palette) == (answer.classes, answer.palette)
        np.testing.assert_array_equal(other.scores, scores)
        assert repr(other) == repr(answer)


def test_an_answer_takes_no_engine_and_no_scores_along(tiny_checkpoint, tiny_labels_onnx):
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    answer = segfast.Engine(tiny_checkpoint, device="cpu").segment(image)
    pickled = pickle.dumps(answer)
    assert len(pickled) < 1.5 * (answer.labels.nbytes + answer.image.nbytes) < answer.scores.nbytes
    assert b"torch" not in pickled
    labels = segfast.Engine(tiny_labels_onnx, device="cpu").segment(image[:64, :64])
    with pytest.raises(NotSupported, match="labels only"):
        _ = sent(labels).scores


# --- forked children ----------------------------------------------------------------------------

CHILD = """
import os, sys, threading, time
import numpy as np
import segfast
kind, path, act = sys.argv[1:]
image = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)
model = segfast.load_model(path) if kind == "segmenter" else path

def make():
    return segfast.Engine(model, device="cpu", **({} if kind in ("checkpoint", "segmenter") else {"runtime": kind}))

engine = make()
labels = engine.segment(image).labels
answers = engine.segment_many([image] * 12)
next(answers)
if act == "busy":
    def work():
        while True:
            engine.segment(image)
    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()

def refused(call):
    try:
        call()
    except segfast.NotSupported as error:
        return "make the Engine in the child" in str(error)

def child():
    assert refused(lambda: next(answers))
    if kind in ("openvino", "onnxruntime"):
        assert refused(lambda: engine.segment(image))
        assert refused(lambda: engine.segment_many([image]))
        assert refused(engine.warm_up)
        assert refused(lambda: engine.run(np.zeros((1, 64, 64, 3), np.uint8)))
    else:
        assert (engine.segment(image).labels == labels).all()
        assert all((answer.labels == labels).all() for answer in engine.segment_many([image] * 3))
    other = make()
    assert (other.segment(image).labels == labels).all()
    assert all((answer.labels == labels).all() for answer in other.segment_many([image] * 10))

for _ in range(2 if act == "busy" else 1):
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(0)                                                     # with all destructors, as gunicorn's workers do
    for _ in range(300):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        sys.exit("the child hangs")
    if status:
        sys.exit(f"the child ended with {os.waitstatus_to_exitcode(status)}")
if act == "idle":
    assert len(list(answers)) == 11                                     # the parent's go on
print("well", flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(
    ("kind", "act"),
    [
        ("openvino", "idle"),
        ("onnxruntime", "idle"),
        ("segmenter", "idle"),
        ("checkpoint", "busy"),
        ("openvino", "busy"),
    ],
)
def test_a_forked_child_answers_or_is_refused_and_ends(tiny_onnx, tiny_checkpoint, kind, act):
    path = tiny_onnx if kind in ("openvino", "onnxruntime") else tiny_checkpoint
    line = [sys.executable, "-c", CHILD, kind, str(path), act]
    ended = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=150)
    assert ended.stdout.strip() == "well", ended.stderr


def forked(child):
    """The exit code of a forked child that runs a function; None where it does not end within 30 s."""
    process = os.fork()
    if process == 0:
        try:
            child()
        finally:
            os._exit(sys.exc_info()[0] is not None)
    for _ in range(300):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


LATE = """
import sys, threading, time
sys.path.insert(0, sys.argv[2])
import segfast
from segfast.processes import forks
from segfast.runtimes import openvino
from test_process_borders import forked

forks.PATIENCE = 0.2
held = threading.Event()

def hold():
    with forks.running(), openvino._one_at_a_time:
        held.set()
        time.sleep(60)

threading.Thread(target=hold, daemon=True).start()
held.wait()
print(forked(lambda: segfast.Engine(sys.argv[1], runtime="openvino", device="cpu")))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_that_waited_in_vain_inherits_no_lock(tiny_onnx):
    command = [sys.executable, "-c", LATE, str(tiny_onnx), str(REPOSITORY / "tests")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ended.stdout.strip() == "0", ended.stderr


def test_blocks_within_blocks_wait_for_no_fork():
    with forks.running(), forks.running():
        assert forks._count["running"] == 1
    assert forks._count["running"] == 0


def test_an_engine_whose_settings_changed_is_another(tmp_path):
    for name in ("checkpoint.pth", "variant.yml"):
        shutil.copyfile(reference("official/linear-8") / name, tmp_path / name)
    sent = pickle.dumps(segfast.Engine(tmp_path / "checkpoint.pth", device="cpu"))
    settings = tmp_path / "variant.yml"
    settings.write_text(settings.read_text().replace("normalization: vit", "normalization: deit"))
    with pytest.raises(BadModel, match="is another"):
        pickle.loads(sent)


def test_scores_that_were_sent_keep_their_limits(tiny_checkpoint, photo, monkeypatch):
    answer = pickle.loads(pickle.dumps(segfast.Engine(tiny_checkpoint, device="cpu").segment(photo)))
    monkeypatch.setattr(limits, "check_scores", lambda *_: (_ for _ in ()).throw(NotSupported("too many")))
    with pytest.raises(NotSupported, match="too many"):
        _ = answer.scores
