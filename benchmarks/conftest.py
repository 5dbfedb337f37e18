"""What a run of the benchmarks found is gathered, and written with `--results FILE`."""

import time
from pathlib import Path

import pytest

from benchmarks import limits as machine
from benchmarks.recording import surroundings, write


def pytest_addoption(parser):
    parser.addoption("--results", metavar="FILE", type=Path, help="JSON for python -m benchmarks.report")


def pytest_configure(config):
    config.benchmark_rows, config.benchmark_start = [], time.monotonic()


@pytest.fixture
def record(request):
    """A function that keeps a row of the results."""
    return request.config.benchmark_rows.append


@pytest.fixture(scope="session")
def limits(request):
    """The machine's, measured in this run."""
    found = machine.measure()
    request.config.benchmark_rows.append({"section": "limits", "id": "limits", **found})
    return found


def pytest_sessionfinish(session):
    path = session.config.getoption("--results")
    if path is not None and session.config.benchmark_rows:
        seconds = time.monotonic() - session.config.benchmark_start
        write(path, {**surroundings(), "seconds": round(seconds), "rows": session.config.benchmark_rows})
