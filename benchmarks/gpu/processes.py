"""Commands that are stopped in time: interrupted first, so that they write what they have, and killed if they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

REPOSITORY = Path(__file__).parents[2]
# What a command has to write down what it found, once it was interrupted.
GRACE = 10.0


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit code, negative for a signal.
        output: the end of what it printed.
        stopped: why it was, None if it ended by itself.
    """

    code: int
    output: str
    stopped: str | None


def run(
    command: Sequence[str], seconds: float, grace: float = GRACE, environment: dict[str, str] | None = None
) -> Ended:
    """Run a command from the repository for so many seconds at most, then stop it.

    Args:
        environment: variables beyond those of this process.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
        )
        stopped = None
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            stopped = f"stopped after {seconds:.0f} s"
        finally:  # of an interrupt of our own, too
            obeyed = interrupt(process, grace)
        return Ended(process.returncode, tail(output), stopped and (stopped if obeyed else f"{stopped}, and killed"))


def start(command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command of which whatever it starts can be ended with it; see `stop`."""
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """End a command of `start` and all that it has left behind."""
    interrupt(process, grace)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def interrupt(process: subprocess.Popen[Any], grace: float) -> bool:
    """End a command as Ctrl-C does, and kill it if it still runs after the grace; whether it obeyed."""
    if process.poll() is not None:
        return True
    process.send_signal(signal.SIGINT)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def tail(output: IO[bytes], count: int = 1500) -> str:
    """The end of what was printed."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - count))
    return output.read().decode(errors="replace").strip()
