"""The stack on which this thread's signal handlers run, and what makes one dangerous.

A handler of Python's own, for a child's end as for Ctrl-C, runs on the thread's signal stack. Where its memory is
gone, the next signal kills the process without a word.
"""

import ctypes
import mmap
import re
import sys
from pathlib import Path
from typing import NamedTuple

# LLVM's stacks are larger than this by the least that a signal needs, and come from malloc; OpenVINO's are smaller,
# and are pages of their own.
LLVM = 64 * 1024
DISABLED = 2  # SS_DISABLE of <signal.h>


class SignalStack(NamedTuple):
    address: int
    size: int


class _Struct(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def current():
    """This thread's signal stack, None where it has none or is not asked."""
    if not sys.platform.startswith("linux"):
        return None
    found = _Struct()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return SignalStack(found.address, found.size) if found.address else None


def install(stack):
    """Give this thread a signal stack, or with None take it away."""
    wanted = _Struct(stack.address, 0, stack.size) if stack else _Struct(None, DISABLED, 0)
    assert ctypes.CDLL(None).sigaltstack(ctypes.byref(wanted), None) == 0


def danger(stack, first):
    """What is wrong with a thread's signal stack, None if nothing is.

    Args:
        first: the thread's stack before the tests, which is taken to last.
    """
    if stack is None:
        return None
    if not _mapped(stack):
        return f"{stack} is unmapped: the next signal with a handler would kill the process"
    if stack != first and stack.address % mmap.PAGESIZE == 0 and stack.size < LLVM:
        return f"{stack} is OpenVINO's and goes with its Core: tests make theirs by helpers.openvino_core"
    return None


def _mapped(stack):
    """Whether every byte of a stack is memory that can be written."""
    reached, end = stack.address, stack.address + stack.size
    for line in Path("/proc/self/maps").read_text().splitlines():  # in order of their addresses
        low, high, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
        if int(low, 16) <= reached < int(high, 16) and "w" in rights:
            reached = int(high, 16)
    return reached >= end
