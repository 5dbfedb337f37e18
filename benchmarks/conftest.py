"""What a run of the benchmarks found is gathered, and written.

A run of the whole folder writes benchmarks/results/DEVICE.json; a part of it writes what `--results FILE` names.
"""

import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.recording import file_name, surroundings, write

HERE = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption(
        "--results",
        metavar="FILE",
        type=Path,
        help="JSON for python -m benchmarks.report (default: of a whole run, benchmarks/results/DEVICE.json)",
    )
    parser.addoption(
        "--artifacts",
        metavar="FOLDER",
        type=Path,
        help="where exported files are kept between runs, some 13 GB (default: nowhere)",
    )


def pytest_configure(config):
    config.benchmark_rows, config.benchmark_start = [], time.monotonic()
    config.benchmark_device = "cuda" if _has_gpu() else "cpu"
    config.benchmark_surroundings = surroundings(config.benchmark_device)  # before anyone edits the sources


def _has_gpu():
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def _own_cache():
    """Compiled models, gigabytes of them, stay out of the user's cache directory."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGFAST_CACHE", folder)
        yield


@pytest.fixture(scope="session")
def device(request):
    """`cuda` where there is a GPU, `cpu` elsewhere."""
    return request.config.benchmark_device


@pytest.fixture
def record(request):
    """A function that keeps a row of the results."""
    return request.config.benchmark_rows.append


@pytest.fixture
def artifacts(request, tmp_path):
    """A function (name, function that writes a path) → path of a file, made once; see `benchmarks.artifacts`."""
    from benchmarks.artifacts import Artifacts

    kept = request.config.getoption("--artifacts")
    made = Artifacts(kept or tmp_path)
    yield made
    if kept is None:
        made.clear()


@pytest.fixture(scope="session")
def limits(request, device):
    """The machine's, measured in this run."""
    from benchmarks import limits as machine

    found = machine.measure(device)
    request.config.benchmark_rows.append({"section": "limits", "id": "limits", **found})
    return found


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    path = config.getoption("--results")
    if path is None and _whole(session, exitstatus):
        path = HERE / "results" / file_name(config.benchmark_surroundings["device"])
    if path is not None and config.benchmark_rows:
        seconds = time.monotonic() - config.benchmark_start
        write(path, {**config.benchmark_surroundings, "seconds": round(seconds), "rows": config.benchmark_rows})


def _whole(session, exitstatus):
    """Whether all benchmarks were asked for, and nothing but them, and the run came to its end, with failures perhaps."""
    option = session.config.option
    chosen = any(getattr(option, name, None) for name in ("keyword", "markexpr", "collectonly", "lf", "deselect"))
    ended = (
        exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        and not session.shouldstop
        and not session.shouldfail
    )
    return ended and not chosen and {Path(argument).resolve() for argument in session.config.args} == {HERE.resolve()}
