"""What commands print reaches any console, and ends quietly where nobody reads it."""

import os
import subprocess
import sys

import pytest
from helpers import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
SAY = "from segfast import cli\ndef main():\n    {}\n    return 0\ncli.run(main)"


def shell(line, code="print('Дом × 道路 \\udcff')", **environment):
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "CODE": SAY.format(code),
        "PYTHON": sys.executable,
        "PYTHONUNBUFFERED": "",
        **environment,
    }
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, cwd=REPOSITORY, timeout=60)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("cp1251", "Дом \\xd7 \\u9053\\u8def \\udcff".encode("cp1251")),
        ("ascii", rb"\u0414\u043e\u043c \xd7 \u9053\u8def \udcff"),
        ("cp932", "Дом × 道路 \\udcff".encode("cp932")),
        ("utf-8", "Дом × 道路 \\udcff".encode()),
    ],
)
def test_any_encoding(encoding, said):
    ended = shell('"$PYTHON" -c "$CODE"', PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, said, b"")


def test_a_plain_locale():
    ended = shell(
        '"$PYTHON" -c "$CODE"', r"print('\u0414 \u9053')", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["models", "segment --help", "--help"])
def test_commands_in_ascii(command):
    ended = shell(f'"$PYTHON" -m segfast {command}', PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize(
    "code", ["print('x\\n' * 100000)", "print('x' * 10, flush=True); print('y' * 100000, flush=True)", "print('x')"]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_ends_it_quietly(code, unbuffered):
    code = f"import time; time.sleep(0.3); {code}"
    ended = shell('"$PYTHON" -c "$CODE" | true; exit ${PIPESTATUS[0]}', code, PYTHONUNBUFFERED=unbuffered)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_help_whose_reader_goes():
    ended = shell('{ sleep 0.3; exec "$PYTHON" -m segfast.segment --help; } | true; exit ${PIPESTATUS[0]}')
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_another_pipe_that_breaks_is_no_silence():
    ended = shell('"$PYTHON" -c "$CODE"', "raise BrokenPipeError('a worker')")
    assert ended.returncode == 1
    assert b"a worker" in ended.stderr


def test_streams_that_are_closed():
    code = "file = open('/dev/zero'); print('nobody hears'); assert file.fileno() > 2; import sys; sys.stderr.write('nobody')"
    ended = shell('"$PYTHON" -c "$CODE" <&- >&- 2>&-; exit $?', code)
    assert ended.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full(unbuffered):
    ended = shell('"$PYTHON" -c "$CODE" > /dev/full', PYTHONUNBUFFERED=unbuffered)
    assert ended.returncode == 2
    assert b"error: cannot write what the command prints: No space left" in ended.stderr
