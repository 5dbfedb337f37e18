"""20,000 requests of the kind that nobody wants: the service must stay up, not grow, and answer the good among them rightly.

    python -m benchmarks.scale.hostile

Truncated and oversized pictures, other types, bombs, paths, slow bodies, huge heads, noise, and clients that hang up.
Every tenth is a good picture that encodes its own number; its answer is compared with the Engine's.
"""

import argparse
import io
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.scale import pictures
from benchmarks.scale.started import started

GOOD = 50  # different good pictures
SECONDS, BYTES = 2, 200_000  # limits of the service under test


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from segfast import Engine

        model = pictures.tiny_model(folder)
        engine = Engine(model, device="cpu")
        labels = [engine.segment(io.BytesIO(pictures.encoded(number))).labels for number in range(GOOD)]
        limits = ("--seconds", SECONDS, "--max-bytes", BYTES, "--max-pixels", 1 << 20, "--queue", 64)
        with started(model, *limits) as (port, process):
            seen = Attack(port, labels).run(options.requests, options.threads, process.pid)
    first, last = seen.memory[1], seen.memory[-1]
    print(
        f"{options.requests} requests in {seen.seconds:.0f} s, {pictures.load()}: {dict(seen.statuses.most_common())}"
    )
    print("resident memory by tenths, MB:", *(f"{size / 1e6:.0f}" for size in seen.memory))
    print(f"from the first tenth on {last / first - 1:+.1%}")
    assert last < 1.05 * first


class Attack:
    def __init__(self, port, labels):
        self.port, self.labels = port, labels
        self.statuses, self.lock, self.memory, self.seconds = Counter(), threading.Lock(), [], 0.0
        file = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(file, format="PNG")
        self.bomb = file.getvalue()
        self.kinds = [
            self.truncated, self.noise, self.other_type, self.bombs, self.paths, self.large, self.huge_head, self.garbage,
            self.hang_up, self.half_head,
        ]  # fmt: skip

    def run(self, count, threads, pid):
        start = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(10):
                self.memory.append(resident(pid))
                list(pool.map(self.one, range(count // 10)))
        self.memory.append(resident(pid))
        self.seconds = time.monotonic() - start
        return self

    def one(self, number):
        if number % 10 == 0:
            status = self.good(number // 10 % GOOD)
        elif number % 200 == 1:
            status = self.slow()
        else:
            status = random.choice(self.kinds)()
        with self.lock:
            self.statuses[status] += 1

    def good(self, number):
        while True:
            status, body = self.ask(pictures.encoded(number), Accept="image/png")
            if status not in (429, 503):
                break
            time.sleep(0.1)
        assert status == 200, (status, body)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), self.labels[number]), number
        return "good"

    def ask(self, body, **headers):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", "/segment", body, {"Content-Type": "image/png", **headers})
            response = connection.getresponse()
            return response.status, response.read()
        except (ConnectionError, TimeoutError) as error:  # refused before all was sent
            return type(error).__name__, b""
        finally:
            connection.close()

    def truncated(self):
        whole = pictures.encoded(random.randrange(GOOD))
        status, _ = self.ask(whole[: random.randrange(len(whole) * 3 // 4)])
        assert status in (422, 429), status
        return status

    def noise(self):
        kinds = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"RIFF", b"P6 1 1 255\n")
        status, _ = self.ask(random.choice(kinds) + random.randbytes(random.randrange(3000)))
        assert status in (200, 413, 422, 429), status  # a PPM may be one
        return status

    def other_type(self):
        return self.ask(b"{}", **{"Content-Type": "application/json"})[0]

    def bombs(self):
        status, _ = self.ask(self.bomb)
        assert status in (413, 429), status
        return status

    def paths(self):
        status, _ = self.ask(str(Path(__file__).parents[2] / "examples" / "cat.jpg").encode())
        assert status in (422, 429), status
        return status

    def large(self):
        return self.ask(bytes(BYTES + random.randrange(1_000_000)))[0]

    def huge_head(self):
        return self.raw(b"POST /segment HTTP/1.1\r\nX: " + b"x" * 300_000)

    def garbage(self):
        return self.raw(random.randbytes(500) + b"\r\n\r\n")

    def half_head(self):
        return self.raw(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Le", wait=False)

    def hang_up(self):
        return self.raw(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 999\r\n\r\nabc",
            wait=False,
        )

    def slow(self):
        """A byte at a time, until the service has had enough."""
        head = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99999\r\n\r\n"
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            client.sendall(head)
            try:
                while time.monotonic() - start < 10 * SECONDS:
                    client.sendall(b"x")
                    time.sleep(0.2)
            except OSError:
                return "slow, dropped"
        raise AssertionError("a slow body was waited for")

    def raw(self, content, wait=True):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
                client.sendall(content)
                return client.recv(100)[9:12].decode(errors="replace") if wait else "hung up"
        except OSError as error:
            return type(error).__name__


def resident(pid):
    """Bytes of a process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    main()
