"""The service under closed-loop clients, by turns with `segment_many` in this process on the same pictures.

    python -m benchmarks.scale.service seg-s-32-512-fp16.onnx

A client sends its next picture when it has its answer. Clients are threads of one process of its own, on the same cores.
"""

import argparse
import io
import itertools
import json
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection

import numpy as np

from benchmarks.scale import pictures
from benchmarks.scale.started import started

SET = 32
HEADERS = {"Content-Type": "image/jpeg", "Accept": "image/png"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 4, 16))
    parser.add_argument("--as-client", type=int, nargs=2, metavar=("PORT", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_client:
        print(json.dumps(drive(*options.as_client, options.seconds)))
        return
    from segfast import Engine

    engine = Engine(options.model)
    files = [pictures.encoded(number, (512, 512), "JPEG") for number in range(SET)]
    rates, found = [], {count: [] for count in options.clients}
    with started(options.model) as (port, _):
        many(engine, files, 3)
        for _ in range(options.rounds):
            rates.append(many(engine, files, options.seconds))
            for count in options.clients:
                found[count].append(clients(options, port, count))
    print(f"{options.model}, {pictures.load()}; segment_many {np.median(rates):.1f} images/s")
    print("| clients | images/s | of segment_many, median of rounds | p50, ms | p99, ms |\n|---|---|---|---|---|")
    for count, rounds in found.items():
        times = np.concatenate([times for _, times in rounds]) * 1e3
        share = np.median([rate / base for (rate, _), base in zip(rounds, rates, strict=True)])
        rate = np.median([rate for rate, _ in rounds])
        print(
            f"| {count} | {rate:.1f} | {share:.0%} | {np.percentile(times, 50):.0f} | {np.percentile(times, 99):.0f} |"
        )


def many(engine, files, seconds):
    """Images a second of segment_many on encoded pictures."""
    start = time.perf_counter()

    def source():
        for content in itertools.cycle(files):
            if time.perf_counter() - start > seconds:
                return
            yield io.BytesIO(content)

    count = sum(1 for _ in engine.segment_many(source()))
    return count / (time.perf_counter() - start)


def clients(options, port, count):
    """(images a second, seconds of every answer) of so many clients."""
    command = [sys.executable, "-m", "benchmarks.scale.service", options.model, "--seconds", options.seconds]
    command += ["--as-client", port, count]
    ended = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, check=True)
    found = json.loads(ended.stdout)
    return found["rate"], np.array(found["times"])


def drive(port, threads, seconds):
    """What so many closed loops measure; every answer must be its picture's, by what it was at first."""
    files = [pictures.encoded(number, (512, 512), "JPEG") for number in range(SET)]
    times, known, lock = [], {}, threading.Lock()
    start = time.perf_counter()

    def loop(first):
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        for number in itertools.cycle(range(SET)):
            number = (number + first) % SET
            before = time.perf_counter()
            if before - start > seconds:
                return
            connection.request("POST", "/segment", files[number], HEADERS)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            with lock:
                times.append(time.perf_counter() - before)
                assert known.setdefault(number, content) == content, number

    workers = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({*known.values()}) == len(known)
    return {"rate": len(times) / (time.perf_counter() - start), "times": times}


if __name__ == "__main__":
    main()
