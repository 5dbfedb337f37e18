"""The guard of the signal stack in conftest.py, and what Engines promise of it."""

import ctypes
import mmap
import subprocess
import sys

import pytest
import signal_stack
from helpers import REPOSITORY
from signal_stack import SignalStack

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="signal stacks are asked for on Linux only"
)


@pytest.fixture
def first():
    """This thread's signal stack, put back after a test that takes another."""
    found = signal_stack.current()
    yield found
    signal_stack.install(found)


def test_a_larger_stack_that_stays_is_no_danger(first):
    """As LLVM's, which Triton loads where its cache is cold: on CPUs without AMX it takes the first one's place."""
    memory = ctypes.create_string_buffer(signal_stack.LLVM + 3376)
    signal_stack.install(SignalStack(ctypes.addressof(memory), len(memory)))
    assert signal_stack.current() != first
    assert signal_stack.danger(signal_stack.current(), first) is None
    signal_stack.install(first)


def test_no_stack_and_the_first_are_no_danger(first):
    assert signal_stack.danger(first, first) is None
    signal_stack.install(None)
    assert signal_stack.danger(signal_stack.current(), first) is None


@pytest.mark.parametrize("lost", [slice(None), slice(4, None)])
def test_an_unmapped_stack_is_a_danger(first, lost):
    """All of its pages, or the last ones, at which a handler begins."""
    size, page = 8 * mmap.PAGESIZE, mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    libc.mmap.restype, libc.mmap.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long],
    )
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    begin = address + page * (lost.start or 0)
    assert libc.munmap(begin, address + size - begin) == 0
    assert "unmapped" in signal_stack.danger(SignalStack(address, size), None)
    assert libc.munmap(address, size) == 0


def test_a_stack_of_openvino_is_a_danger(first):
    """On every CPU: pages of their own, of 8 KiB and what a signal needs at least."""
    with mmap.mmap(-1, 6 * mmap.PAGESIZE) as pages:
        memory = ctypes.c_char.from_buffer(pages)
        stack = SignalStack(ctypes.addressof(memory), 8192 + 11952)
        assert "OpenVINO's" in signal_stack.danger(stack, first)
        assert signal_stack.danger(stack, stack) is None  # what was there before the tests is not theirs
        del memory


PROMISE = """
import faulthandler, gc, signal, subprocess, sys, threading
faulthandler.enable()
import numpy as np
import segfast, signal_stack

ended = []
signal.signal(signal.SIGCHLD, lambda *_: ended.append(1))


def use():
    engine = segfast.Engine(sys.argv[1], device="cpu", threads=1)
    engine.segment(np.zeros((64, 64, 3), np.uint8))
    return engine


first = signal_stack.current()
engines = [use(), use()]
while engines:
    engines.pop(0)                                      # the older one first
    gc.collect()
    assert signal_stack.danger(signal_stack.current(), first) is None
    subprocess.run([sys.executable, "-c", ""], check=True)
thread = threading.Thread(target=use)
thread.start(), thread.join()
gc.collect()
subprocess.run([sys.executable, "-c", ""], check=True)
assert len(ended) >= 3, ended  # libraries start processes too
print("lives")
"""


def test_a_process_outlives_signals_when_its_engines_are_gone(tiny_onnx):
    """An Engine never lends a thread of its caller the signal stack of OpenVINO's plugin."""
    paths = f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / 'tests')!r}]\n"
    ended = subprocess.run([sys.executable, "-c", paths + PROMISE, tiny_onnx], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "lives\n"), ended.stderr
