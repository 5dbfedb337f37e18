"""The service under closed-loop clients, by turns with `segment_many` in this process on the same pictures.

    python -m benchmarks.scale.service seg-s-32-512-fp16.onnx

A client sends its next picture when it has its answer. Clients are threads of one process of its own, on the same cores.
Where others share the cores, CPU time says more than rates do: a rate of several processes beside that of one is flattered.
"""

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

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
    with started(options.model) as (port, process):
        many(engine, files, 3)
        for _ in range(options.rounds):
            rates.append(many(engine, files, options.seconds))
            for count in options.clients:
                before = cpu(process.pid)
                rate, times, theirs = clients(options, port, count)
                found[count].append((rate, times, (cpu(process.pid) - before) / len(times), theirs))
    base, own = np.median(rates, axis=0)
    print(f"{options.model}, {pictures.load()}; segment_many {base:.1f} images/s, {own * 1e3:.1f} ms of CPU each")
    print("| clients | images/s | of segment_many's, by rounds | p50, ms | p99, ms | CPU, ms: service, clients |")
    print("|---|---|---|---|---|---|")
    for count, rounds in found.items():
        times = np.concatenate([times for _, times, *_ in rounds]) * 1e3
        share = np.median([rate / base for (rate, *_), (base, _) in zip(rounds, rates, strict=True)])
        rate, ours, theirs = (np.median([row[k] for row in rounds]) for k in (0, 2, 3))
        low, high = np.percentile(times, (50, 99))
        print(f"| {count} | {rate:.1f} | {share:.0%} | {low:.0f} | {high:.0f} | {ours * 1e3:.1f}, {theirs * 1e3:.1f} |")


def cpu(pid):
    """Seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def many(engine, files, seconds):
    """(images a second, seconds of CPU each) of segment_many on encoded pictures."""
    start, before = time.perf_counter(), time.process_time()

    def source():
        for content in itertools.cycle(files):
            if time.perf_counter() - start > seconds:
                return
            yield io.BytesIO(content)

    count = sum(1 for _ in engine.segment_many(source()))
    return count / (time.perf_counter() - start), (time.process_time() - before) / count


def clients(options, port, count):
    """(images a second, seconds of every answer, seconds of CPU each) of so many clients."""
    command = [sys.executable, "-m", "benchmarks.scale.service", options.model, "--seconds", options.seconds]
    command += ["--as-client", port, count]
    ended = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, check=True)
    found = json.loads(ended.stdout)
    return found["rate"], np.array(found["times"]), found["cpu"] / len(found["times"])


def drive(port, threads, seconds):
    """What so many closed loops measure; every answer must be its picture's, by what it was at first."""
    files = [pictures.encoded(number, (512, 512), "JPEG") for number in range(SET)]
    times, known, lock = [], {}, threading.Lock()
    start, busy = time.perf_counter(), time.process_time()

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
    rate = len(times) / (time.perf_counter() - start)
    return {"rate": rate, "times": times, "cpu": time.process_time() - busy}


if __name__ == "__main__":
    main()
