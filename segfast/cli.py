"""What the commands share: argument parsers, standard streams, exit codes."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from segfast.errors import SegfastError
from segfast.protocol import Size

_PIPE_CLOSED = 141  # what a shell reports for a process that SIGPIPE ends: 128 + 13
# What `print` raises on a full disk; for files that we write ourselves, files.py has the messages.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def run(command: Callable[[], int]) -> None:
    """Run a command and exit: 0, its own code, 2 for a user's error (one line of text), 130 for Ctrl-C.

    141, silently, when nobody reads its output any more (`| head`).
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: nothing stays half written
    prepare_streams()
    try:
        code = _attempt(command)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # another pipe broke
        code = _PIPE_CLOSED
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        _discard(sys.stdout)
        message = f"cannot write what the command prints: {error.strerror}; choose another place for it"
        print(f"error: {message}", file=sys.stderr)
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


def prepare_streams() -> None:
    """Make standard output and error accept any text: letters that their encoding lacks become code points.

    A stream that is closed from the start (`>&-`, or a program without a console) is opened on the null device.
    Otherwise the next file opened would get its number, and with it whatever a library prints.
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
    """Whether nobody reads standard output or error any more; whatever is still to be written there is discarded."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
    for stream in gone:
        _discard(stream)
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


def _discard(stream: TextIO) -> None:
    """Discard what a stream still buffers: Python flushes it at exit, and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser for `python -m {module}`, whose help shows the module's docstring."""
    summary, _, rest = (description or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """The options that say what an Engine runs on."""
    parser.add_argument("--runtime", choices=("openvino", "onnxruntime", "pytorch"))
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU if there is one)")
    parser.add_argument("--threads", type=positive, help="CPU threads of the network")


def add_fit(parser: argparse.ArgumentParser, default: str, meaning: str) -> None:
    """The option that says to what size images are resized first: (long, short), None, or the word of the default."""

    def fit(text: str) -> Size | str | None:
        if text in ("none", default):
            return None if text == "none" else text
        match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
        if match is None:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no size; write 2048x512 (long x short side), none or {default}"
            )
        return int(match[1]), int(match[2])

    parser.add_argument(
        "--fit",
        type=fit,
        default=default,
        metavar="LONGxSHORT",
        help=f"resize images to fit this; none: not at all (default: {meaning})",
    )


def positive(text: str) -> int:
    """The argument type of whole numbers from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number from 1")
    return value
