"""Enough of tensorrt and tensorrt_rtx to build, open and run a plan on the CPU, as strict as the libraries are.

Objects keep nothing alive, as the bindings of version 11: who uses one after something it needs has gone, or lets go
of them in the wrong order, is noted in `faults`. A context serves one captured graph, at the addresses of its last
call before. The network gives the mean of each patch, times class + 1.
"""

import ctypes
import enum
import json
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np

MAGIC = {"tensorrt": b"ptrt", "rtx": b"vtrt"}


def pretend(monkeypatch, fake, kind, **options):
    """Make engine files run in a library of ours, on the device of a FakeTorch that is installed already."""
    from segfast.dependencies import tensorrt as trt
    from segfast.machine import devices, nvidia
    from segfast.runtimes import tensorrt, tensorrt_calls

    library, called = Library(fake, kind, **options), tensorrt_calls.Network.__call__
    monkeypatch.setattr(trt, "load", lambda engine: library)
    monkeypatch.setattr(nvidia, "capability", lambda device: "sm89")
    monkeypatch.setattr(nvidia, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(devices, "nvidia_gpus", lambda: 1)
    for module in (tensorrt, tensorrt_calls):
        monkeypatch.setattr(module, "torch", fake)
    call = partial(_call, fake, called)
    monkeypatch.setattr(tensorrt_calls.Network, "__call__", lambda self, given: call(self, given))
    return library


def _call(fake, called, network, given):
    return fake.network(partial(called, network))(given)


def logits(windows, K=7, P=16):
    """What the network gives for windows [n, H, W, 3], float16 [n, K, H / P, W / P]."""
    n, H, W, _ = windows.shape
    means = windows.reshape(n, H // P, P, W // P, P, 3).astype(np.float64).mean((2, 4, 5)) / 255
    return (means[:, None] * np.arange(1, K + 1)[:, None, None]).astype(np.float16)


class Native:
    """An object of the library, which must not outlive what it needs."""

    def __init__(self, library, *needs):
        self._library, self._needs = library, []
        self.need(*needs)

    def need(self, *others):
        """Depend on others from now on, without holding them."""
        self._needs += [(type(other).__name__, weakref.ref(other)) for other in others]

    def alive(self):
        """What a crash would be in the library is noted, and raised."""
        if gone := [name for name, other in self._needs if other() is None]:
            self._library.faults.append(f"{type(self).__name__} is used without its {gone[0]}")
            raise AssertionError(self._library.faults[-1])

    def __del__(self):
        self._library.faults += [
            f"{type(self).__name__} outlived its {name}" for name, other in self._needs if other() is None
        ]


class Library:
    """The module.

    Attributes:
        faults: what would have crashed or given wrong answers.
        compiled: kernels that TensorRT-RTX compiled, one for each shape and cache.
        gpu: what a runtime cache is good for.
    """

    def __init__(self, fake, kind, size=(64, 64), K=7, batch=(1, 2, 4)):
        self.fake, self.kind, self.size, self.K, self.batch = fake, kind, size, K, batch
        self.__version__ = "1.7.1.116" if kind == "rtx" else "11.4.0.1"
        self.faults, self.compiled, self.gpu, self.contexts = [], [], "a GPU", 0
        self.takes_caches = True
        self.Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING")
        self.ILogger = type("ILogger", (), {"Severity": self.Severity})
        self.IProgressMonitor = type("IProgressMonitor", (), {})
        self.Runtime, self.Builder, self.OnnxParser = (
            partial(Runtime, self),
            partial(Builder, self),
            partial(OnnxParser, self),
        )
        self.DataType = enum.Enum("DataType", "UINT8 HALF FLOAT INT32")
        self.TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
        self.LayerInformationFormat = enum.Enum("LayerInformationFormat", "JSON")
        self.ExecutionContextAllocationStrategy = enum.Enum("Strategy", "USER_MANAGED")
        self.DynamicShapesKernelSpecializationStrategy = enum.Enum("Specialization", "EAGER")
        self.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", "STRONGLY_TYPED")
        self.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "DETAILED")
        self.BuilderFlag = enum.Enum("BuilderFlag", "TF32 VERSION_COMPATIBLE")
        self.MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
        self.LayerType = enum.Enum("LayerType", "MATRIX_MULTIPLY CONVOLUTION SOFTMAX")
        self.HardwareCompatibilityLevel = enum.Enum("Level", "SAME_COMPUTE_CAPABILITY AMPERE_PLUS")
        self.Dims = tuple
        self.log, self._logging = None, weakref.WeakSet()

    def register(self, builder, log):
        """Like the library it goes on with the first logger for as long as there is a builder or runtime."""
        if not self._logging:
            self.log = weakref.ref(log)
        self._logging.add(builder)
        builder._needs.append(("logger", self.log))


# Running --------------------------------------------------------------------------------------------------------------


class Runtime(Native):
    def __init__(self, library, log):
        super().__init__(library)
        self.engine_host_code_allowed = False
        library.register(self, log)

    def deserialize_cuda_engine(self, content):
        self.alive()
        if content.startswith(MAGIC[self._library.kind]):
            return Engine(self._library, self)
        self._library.log().log(self._library.Severity.ERROR, "the magic tag does not match")
        return None


class Engine(Native):
    num_io_tensors = 2

    def get_tensor_name(self, index):
        return ("images", "logits")[index]

    def get_tensor_mode(self, name):
        modes = self._library.TensorIOMode
        return modes.INPUT if name == "images" else modes.OUTPUT

    def get_tensor_shape(self, name):
        (H, W), K = self._library.size, self._library.K
        return [-1, H, W, 3] if name == "images" else [-1, K, H // 16, W // 16]

    def get_tensor_dtype(self, name):
        kinds = self._library.DataType
        return kinds.UINT8 if name == "images" else kinds.HALF

    def get_tensor_profile_shape(self, name, index):
        return [(n, *self._library.size, 3) for n in self._library.batch]

    def create_execution_context(self, how):
        self.alive()
        self._library.contexts += 1
        return Context(self._library, self, how)

    def create_engine_inspector(self):
        self.alive()
        return Inspector(self._library, self)

    def create_runtime_config(self):
        assert self._library.kind == "rtx"
        self.alive()
        return Config(self._library, self)


class Inspector(Native):
    _context = None

    @property
    def execution_context(self):
        raise NotImplementedError

    @execution_context.setter
    def execution_context(self, context):
        self._context = weakref.ref(context)

    def get_engine_information(self, kind):
        self.alive()
        if self._context() is None:
            self._library.faults.append("the inspector is asked after its context has gone")
            return ""
        return json.dumps(
            {"Layers": [{"Name": "half", "Metadata": "[ONNX Layer: matmul]", "Inputs": [{"Format/Datatype": "Half"}]}]}
        )


class Config(Native):
    _cache = None

    def set_execution_context_allocation_strategy(self, strategy):
        assert strategy is self._library.ExecutionContextAllocationStrategy.USER_MANAGED

    def create_runtime_cache(self):
        return Cache(self._library)

    def set_runtime_cache(self, cache):
        if self._library.takes_caches:
            self.need(cache)
            self._cache = weakref.ref(cache)
        return self._library.takes_caches


class Cache(Native):
    def __init__(self, library):
        super().__init__(library)
        self.kernels = []

    def serialize(self):
        return json.dumps([self._library.gpu, self.kernels]).encode()

    def deserialize(self, blob):
        gpu, kernels = json.loads(bytes(blob))
        if gpu == self._library.gpu:
            self.kernels = kernels
        return gpu == self._library.gpu


class Context(Native):
    def __init__(self, library, engine, how):
        super().__init__(library, engine)
        self._cache = None
        if library.kind == "rtx":
            assert how.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
            self.need(how)
            self._cache = how._cache() if how._cache is not None else Cache(library)
        self._bound, self._ran, self._captured = {}, None, False

    def set_input_shape(self, name, shape):
        self.alive()
        if not self._library.batch[0] <= shape[0] <= self._library.batch[2]:
            return False
        self._batch = shape[0]
        if self._cache is not None and self._batch not in self._cache.kernels:
            self._library.compiled.append(self._batch)
            self._cache.kernels.append(self._batch)
        return True

    def update_device_memory_size_for_shapes(self):
        return 1000 * self._batch

    def set_device_memory(self, address, size):
        assert size >= 1000 * self._batch
        self._bind("memory", address)

    def set_tensor_address(self, name, address):
        self._bind(name, address)
        return True

    def execute_async_v3(self, stream):
        self.alive()
        fake = self._library.fake
        if fake.recording is not None:
            if self._captured:
                self._fault("is captured in a second graph")
            if self._ran != self._bound:
                self._fault("is captured at other addresses than it ran at")
            self._captured = True
        elif self._captured and not fake.replaying:
            self._fault("runs beside its graph")
        self._ran = dict(self._bound)
        (H, W), K, n = self._library.size, self._library.K, self._batch
        windows = _at(self._bound["images"], ctypes.c_uint8, (n, H, W, 3))
        _at(self._bound["logits"], ctypes.c_uint16, (n, K, H // 16, W // 16))[...] = logits(windows, K).view(np.uint16)
        return True

    def _bind(self, name, address):
        self.alive()
        if self._captured and self._bound[name] != address:
            self._fault(f"is given another address of {name} than its graph has")
        self._bound[name] = address

    def _fault(self, what):
        self._library.faults.append(f"a context {what}")


def _at(address, kind, shape):
    """The array at an address."""
    return np.ctypeslib.as_array((kind * int(np.prod(shape))).from_address(address)).reshape(shape)


# Building -------------------------------------------------------------------------------------------------------------


# What a builder made holds the builder, in the binding too; what is set holds nothing here.


class Builder(Native):
    def __init__(self, library, log):
        super().__init__(library)
        self._log = log
        library.register(self, log)

    def create_network(self, flags):
        return Network(self._library, self)

    def create_builder_config(self):
        return BuilderConfig(self._library, self)

    def create_optimization_profile(self):
        return Profile(self._library, self)

    def build_serialized_network(self, network, config):
        self.alive()
        network.alive()
        config.alive()
        monitor = config.monitor()
        monitor.phase_start("building", None, 1)
        return MAGIC[self._library.kind] if monitor.step_complete("building", 0) else None


class Part(Native):
    def __init__(self, library, builder):
        super().__init__(library)
        self._builder = builder


class Network(Part):
    @property
    def num_layers(self):
        self.alive()
        return 1

    def get_input(self, index):
        return SimpleNamespace(name="images")

    def get_layer(self, index):
        output = SimpleNamespace(dtype=self._library.DataType.HALF)
        kind = self._library.LayerType.MATRIX_MULTIPLY
        return SimpleNamespace(metadata="[ONNX Layer: matmul]", type=kind, get_output=lambda index: output)


class OnnxParser(Native):
    def __init__(self, library, network, log):
        super().__init__(library, network)
        self._network = weakref.ref(network)

    def parse(self, content):
        self.alive()
        self._network().weights = weakref.ref(self)
        return True


class Profile(Part):
    def set_shape(self, name, *shapes):
        self.alive()


class BuilderConfig(Part):
    monitor = None

    @property
    def progress_monitor(self):
        raise NotImplementedError

    @progress_monitor.setter
    def progress_monitor(self, monitor):
        self.need(monitor)
        self.monitor = weakref.ref(monitor)

    def add_optimization_profile(self, profile):
        self.need(profile)

    def clear_flag(self, flag):
        assert flag is self._library.BuilderFlag.TF32

    def create_timing_cache(self, content):
        return TimingCache(self._library, content)

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.content == b"another GPU's":
            return False
        self.need(cache)
        self._cache = weakref.ref(cache)
        return True

    def get_timing_cache(self):
        self.alive()
        return self._cache()


class TimingCache(Native):
    def __init__(self, library, content):
        super().__init__(library)
        self.content = content

    def serialize(self):
        return b"timings"
