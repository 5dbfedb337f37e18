"""Progress bars in a log: whole lines, each of one bar."""

import ast
import io
import sys

import pytest
from helpers import REPOSITORY

from segfast import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Log:
    """The standard error as it is in a test, no terminal."""

    def __init__(self, capsys):
        self._capsys, self._text = capsys, ""

    def text(self):
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def log(capsys):
    return Log(capsys)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, for the log's lines."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(progress, "time", Clock())
    return progress.time


def test_a_bar_in_a_log_is_its_first_line_its_last_and_one_now_and_then(log, clock):
    for index in progress.bar(range(60), "work", unit="picture", mininterval=0, miniters=1):
        clock.now += 1
        assert log.text().count("\n") <= index // 10 + 1
    lines = log.text().splitlines()
    assert "\r" not in log.text()
    assert log.text().endswith("\n")
    assert all(line.startswith("work: ") for line in lines)
    assert "0/60" in lines[0]
    assert "60/60" in lines[-1]
    assert 6 <= len(lines) <= 8


def test_bars_at_the_same_time_do_not_share_a_line(log, clock):
    outer = progress.bar(desc="outer", total=3)
    for _ in range(3):
        for _ in progress.bar(range(2), "inner"):
            clock.now += 20
        outer.update()
    outer.close()
    lines = log.text().splitlines()
    assert {line.split(":")[0] for line in lines} == {"outer", "inner"}
    assert not any("outer" in line and "inner" in line for line in lines)


def test_no_line_is_said_twice(log, clock):
    bar = progress.bar(desc="zero", total=2, bar_format="{desc} |{bar:20}| {elapsed}")
    for name in ("one", "one", "two", "end", "end"):
        clock.now += 60
        bar.start_t -= 60
        bar.set_description_str(name)
    bar.close()
    assert [line.split(" |")[0] for line in log.text().splitlines()] == ["zero", "one", "two", "end"]


def test_what_is_said_beside_a_bar_has_a_line_of_its_own(log, clock):
    bar = progress.bar(desc="train", total=2)
    bar.update()
    bar.write("saved", file=sys.stderr)
    bar.close()
    lines = log.text().splitlines()
    assert "saved" in lines
    assert "1/2" in lines[-1]


def test_a_terminal_is_drawn_over(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    list(progress.bar(range(3), "work"))
    assert terminal.getvalue().count("\r") > 1
    assert terminal.getvalue().count("\n") == 1


def test_a_program_without_a_console_has_no_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert list(progress.bar(range(3), "work")) == [0, 1, 2]


def test_every_bar_is_made_here():
    for folder in ("segfast", "export", "train"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            named = [
                node
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom)
            ]
            assert path.name == "progress.py" or "tqdm" not in [node.module for node in named], path


def test_a_program_may_have_a_standard_error_of_its_own(monkeypatch):
    class Plain:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    plain = Plain()
    monkeypatch.setattr(sys, "stderr", plain)
    assert list(progress.bar(range(3), "count")) == [0, 1, 2]
    assert "100%" in plain.text
