"""What the commands share: how they speak, and how they end."""

from __future__ import annotations

import argparse
import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from segfast.errors import SegfastError

# What a shell makes of a process that a closed pipe ends: 128 and the number of SIGPIPE.
_PIPE_CLOSED = 141
# What a full disk says to `print`; files of our own say it in their own way (files.py).
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def run(command: Callable[[], int]) -> None:
    """Run a command and exit: 0, its own code, 2 for a user's error (said in one line), 130 for Ctrl-C.

    141, without a word, where whoever reads what it prints has gone (`| head`).
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: nothing stays half written
    speak_anywhere()
    try:
        code = _attempt(command)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # of another pipe
        code = _PIPE_CLOSED
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        _silence(sys.stdout)
        print(
            f"error: cannot write what the command prints: {error.strerror}; choose another place for it",
            file=sys.stderr,
        )
        code = 2
    sys.exit(code)


def _attempt(command: Callable[[], int]) -> int:
    """The exit code of a command."""
    try:
        return command()
    except SegfastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SystemExit as ended:  # argparse has printed help, or an error
        return ended.code if isinstance(ended.code, int) else 0


def speak_anywhere() -> None:
    """Let standard output and error take any text: what their encoding lacks is written as its code point.

    A stream that was closed before the start (`>&-`, or a program without a console) becomes one that nobody
    reads. Otherwise the next file that is opened would get its number, and with it whatever a library prints.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for the life of the process)
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _reader_has_gone() -> bool:
    """Whether nobody reads a standard stream any more; what it has left to say is then sent nowhere."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
    for stream in gone:
        _silence(stream)
    return bool(gone)


def _is_broken(stream: TextIO) -> bool:
    try:
        stream.flush()
    except BrokenPipeError:
        return True
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()  # an unbuffered stream has nothing to flush
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _silence(stream: TextIO) -> None:
    """Send what is still to be printed nowhere: Python prints it when it ends, and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser for `python -m {module}`, described by the first paragraph of its docstring."""
    text = (description or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=text[0],
        epilog=text[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def positive(text: str) -> int:
    """A whole number from 1, as an argument's type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number from 1")
    return value
