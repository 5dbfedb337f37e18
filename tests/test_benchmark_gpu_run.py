"""The command of the proof on a GPU: sections that hang, die, lose their device or their time cost what they must."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import REPOSITORY

from segfast.machine.devices import nvidia_gpus

pytest.importorskip("torch")
if sys.platform == "win32":
    pytest.skip("processes are stopped by signals", allow_module_level=True)

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import budget, processes, sanitizer, sections, suite, watching
from benchmarks.gpu.results import Results, fastest
from benchmarks.gpu.watching import Given, Section

ABOUT = {"benchmark": "benchmarks.gpu", "rehearsal": True, "device": "?", "versions": {"torch": "?", "triton": "?"}}
OUTER = """
def plan(budget):
    for case in ("first", "second", "last"):
        yield {"section": "x", "case": case}, globals()[case]
def first():
    return {"ratio": 1}
last = first
"""
HANGS = f"""
import pathlib, signal, subprocess, time
{OUTER}
def second():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pathlib.Path("PID").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    time.sleep(600)
"""
DIES = f"""
import os, signal
{OUTER}
def second():
    print("a last word", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
"""
LOST = """
import torch
def raising(*given):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
torch.cuda.synchronize = torch.cuda.empty_cache = torch.cuda.current_stream = raising
def plan(clock):
    for case in range(4):
        yield {"section": "x", "case": case}, clock.synchronise
"""


@pytest.fixture
def section(tmp_path, monkeypatch):
    """A function (source of a module, changes) → a section whose rows that module has."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(source, **changes):
        (tmp_path / "stand_in.py").write_text(source.replace("PID", str(tmp_path / "pid")))
        return Section(**({"name": "x", "module": "stand_in", "untimed": True} | changes))

    return make


def given(seconds=100.0, device="cpu", grace=0.3):
    return Given(device, time.monotonic() + seconds, grace)


def ended(pid):
    """Whether a process is gone, or soon."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_a_row_that_hangs_costs_itself_alone(section, tmp_path):
    rows = list(watching.rows(section(HANGS, hang=2), given()))
    assert [row["case"] for row in rows] == ["first", "second", "last"]
    assert (rows[0]["ratio"], rows[2]["ratio"]) == (1, 1)
    assert rows[1]["error"] == "hung: no answer within 2 s"
    assert ended(int((tmp_path / "pid").read_text()))  # what it had started, too


def test_a_section_stops_by_its_deadline_with_what_it_has(section, tmp_path):
    limits, rows = SimpleNamespace(**given()._asdict()), []
    for row in watching.rows(section(HANGS), limits):
        limits.deadline = min(
            limits.deadline, time.monotonic() + 0.5
        )  # once the first row is there, however slow the machine
        rows.append(row)
    assert time.monotonic() - limits.deadline < 10
    over = {"skipped": "stopped, as the time of its section was over"}
    assert rows[0]["ratio"] == 1
    assert rows[1:] == [{"section": "x", "case": case} | over for case in ("second", "last")]
    assert ended(int((tmp_path / "pid").read_text()))


def test_a_process_that_dies_costs_one_row(section):
    rows = list(watching.rows(section(DIES), given()))
    assert rows[1] == {"section": "x", "case": "second", "error": "the process ended with SIGSEGV: a last word"}
    assert (rows[0]["ratio"], rows[2]["ratio"]) == (1, 1)


def test_a_device_whose_every_call_raises_ends_in_rows(section, monkeypatch):
    """A new process for each row, as the device may come back, but not forever."""
    monkeypatch.setattr(watching, "RESTARTS", 1)
    rows = list(watching.rows(section(LOST, untimed=False), given(device="cuda")))
    assert len(rows) == 4
    assert all("illegal memory access" in row["error"] for row in rows[:2])
    assert [row["skipped"] for row in rows[2:]] == ["not begun, as before it the device was lost"] * 2


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_package", {"section": "x", "skipped": "no_such_package is not installed"}),
        ("raise OSError('no disk')", {"section": "x", "error": "the process ended with code 1: OSError: no disk"}),
    ],
)
def test_a_section_that_cannot_begin_says_why(section, source, told):
    assert list(watching.rows(section(source), given())) == [told]


def test_the_json_is_written_after_every_row(section, tmp_path):
    """The second row waits until the file has the first."""
    path = tmp_path / "found.json"
    waits = f"""
import json, pathlib, time
{OUTER}
def second():
    for _ in range(400):
        rows = json.loads(pathlib.Path({str(path)!r}).read_text())["results"]
        if rows:
            return {{"seen": rows}}
        time.sleep(0.05)
"""
    results = Results(ABOUT, path)
    results.write()
    command.run((section(waits),), results, "cpu", time.monotonic() + 100, 0.3)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["results"][1]["seen"] == found["results"][:1]
    assert found["complete"] is False
    assert [one["section"] for one in found["sections"]] == ["x"]
    results.write(complete=True)
    assert json.loads(path.read_text(encoding="utf-8"))["complete"] is True


def test_an_interrupted_command_leaves_no_process(section, tmp_path):
    class Interrupted(Results):
        def add(self, row):
            super().add(row)
            raise KeyboardInterrupt

    tells = (
        f"import os, time\n{OUTER}\ndef second():\n    time.sleep(600)\ndef first():\n    return {{'pid': os.getpid()}}"
    )
    results = Interrupted(ABOUT, tmp_path / "found.json")
    with pytest.raises(KeyboardInterrupt):
        command.run((section(tells),), results, "cpu", time.monotonic() + 100, 5)
    (row,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert ended(row["pid"])


def test_without_time_no_process_is_started(section):
    (row,) = watching.rows(section(OUTER), given(-1))
    assert row["section"] == "x"
    assert "time of its section was over" in row["skipped"]


def test_time_that_sections_leave_goes_to_the_others():
    some = tuple(Section(name, "?", share=share) for name, share in (("a", 1), ("b", 1), ("c", 2)))
    assert sections.deadline(0, 100, 0, some) == 25
    assert sections.deadline(10, 100, 1, some) == 40
    assert sections.deadline(10, 100, 2, some) == 100
    assert sections.deadline(120, 100, 2, some) == 120
    assert sections.deadline(0, 100, 0, (some[0]._replace(least=60), *some)) == 60
    assert sections.deadline(90, 100, 0, (some[0]._replace(least=60), *some)) == 100
    assert len({one.name for one in sections.SECTIONS}) == len(sections.SECTIONS)


# Processes ------------------------------------------------------------------------------------------------------------


def python(source):
    return [sys.executable, "-c", f"import signal, time\n{source}"]


def test_a_command_that_is_stopped_may_write_what_it_has():
    obeys = (
        "try:\n    print('begun', flush=True); time.sleep(600)\nexcept KeyboardInterrupt:\n    print('what there is')"
    )
    found = processes.run(python(f"signal.signal(signal.SIGINT, signal.default_int_handler)\n{obeys}"), 2, 20)
    assert found.output.endswith("what there is")
    assert found.stopped == "stopped after 2 s"
    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun', flush=True); time.sleep(600)"
    found = processes.run(python(deaf), 2, 0.2)
    assert (found.output, found.stopped) == ("begun", "stopped after 2 s, and killed")
    assert processes.run(python("print('done')"), 60) == (0, "done", None)


def test_tests_that_are_stopped_are_counted_as_far_as_they_came(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    go = tmp_path / "go"
    (tmp_path / "test_x.py").write_text(
        "import os, signal, threading, time\nimport pytest\n"
        "@pytest.mark.gpu\ndef test_a():\n    pass\n"
        "@pytest.mark.gpu\ndef test_b():\n    raise ValueError('wrong')\n"
        f"@pytest.mark.gpu\ndef test_c():\n    open({str(go)!r}, 'w').close(); time.sleep(600)\n"
        "def test_of_a_cpu():\n    pass\n"
    )
    run = subprocess.Popen.wait

    def wait(process, seconds=None):
        """The time is over once the third test has begun, however slow the machine."""
        while seconds == 1234 and not go.exists():
            time.sleep(0.05)
        return run(process, 0.1 if seconds == 1234 else seconds)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    row = suite.run(tmp_path / "test_x.py", 1234, 60)
    assert (row["passed"], row["failed"], row["skipped_tests"]) == (1, 1, 0)
    assert row["stopped"].startswith("stopped after 1234 s, at ")
    assert "wrong" in row["failures"][0]["message"]


def test_a_file_of_tests_that_pytest_cannot_run_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="pytest ended with code 4"):
        suite.run(tmp_path / "test_none.py", 100)


def test_every_file_with_tests_of_a_gpu_has_a_row():
    files = [about["file"] for about, _ in suite.plan(budget.Budget("cuda", 0))]
    assert {
        f"test_{name}.py" for name in ("attention_gpu", "engine", "engine_gpu", "merge_gpu", "tensorrt_runtime")
    } <= set(files)
    assert Path(__file__).name not in files


def test_what_the_memory_checker_finds_is_an_error(tmp_path, monkeypatch):
    checker = tmp_path / "compute-sanitizer"
    checker.write_text('#!/bin/sh\necho "$@"\necho "========= ERROR SUMMARY: $ERRORS errors"\nexit $CODE\n')
    checker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert sanitizer.tool() == str(checker)
    for variable, value in (("ERRORS", "0"), ("CODE", "0")):
        monkeypatch.setenv(variable, value)
    assert sanitizer.check(sanitizer.checked(str(checker)), "labels-300", "cuda", 100)["errors_found"] == 0
    for variable, value in (("ERRORS", "2"), ("CODE", "99")):
        monkeypatch.setenv(variable, value)
    with pytest.raises(
        AssertionError, match=r"code 99: --tool memcheck .* benchmarks.gpu.once labels-300 --device cuda"
    ):
        sanitizer.check(sanitizer.checked(str(checker)), "labels-300", "cuda", 100)


def test_without_the_memory_checker_rows_say_so(monkeypatch):
    monkeypatch.setattr(sanitizer, "tool", lambda: None)
    time_left = budget.Budget("cuda", time.monotonic() + 60)
    rows = [time_left.attempt(row) for row in sanitizer.plan(time_left)]
    assert len(rows) == 7
    assert all("is not installed" in row["skipped"] for row in rows)


def test_what_the_checker_watches_is_compared_with_its_twin():
    found = sanitizer.check([], "split-1025", "cpu", 300)
    assert found["errors_found"] is None


# The command ----------------------------------------------------------------------------------------------------------


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(nvidia_gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    ended = run("--out", str(tmp_path / "x.json"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: this needs an NVIDIA GPU")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_gives_the_json_of_a_gpu(tmp_path):
    ended = run("--rehearse", "--sections", "sweep,machine", "--out", str(tmp_path / "x.json"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert json.loads(ended.stdout.splitlines()[-1]) | {"seconds": 0} == found | {"seconds": 0}
    assert [one["section"] for one in found["sections"]] == ["machine", "sweep"]
    assert {row["section"] for row in found["results"]} == {"machine", "sweep"}
    assert not [row for row in found["results"] if "skipped" in row or "error" in row]
    assert found["measured_peak"]["matrix_tflops"] > 0
    assert found["complete"] is True
    assert found["tests"] == {"ok": None}
    assert {"torch", "triton", "numpy"} <= found["versions"].keys()


def test_without_time_every_section_says_why_it_is_missing(tmp_path):
    ended = run("--rehearse", "--seconds", "1", "--out", str(tmp_path / "x.json"))
    assert ended.returncode == 1  # no test was run
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert {row["section"] for row in found["results"]} == {one.name for one in sections.SECTIONS}
    assert found["skipped"] == len(found["results"])
    assert found["seconds"] < 60


def test_unknown_sections_are_refused():
    ended = run("--rehearse", "--sections", "ends,nothing")
    assert ended.returncode == 2
    assert "there is no section nothing" in ended.stderr


def test_results_fail_for_tests_and_rows_but_not_for_targets_and_what_is_missing():
    results = Results(ABOUT | {"rehearsal": False}, None)
    results.add({"section": "ends", "targets": [{"what": "x", "wanted": 2, "got": 1, "met": False}]})
    results.add({"section": "tensorrt", "skipped": "not installed"})
    assert results.passed()
    assert results.content()["targets"] == {"met": 0, "missed": 1}
    results.add({"section": "tests", "file": "a", "passed": 3, "failed": 0, "skipped_tests": 1})
    assert results.passed()
    stopped = Results(ABOUT, None)
    for row in (
        *results.rows,
        {"section": "tests", "file": "b", "passed": 1, "failed": 0, "stopped": "stopped after 9 s"},
    ):
        stopped.add(row)
    assert not stopped.passed()
    counts = {"passed": 4, "failed": 0, "skipped_tests": 1, "files": 2, "incomplete": 1}
    assert stopped.content()["tests"] == {"ok": False} | counts
    results.add({"section": "ends", "error": "wrong"})
    assert not results.passed()


def test_the_fastest_tile_of_each_shape():
    row = {"section": "sweep", "B": 8, "N": 4097, "H": 12}
    speeds = (
        ("a", {"candidate": 300, "cudnn": 400}),
        ("b", {"candidate": 420, "cudnn": 400}),
        ("c", {"candidate": 410}),
        ("d", {"cudnn": 400}),
    )
    assert fastest([row | {"candidate": name, "tflops": tflops} for name, tflops in speeds]) == {
        "8×4097, 12 heads": {"tile": "b", "candidate": 420, "cudnn": 400}
    }


def test_a_child_tells_of_a_row_that_is_no_json(tmp_path, section):
    rows = list(watching.rows(section(OUTER + "\ndef second():\n    return {'x': object()}"), given()))
    assert "not JSON serializable" in rows[1]["error"]
    assert rows[2]["ratio"] == 1
