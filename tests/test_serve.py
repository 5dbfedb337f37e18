"""The service: what clients get, what is refused, and that every answer belongs to its picture."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, RemoteDisconnected
from queue import Full
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import REPOSITORY
from PIL import Image

from benchmarks.scale.pictures import encoded
from segfast import Engine
from segfast.encodings import KINDS
from segfast.errors import BadImage
from segfast.pictures import runs
from segfast.serving.accept import choose
from segfast.stream import Stream

TOKEN = "a token of 20 letters"
JPEG = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {TOKEN}"}


class Started:
    """The command, as a user starts it."""

    def __init__(self, model, folder, *arguments):
        (folder / "token").write_text(f"{TOKEN}\n")
        command = [sys.executable, "-m", "segfast.serve", model, "--port", 0, *arguments]
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
        )
        # It says its address once it is ready, however long its kernels compile, or it ends.
        address = next((line for line in self.process.stdout if line.startswith("http://")), None)
        assert address is not None, f"the service ended with {self.process.wait()}"
        self.port = int(address.rpartition(":")[2])

    def ask(self, method, path, body=None, headers=None):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return SimpleNamespace(status=response.status, headers=response.headers, body=response.read())
        finally:
            connection.close()

    def segment(self, body, accept="application/json", **headers):
        return self.ask("POST", "/segment", body, {**JPEG, "Accept": accept, **headers})

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def service(tiny_onnx, tmp_path_factory):
    limits = ("--token-file", "token", "--max-bytes", 100_000, "--max-pixels", 20_000, "--seconds", 5)
    started = Started(tiny_onnx, tmp_path_factory.mktemp("service"), *limits)
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="module")
def engine(tiny_onnx):
    return Engine(tiny_onnx, device="cpu")


def test_json_has_shares_and_runs(service, engine):
    expected = engine.segment(io.BytesIO(encoded(0)))
    response = service.segment(encoded(0))
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
    found = json.loads(response.body)
    assert (found["height"], found["width"]) == (60, 80)
    labels = runs.decode(runs.Runs(*(np.array(found["runs"][name]) for name in ("labels", "lengths"))), (60, 80))
    np.testing.assert_array_equal(labels, expected.labels)
    assert {one["name"]: one["share"] for one in found["classes"]} == expected.areas
    for one in found["classes"]:
        assert one["name"] == engine.config.classes[one["label"]]
        assert tuple(one["color"]) == engine.config.palette[one["label"]]


def test_labels_and_overlay(service, engine):
    expected = engine.segment(io.BytesIO(encoded(1)))
    response = service.segment(encoded(1), "image/png")
    assert response.headers["Content-Type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.body))), expected.labels)
    response = service.segment(encoded(1), "image/jpeg")
    overlay = Image.open(io.BytesIO(response.body))
    assert (overlay.format, overlay.size) == ("JPEG", expected.overlay().size)
    difference = np.abs(np.asarray(overlay, float) - np.asarray(expected.overlay(), float))[:, :80]
    assert difference.mean() < 8


@pytest.mark.parametrize("kind", ["turned", "CMYK", "16 bits", "transparent"])
def test_pictures_are_read_as_by_the_engine(service, engine, kind):
    pixels, file = Image.open(io.BytesIO(encoded(3))).convert("RGB"), io.BytesIO()
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        pixels.save(file, format="JPEG", exif=exif)
    elif kind == "CMYK":
        pixels.convert("CMYK").save(file, format="JPEG")
    elif kind == "16 bits":
        grey = np.asarray(pixels.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(file, format="PNG")
    else:
        pixels.putalpha(100)
        pixels.save(file, format="PNG")
    expected = engine.segment(io.BytesIO(file.getvalue())).labels
    response = service.segment(file.getvalue(), "image/png")
    found = np.asarray(Image.open(io.BytesIO(response.body)))
    assert found.shape == ((80, 60) if kind == "turned" else (60, 80))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"), ("image/*", "image/png"), ("image/png;q=0.5, image/jpeg", "image/jpeg"),
        ("text/html", None), ("application/json;q=0, */*", "image/png"), ("", None), ("image/jpeg;q=x", None),
        ("IMAGE/PNG", "image/png"),
    ],
)  # fmt: skip
def test_accept_decides(accept, kind):
    assert choose(accept, KINDS) == kind


def test_answers_belong_to_their_pictures(service, engine):
    expected = [engine.segment(io.BytesIO(encoded(number))).labels for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: service.segment(encoded(number), "image/png"), range(40)))
    for response, labels in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.body))), labels)


def bomb():
    """A small file of 10,000 × 10,000 pixels."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, format="PNG")
    return file.getvalue()


def test_what_is_refused(service, tmp_path):
    secret = REPOSITORY / "examples" / "cat.jpg"
    for status, body, headers in [
        (401, encoded(0), {"Authorization": "Bearer another"}),
        (401, encoded(0), {"Authorization": "Bearer \xff"}),
        (406, encoded(0), {"Accept": "text/html"}),
        (415, encoded(0), {"Content-Type": "text/plain"}),
        (413, bytes(100_001), {}),
        (413, bomb(), {}),
        (413, encoded(0, (150, 150)), {}),
        (422, encoded(0)[:100], {}),
        (422, b"", {}),
        (422, str(secret).encode(), {}),  # the path of a picture that is there
        (200, encoded(0), {}),
    ]:
        response = service.segment(body, **headers)
        assert response.status == status, (status, headers, response.body)
        assert status == 200 or json.loads(response.body)["error"]
    assert service.ask("GET", "/segment").status == 405
    assert service.ask("GET", "/../../etc/passwd").status == 404
    assert service.ask("GET", "/metrics").status == 401
    metrics = service.ask("GET", "/metrics", headers=JPEG).body.decode()
    assert 'segfast_requests_total{status="415"} 1.0' in metrics
    assert "segfast_waiting 0.0" in metrics


def test_a_chunked_body_without_a_length_has_the_same_limit(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        head = "".join(f"{name}: {value}\r\n" for name, value in JPEG.items())
        client.sendall(f"POST /segment HTTP/1.1\r\nHost: x\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with pytest.raises(OSError):  # noqa: PT012 (somewhere on the way the service hangs up)
            for _ in range(1000):
                client.sendall(b"4000\r\n" + bytes(0x4000) + b"\r\n")
            pytest.fail("16 MB were taken")
    assert service.segment(encoded(0)).status == 200


def test_slow_bodies_and_huge_heads_end(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        head = "".join(f"{name}: {value}\r\n" for name, value in JPEG.items())
        client.sendall(f"POST /segment HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 1000\r\n\r\nabc".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))  # until the service hangs up
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 5 seconds" in answer
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: " + bytes(b"a" * 200_000))
        with suppress(ConnectionResetError):
            assert client.recv(65536).startswith(b"HTTP/1.1 400")
    assert service.segment(encoded(0)).status == 200


def test_a_body_that_nobody_reads_ends_its_connection(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        start = time.monotonic()
        with suppress(ConnectionResetError):
            assert b"".join(iter(lambda: client.recv(65536), b"")).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - start < 4  # not after uvicorn's 5 seconds, which another byte would renew


class Slow:
    """An Engine that takes its time, and fails as told."""

    def __init__(self):
        self.go = threading.Event()
        self.fault = None

    def segment_many(self, images, errors):
        for image in images:
            self.go.wait(60)
            if self.fault is not None:
                fault, self.fault = self.fault, None
                raise fault
            yield BadImage(image.getvalue().decode())


def test_a_full_queue_refuses_and_what_is_cancelled_is_skipped():
    engine = Slow()
    stream = Stream(engine, places=2)
    first = stream.submit(io.BytesIO(b"first"))
    while not first.running():
        time.sleep(0.01)
    dropped, last = stream.submit(io.BytesIO(b"dropped")), stream.submit(io.BytesIO(b"last"))
    assert stream.full
    with pytest.raises(Full):
        stream.submit(io.BytesIO())
    assert dropped.cancel()
    engine.go.set()
    assert [str(answer.exception(10)) for answer in (first, last)] == ["first", "last"]
    stream.close()
    assert not stream._thread.is_alive()


def test_a_picture_that_comes_as_a_stream_closes_is_answered():
    """Behind the last entry of the queue nobody would find it."""
    engine = Slow()
    engine.go.set()
    stream = Stream(engine, places=2)
    closer, put = threading.Thread(target=stream.close), stream._queue.put_nowait

    def put_late(entry):
        closer.start()
        closer.join(0.3)
        put(entry)

    stream._queue.put_nowait = put_late
    assert str(stream.submit(io.BytesIO(b"late")).exception(10)) == "late"
    closer.join()
    with pytest.raises(Full):
        stream.submit(io.BytesIO())


def test_a_fault_of_the_program_costs_one_answer():
    """The next picture goes to the next run, not to the source that the fault left waiting."""
    engine = Slow()
    engine.fault = KeyError("a fault")
    stream = Stream(engine, places=20)
    bad = stream.submit(io.BytesIO(b"bad"))
    engine.go.set()
    assert isinstance(bad.exception(10), KeyError)
    more = [stream.submit(io.BytesIO(str(number).encode())) for number in range(10)]
    assert [str(answer.exception(10)) for answer in more] == [str(number) for number in range(10)]
    stream.close()


def test_too_many_get_429_and_what_has_come_is_answered_at_the_end(tiny_onnx, tmp_path):
    big = encoded(0, (2000, 2000))  # over a thousand windows: some seconds
    started = Started(tiny_onnx, tmp_path, "--queue", 1, "--seconds", 50)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(started.segment, big, "image/png") for _ in range(16)]
        while started.ask("GET", "/ready").status == 200:
            time.sleep(0.01)
        refused = started.segment(encoded(0))
        assert refused.status == 429
        assert refused.headers["Retry-After"] == "1"
        assert started.stop() == 0
        found = [outcome(answer) for answer in asked]
    assert set(found) <= {200, 429}
    assert found.count(200) >= 2
    assert found.count(429) >= 1


def outcome(future):
    try:
        return future.result().status
    except (RemoteDisconnected, ConnectionError) as error:
        return type(error).__name__


def test_the_page_is_whole_and_its_options_are_checked(service, tmp_path):
    response = service.ask("GET", "/")
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    page = response.body.decode()
    assert len(page.splitlines()) < 300
    assert "http" not in page.replace("http-equiv", "")  # nothing is loaded from anywhere
    (tmp_path / "empty").touch()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for options in (("--token-file", "empty"), ("--token-file", "none"), ("--port", service.port), ("--port", 70000)):
        command = [sys.executable, "-m", "segfast.serve", "x.onnx", *map(str, options)]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 2
        assert ended.stderr.startswith("error: ")
