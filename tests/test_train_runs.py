"""Whole runs as a user starts them: they learn, stop, go on bit by bit, evaluate, and say what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, tiny_model
from safetensors import safe_open

import segfast
from segfast.datasets import open_dataset
from segfast.errors import BadOption, CannotWrite, TrainingFailed
from segfast.evaluation.evaluate import evaluate
from segfast.runtimes import HostRuntime
from segfast.train import Running, recipe, state, train
from segfast.train import loop as loops
from segfast.train import step as steps
from segfast.train.build import fetched
from segfast.train.curve import draw
from segfast.train.mapped import MapDataset
from segfast.train.record import Recorder, read_log
from segfast.train.running import ECHO, StopRequest, stop_request
from segfast.train.state import LAST, OLDER
from segfast.train.validation import Validation
from segfast.train.world import World

# A model of 60 thousand parameters, with everything random in it.
TINY = {
    "width": 64,
    "depth": 1,
    "batch": 4,
    "iterations": 24,
    "drop_path": 0.1,
    "dropout": 0.1,
    "decoder_dropout": 0.1,
    "save_every": 6,
    "evaluate_every": 12,
}
QUIET = Running(device="cpu", workers=0, threads=1, tensorboard=False, log_every=2)
LINE = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(out, *arguments, launcher=()):
    words = [
        "-m",
        *launcher,
        "segfast.train",
        "--recipe",
        "shapes",
        "--out",
        str(out),
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *words, *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process, code=0):
    try:
        words = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert process.returncode == code, words
    return words


def tensors(path):
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def assert_equal_runs(one, other):
    """The states of two runs are the same, bit by bit, and so are their logs but for speed."""
    ours, theirs = tensors(one / LAST), tensors(other / LAST)
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    assert tensors(one / "best.safetensors").keys() == tensors(other / "best.safetensors").keys()
    kept = ("kind", "iteration", "miou", "lr")
    logs = [[{key: row.get(key) for key in kept} for row in read_log(run / "log.jsonl")] for run in (one, other)]
    assert logs[0] == logs[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tiny run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    before = torch.get_num_threads()
    assert train(recipe("shapes", **TINY), None, folder, QUIET).iteration == 24
    torch.set_num_threads(before)
    return folder


def wait_for(path, iteration, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        rows = read_log(path)
        if rows and rows[-1]["iteration"] >= iteration:
            return
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_a_killed_run_goes_on_bit_by_bit(tmp_path, whole, number, code):
    arguments = [*LINE, "--log-every", 2, "--no-tensorboard", "--workers", 1]
    process = start(tmp_path / "run", *arguments)
    wait_for(tmp_path / "run" / "log.jsonl", 8, process)
    process.send_signal(number)
    words = finish(process, code)
    if number != signal.SIGKILL:
        assert "the same command goes on" in words
    assert (tmp_path / "run" / LAST).exists()
    progress = train(recipe("shapes", **TINY), None, tmp_path / "run", QUIET)
    assert progress.iteration == 24
    assert_equal_runs(tmp_path / "run", whole)


def test_the_shapes_recipe_learns(tmp_path):
    """mIoU ≥ 0.80 in a fraction of the recipe, with everything it writes; then the file goes into the Engine."""
    words = finish(start(tmp_path, "--iterations", 40, "--save-every", 20, "--evaluate-every", 20))
    assert "best mIoU" in words
    rows = [row for row in read_log(tmp_path / "log.jsonl") if row["kind"] == "evaluation"]
    assert [row["iteration"] for row in rows] == [20, 40]
    best = max(row["miou"] for row in rows)
    assert best >= 0.80
    assert any(path.name.startswith("events.out.tfevents") for path in tmp_path.iterdir())
    dataset = open_dataset("shapes")
    report = evaluate(segfast.Engine(tmp_path / "best.safetensors", device="cpu"), dataset)
    assert report.miou == pytest.approx(best, abs=1e-4)
    config = segfast.load_model(tmp_path / "best.safetensors").config
    assert config.classes == dataset.classes
    assert not config.random_weights
    assert config.provenance["weights"].startswith("trained by segfast")
    draw([tmp_path], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    event = next(path for path in tmp_path.iterdir() if path.name.startswith("events"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(event)).Reload().Tags()
    assert {"train/loss", "train/lr", "train/images_per_second", "evaluation/miou"} <= set(found["scalars"])
    assert "prediction/0" in found["images"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs Gloo")
def test_two_processes_train_together(tmp_path, whole):
    launcher = [
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(20000 + os.getpid() % 20000),
        "-m",
    ]
    words = finish(start(tmp_path / "two", *LINE, "--no-tensorboard", "--log-every", 2, launcher=launcher))
    assert words.count("recipe shapes:") == words.count("next: ") == 1  # the first process alone speaks
    log = read_log(tmp_path / "two" / "log.jsonl")
    assert log[-1]["iteration"] == 24
    assert [row["iteration"] for row in log if row["kind"] == "evaluation"] == [12, 24]
    assert [name for name in tensors(tmp_path / "two" / LAST) if name.startswith("random")] == [
        "random.0.cpu",
        "random.1.cpu",
    ]
    report = evaluate(segfast.Engine(tmp_path / "two" / "best.safetensors", device="cpu"), open_dataset("shapes"))
    assert report.miou == pytest.approx(max(row["miou"] for row in log if row["kind"] == "evaluation"), abs=1e-6)
    more = train(recipe("shapes", **TINY), None, tmp_path / "two", QUIET)
    assert more.iteration == 24  # alone it finds the run finished


def test_a_log_says_soon_how_long_a_run_takes(tmp_path, capsys, monkeypatch):
    """After three steps, of which the first is slow: (1000 − 3) · 6 s."""
    now = [0.0]
    monkeypatch.setattr("segfast.train.record.time.perf_counter", lambda: now[0])
    row = recipe("shapes", iterations=1000)
    record = Recorder(tmp_path, World(0, 1, torch.device("cpu")), row, replace(QUIET, log_every=100), first=0)
    for iteration, now[0] in ((1, 60.0), (2, 66.0), (3, 72.0), (4, 78.0)):
        record.step(iteration, steps.Outcome(1.0, 1.0, 1e-3, True, False), 0.0)
    assert capsys.readouterr().out == "about 1:39:42 left, besides evaluations: 6 s a step\n"


def test_an_encoder_that_may_be_fetched_is_said():
    assert "vit_small_patch16_384.augreg_in21k_ft_in1k: " in fetched(recipe("folder", "seg-s-mask-16"))
    assert fetched(recipe("folder", encoder="none")) is None
    assert fetched(recipe("folder", encoder=__file__)) is None
    assert fetched(recipe("folder", checkpoint="best.safetensors")) is None


def test_an_echo_of_ctrl_c_still_saves():
    """As `torchrun` passes on what the terminal has sent already; a later one ends the run at once."""
    request = StopRequest()
    request(signal.SIGINT, None)
    request(signal.SIGINT, None)
    assert request.wanted
    request._since -= ECHO + 1
    request(signal.SIGTERM, None)  # asks for no more than was asked
    with pytest.raises(KeyboardInterrupt):
        request(signal.SIGINT, None)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_evaluation_stops_between_the_windows_of_a_picture(tmp_path):
    """One picture of 100 windows, 5 s of them."""
    engine = segfast.Engine(tiny_model(), device="cpu")
    names, palette = engine.config.classes, engine.config.palette
    size = 10 * engine.protocol.window[0]
    sample = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
    calls = []

    class Slow(HostRuntime):
        name, device, precision, notes, batch = "slow", "cpu", "fp32", (), 1

        def run(self, windows):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            return np.zeros((len(windows), len(names), 4, 4), np.float32)

    engine._runtime = Slow()
    dataset = MapDataset("dataset", "val", names, palette, [sample], (0,))
    validation = Validation(dataset, recipe("folder"), tmp_path, World(0, 1, torch.device("cpu")), None)
    with stop_request() as stop:
        assert validation._measured(engine, None, stop) is None
    assert stop.wanted
    assert len(calls) < 30
    assert list(validation._predictions(engine, stop)) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_before_the_first_step_ends_at_once(tmp_path, monkeypatch):
    """As while a large dataset is checked, or weights are downloaded."""
    monkeypatch.setattr(loops, "build_model", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(recipe("shapes", **TINY), None, tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"), [("threads", 0, "--threads"), ("accumulate", 3, "micro-batches")]
)
def test_impossible_ways_of_running_leave_nothing(tmp_path, option, value, words):
    with pytest.raises(BadOption, match=words):
        train(recipe("shapes", **TINY), None, tmp_path / "run", replace(QUIET, **{option: value}))
    assert not (tmp_path / "run").exists()


def test_another_thread_leaves_signals_alone():
    def inside():
        with stop_request() as stop:
            return stop.wanted, signal.getsignal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() == (False, before)


def test_processes_that_find_different_states_do_not_train(tmp_path, monkeypatch):
    """As on machines that share no folder: one would begin anew while another goes on."""
    monkeypatch.setattr(loops.World, "share", lambda self, value: value if isinstance(value, bool) else 12)
    with pytest.raises(BadOption, match="must be a folder that all share"):
        train(recipe("shapes", **TINY), None, tmp_path, QUIET)


def test_other_settings_are_named(whole):
    before = (whole / LAST).read_bytes()
    with pytest.raises(BadOption, match=r"lr is 0\.002, there 0\.001; seed is 5, there 0; choose another --out"):
        train(recipe("shapes", **TINY, lr=2e-3, seed=5), None, whole, QUIET)
    assert (whole / LAST).read_bytes() == before
    train(recipe("shapes", **(TINY | {"evaluate_every": 5})), None, whole, QUIET)  # which decides nothing


def test_a_corrupt_state_falls_back_and_says_so(tmp_path, whole, capsys, monkeypatch):
    row, real, stop = recipe("shapes", **TINY), steps.Stepper.step, 14

    def step(self, batch, iteration, wanted=False):
        return real(self, batch, iteration, wanted or iteration + 1 == stop)

    monkeypatch.setattr(steps.Stepper, "step", step)
    assert train(row, None, tmp_path, QUIET).iteration == stop
    monkeypatch.undo()
    assert (tmp_path / OLDER).exists()
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:5000])
    capsys.readouterr()
    assert train(row, None, tmp_path, QUIET).iteration == 24
    words = capsys.readouterr()
    assert f"{LAST} is no whole state of a run" in words.out + words.err
    assert "going on from iteration 12 of 24" in words.out + words.err
    assert_equal_runs(tmp_path, whole)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path, monkeypatch):
    real, count = steps.pixel_loss, iter(range(1000))
    monkeypatch.setattr(steps, "pixel_loss", lambda *a: real(*a) * (float("nan") if next(count) >= 8 else 1.0))
    with pytest.raises(
        TrainingFailed, match=r"5 times in a row, up to iteration 13; the state of iteration 6 is kept"
    ) as caught:
        train(recipe("shapes", **TINY), None, tmp_path, QUIET)
    assert (
        f"a lower --lr and another --out, from the start or from --checkpoint {tmp_path / 'best.safetensors'}"
        in str(caught.value)
    )
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN, which is no JSON
    draw([tmp_path], tmp_path / "curve.png")
    assert all(np.isfinite(value).all() for value in tensors(tmp_path / LAST).values())
    monkeypatch.undo()
    assert train(recipe("shapes", **TINY), None, tmp_path, QUIET).iteration == 24


def test_a_single_bad_loss_is_left_out(tmp_path, monkeypatch):
    real, count = steps.pixel_loss, iter(range(1000))
    monkeypatch.setattr(steps, "pixel_loss", lambda *a: real(*a) * (float("nan") if next(count) == 8 else 1.0))
    assert train(recipe("shapes", **TINY), None, tmp_path, QUIET).iteration == 24


def test_a_run_stopped_behind_a_bad_loss_keeps_the_good_state(tmp_path, monkeypatch):
    real, count = steps.pixel_loss, iter(range(1000))

    def poisoned(*arguments):
        bad = next(count) >= 8
        if bad:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments) * (float("nan") if bad else 1.0)

    monkeypatch.setattr(steps, "pixel_loss", poisoned)
    assert train(recipe("shapes", **TINY), None, tmp_path, QUIET).iteration < 24
    assert state._read(tmp_path / LAST)[0].iteration == 6


def test_a_full_disk_keeps_the_states_before(tmp_path, monkeypatch):
    real = state.save
    seen = []

    def save(folder, *rest):
        seen.append(1)
        if len(seen) == 3:
            monkeypatch.setattr("segfast.files.os.fsync", full_disk)
        real(folder, *rest)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save", save)
    with pytest.raises(CannotWrite, match="free some space"):
        train(recipe("shapes", **TINY), None, tmp_path, QUIET)
    monkeypatch.undo()
    assert state._read(tmp_path / LAST)[0].iteration == 12
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_state_without_settings_is_not_overwritten(tmp_path):
    (tmp_path / LAST).write_bytes(b"x")
    with pytest.raises(BadOption, match=r"a state without its settings\.json"):
        train(recipe("shapes", **TINY), None, tmp_path, QUIET)


def test_trained_weights_that_no_run_left_here_are_not_overwritten(tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"x")
    with pytest.raises(BadOption, match=r"a best\.safetensors without its settings\.json, which a run would replace"):
        train(recipe("shapes", **TINY), None, tmp_path, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_a_half_written_line_of_the_log_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "iteration": 2}\n{"kind": "tra')
    assert [row["iteration"] for row in read_log(tmp_path / "log.jsonl")] == [2]


def test_settings_are_written_for_people(whole):
    settings = json.loads((whole / "settings.json").read_text())
    assert settings["recipe"]["width"] == 64
    assert settings["data"]["classes"] == list(open_dataset("shapes").classes)
