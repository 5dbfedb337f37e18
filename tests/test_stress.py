"""Many callers, many calls, forks and spawns: an Engine stays what it is."""

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY
from PIL import Image

import segfast


def mixed(count=20):
    random = np.random.default_rng(0)
    sizes = [(int(h), int(w)) for h, w in random.integers(20, 150, (count, 2))]
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_16_threads_with_200_calls_each_equal_serial_calls(tiny_onnx):
    engine, images = segfast.Engine(tiny_onnx, device="cpu"), mixed()
    serial = [engine.segment(image).labels for image in images]
    wrong = []

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, len(images), 200):
            if not np.array_equal(engine.segment(images[i]).labels, serial[i]):
                wrong.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_two_engines_do_not_disturb_each_other(tiny_onnx, tiny_labels_onnx):
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    a, b = segfast.Engine(tiny_onnx, device="cpu", threads=1), segfast.Engine(tiny_labels_onnx, device="cpu")
    expected = a.segment(image).labels.copy()
    answers = []
    threads = [
        threading.Thread(target=lambda e=e: answers.extend(e.segment(image).labels for _ in range(50))) for e in (a, b)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 100
    assert all((answer == expected).mean() > 0.999 for answer in answers)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_2000_calls_keep_memory_flat(tiny_onnx):
    engine, images = segfast.Engine(tiny_onnx, device="cpu"), mixed(10)

    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    for i in range(200):
        engine.segment(images[i % 10])
    before = resident()
    for i in range(2000):
        engine.segment(images[i % 10])
    assert resident() - before < 16  # MiB: one leaked picture a call would be over 40


def segment_in_child(path, image, queue):
    queue.put(segfast.Engine(path, device="cpu").segment(image).labels)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_segment_after_the_parent_did(tiny_onnx, method, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    image = mixed(1)[0]
    expected = segfast.Engine(tiny_onnx, device="cpu").segment(image).labels
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=segment_in_child, args=(tiny_onnx, image, queue))
    child.start()
    answer = queue.get(timeout=60)
    child.join(60)
    np.testing.assert_array_equal(answer, expected)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_after_engines_came_and_went(tiny_onnx):
    """Several OpenVINO Cores of one thread, let go, would leave it a signal stack that is no longer mapped."""
    program = (
        "import os, signal, sys, segfast\n"
        "answers = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: answers.append(True))\n"
        "first, second = (segfast.Engine(sys.argv[1], runtime='openvino', device='cpu') for _ in range(2))\n"
        "del first\n"
        "del second\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "assert answers\n"
    )
    line = [sys.executable, "-X", "faulthandler", "-c", program, str(tiny_onnx)]
    ended = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_a_folder_of_200_with_9_bad_pictures(tiny_onnx, tmp_path, monkeypatch, capsys):
    from segfast import segment

    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(200):
        path = folder / f"{i:03}.png"
        if i % 22 == 5:
            path.write_bytes(b"\x89PNG\r\n\x1a\n but no more")
        else:
            Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    monkeypatch.setattr(
        sys, "argv", ["segment", str(tiny_onnx), str(folder), "-o", str(tmp_path / "out"), "--device", "cpu"]
    )
    assert segment.main() == 1
    printed = capsys.readouterr()
    assert "191 of 200 pictures written" in printed.out
    assert printed.err.count("failed: ") == 9
    assert len(list((tmp_path / "out").glob("*-labels.png"))) == 191
