"""Counting GPUs, against stand-ins of NVIDIA's libraries: without starting CUDA, which forked children could not use then."""

import ctypes
import os
import sys
from types import SimpleNamespace

import pytest

import segfast
from segfast.errors import MissingRuntime
from segfast.machine import devices, nvidia, nvml
from segfast.machine.facts import Inquiry
from segfast.machine.nvml import Gpu, visible

A, B, C = Gpu("GPU-aa11"), Gpu("GPU-aa22"), Gpu("GPU-bb33")
DIVIDED = Gpu("GPU-cc44", ("MIG-d1", "MIG-d2"))
PARTLESS = Gpu("GPU-dd55", ())


@pytest.mark.parametrize(
    ("gpus", "setting", "count"),
    [
        ([], None, 0), ([], "0", 0), ([A, B, C], None, 3), ([A, B, C], "", 0), ([A, B, C], "-1", 0), ([A, B, C], "NoDevFiles", 0),
        ([A, B, C], "0", 1), ([A, B, C], "2,0", 2), ([A, B, C], " 1 , 2 ", 2), ([A, B, C], "0,7,1", 1), ([A, B, C], "0,-1,1", 1),
        ([A, B, C], "1,1", 0), ([A, B, C], "1gpu", 1), ([A, B, C], "0,,1", 1),
        ([A, B, C], "GPU-aa11", 1), ([A, B, C], "GPU-b", 1), ([A, B, C], "GPU-aa", 0), ([A, B, C], "GPU-bb33,GPU-aa22", 2),
        ([A, B, C], "GPU-zz", 0), ([A, B, C], "GPU-aa11,GPU-aa11", 0), ([A, B, C], "GPU-aa11,0", 0), ([A, B, C], "MIG-d1", 0),
        ([DIVIDED], None, 1), ([A, DIVIDED], None, 1), ([A, DIVIDED], "0", 1), ([DIVIDED], "MIG-d2", 1), ([DIVIDED], "MIG-d", 0),
        ([DIVIDED], "MIG-d1,MIG-d2", 1), ([DIVIDED], "GPU-cc44", 1), ([PARTLESS], None, 0), ([PARTLESS, A], None, 1), ([PARTLESS], "0", 0),
    ],
)  # fmt: skip
def test_what_cuda_shows(gpus, setting, count):
    assert visible(gpus, setting) == count


class Cuda:
    """The driver: started in one process, it fails in those that are forked from it."""

    def __init__(self, count):
        self.count, self.process, self.inits = count, None, 0

    def cuInit(self, flags):
        self.inits += 1
        if self.process not in (None, os.getpid()):
            return 3
        self.process = os.getpid()
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0 if self.process == os.getpid() else 3

    def cuDeviceGet(self, handle, index):
        return 0 if index < self.count else 101

    def cuDeviceGetAttribute(self, value, attribute, handle):
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0


class Nvml:
    def __init__(self, gpus, closed=()):
        self.gpus, self.closed, self.users = gpus, closed, 0

    def nvmlInit_v2(self):
        self.users += 1
        return 0

    def nvmlShutdown(self):
        self.users -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = len(self.gpus)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = 100 * (index + 1)
        return 4 if index in self.closed else 0

    def nvmlDeviceGetMigMode(self, handle, mode, pending):
        parts = self.gpus[handle.value // 100 - 1].parts
        mode._obj.value = parts is not None
        return 0 if parts is not None else 3

    def nvmlDeviceGetMaxMigDeviceCount(self, handle, count):
        count._obj.value = 7
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index, part):
        part._obj.value = handle.value + index + 1
        return 0 if index < len(self.gpus[handle.value // 100 - 1].parts) else 6

    def nvmlDeviceGetUUID(self, handle, text, length):
        gpu, part = divmod(handle.value, 100)
        text.value = (self.gpus[gpu - 1].parts[part - 1] if part else self.gpus[gpu - 1].uuid).encode()
        return 0

    def nvmlSystemGetDriverVersion(self, text, length):
        text.value = b"580.65.06"
        return 0


@pytest.fixture
def libraries(monkeypatch):
    """Sets which of NVIDIA's libraries there are."""

    def give(**there):
        def load(name):
            for key, library in there.items():
                if key in name:
                    return library
            raise OSError(name)

        fake = SimpleNamespace(
            **{name: getattr(ctypes, name) for name in ("c_int", "c_uint", "c_void_p", "byref", "create_string_buffer")}
        )
        fake.CDLL = load
        for module in (devices, nvidia, nvml):
            monkeypatch.setattr(module, "ctypes", fake)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(devices, "_started_in", None)
        monkeypatch.setitem(sys.modules, "torch.cuda", SimpleNamespace())  # which earlier tests may have asked

    return give


def in_a_fork(function):
    """What a function gives, or the words of what it raises, in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(function())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_gpus_are_counted_without_starting_cuda(libraries, monkeypatch):
    cuda, management = Cuda(2), Nvml([A, DIVIDED, C], closed=[2])
    libraries(cuda=cuda, nvidia=management)
    assert nvml.gpus() == [A, DIVIDED]
    assert devices.nvidia_gpus() == 1  # a MIG device hides whole GPUs
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices.nvidia_gpus() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.nvidia_gpus() == 0
    assert devices.check_device(None) == "cpu"
    assert nvidia.driver_version() == "580.65.06"
    assert (cuda.inits, management.users) == (0, 0)


def test_without_libraries_there_is_no_gpu(libraries):
    libraries()
    assert devices.nvidia_gpus() == 0
    assert nvidia.driver_version() is None
    assert Inquiry().gpus() == 0
    with pytest.raises(MissingRuntime, match="no NVIDIA driver"):
        nvidia.capability("cuda:0")


@forks
def test_a_forked_child_sees_the_gpus_that_its_parent_counted(libraries):
    libraries(cuda=Cuda(2), nvidia=Nvml([A, B]))
    assert devices.check_device(None) == "cuda"
    assert in_a_fork(devices.nvidia_gpus) == "2"
    assert (
        in_a_fork(lambda: nvidia.capability("cuda:0")) == "sm90"
    )  # CUDA works there, as the parent has not started it


FORKED = (
    "MissingRuntime: this process was forked from one that used CUDA, which does not work in it; start processes by"
)


@forks
def test_where_cuda_was_started_forked_children_are_told_so(libraries):
    libraries(cuda=Cuda(2), nvidia=Nvml([A, B]))
    assert nvidia.capability("cuda:0") == "sm90"
    for call in (
        lambda: nvidia.capability("cuda:0"),
        lambda: devices.check_device(None),
        lambda: devices.check_device("cuda:1"),
        lambda: segfast.Engine("any.onnx"),
    ):
        assert in_a_fork(call).startswith(FORKED)
    assert in_a_fork(lambda: devices.check_device("cpu")) == "cpu"
    assert devices.check_device("cuda") == "cuda"  # of the parent


@forks
def test_where_others_started_cuda_too(libraries, monkeypatch):
    cuda = Cuda(1)
    libraries(cuda=cuda, nvidia=Nvml([A]))
    cuda.cuInit(0)
    assert in_a_fork(lambda: nvidia.capability("cuda:0")).startswith(FORKED)
    monkeypatch.setitem(sys.modules, "torch.cuda", SimpleNamespace(_is_in_bad_fork=lambda: True))
    with pytest.raises(MissingRuntime, match="'spawn'"):
        devices.check_device(None)


@forks
def test_without_the_management_library_the_driver_is_asked(libraries):
    libraries(cuda=Cuda(2))
    assert devices.nvidia_gpus() == 2
    assert in_a_fork(devices.nvidia_gpus).startswith(FORKED)
