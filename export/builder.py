"""One `.onnx` file → a plan, by TensorRT or TensorRT-RTX: the same calls for both, but for their targets."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from segfast.artifacts.plan import Nodes, Options
from segfast.dependencies import tensorrt as trt
from segfast.dependencies.tensorrt import COMPILERS, Library
from segfast.errors import ExportFailed
from segfast.export import targets
from segfast.export.bars import NestedPhases
from segfast.protocol import Size

if TYPE_CHECKING:
    import tensorrt

T = TypeVar("T")

_POLL = 0.2  # seconds after which a Ctrl-C is noticed, where waiting cannot be interrupted


@dataclass(frozen=True)
class Built:
    """What a compiler gave.

    Attributes:
        plan: its bytes.
        nodes: ONNX nodes whose fate in the plan matters.
        timings: the timing cache, to be given to the next build; None where there is none.
        notes: what was not as asked, for people.
    """

    plan: memoryview
    nodes: Nodes
    timings: bytes | None
    notes: tuple[str, ...]


def build_plan(
    onnx: bytes, size: Size, options: Options, *, device: str | None = None, timings: bytes | None = None
) -> Built:
    """Compile a network, under a progress bar; Ctrl-C ends it within a step.

    Args:
        onnx: one of our files.
        size: (H, W) of its input.
        device: `cuda:N` for which TensorRT compiles; TensorRT-RTX needs none.
        timings: of an earlier build; they are dropped where they do not fit.

    Raises:
        MissingRuntime: the compiler is not installed.
        BadOption: it does not know a target.
        ExportFailed: it refuses the network.
    """
    library = trt.load(options.compiler)
    stop = threading.Event()

    def work() -> Built:
        if device is not None:
            import torch

            torch.cuda.set_device(device)  # the current device is a thread's own
        return _build(library, onnx, size, options, timings, stop)

    return _interruptible(work, stop)


def _interruptible(work: Callable[[], T], stop: threading.Event) -> T:
    """What `work` returns, computed in a thread, so that no Ctrl-C is raised inside a compiler's callback."""
    with ThreadPoolExecutor(1, "segfast-build") as pool:
        future = pool.submit(work)
        try:
            while not future.done():
                wait([future], _POLL)
        except BaseException:
            stop.set()
            raise
        return future.result()


def _build(
    library: Library, onnx: bytes, size: Size, options: Options, timings: bytes | None, stop: threading.Event
) -> Built:
    title = f"{COMPILERS[options.compiler].title} {library.__version__}"
    heard = trt.listen(library)
    builder = library.Builder(heard.log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = _parse(library, network, heard, onnx, title)  # owns the weights until the plan is there
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shapes = [library.Dims((n, *size, 3)) for n in options.batch]
    profile.set_shape(network.get_input(0).name, *shapes)
    config.add_optimization_profile(profile)
    _configure(library, config, options)
    cache, notes = _take_timings(config, timings) if options.compiler == "tensorrt" else (None, ())
    with NestedPhases(title) as bar:
        monitor = _monitor(library, bar, stop)  # the config need not hold it, nor the cache
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    del parser
    if plan is None:
        # One of several may be at fault: Turing, say, has no fp32 products, which a mask decoder needs.
        remedy = f"; leave out targets that it speaks of ({', '.join(options.targets)})" if options.targets[1:] else ""
        raise ExportFailed(f"{title} did not build the network ({_reason(heard.errors)}); nothing was written{remedy}")
    return Built(memoryview(plan), _nodes(library, network), _give_timings(config, cache), notes)  # type: ignore[arg-type]


def _parse(
    library: Library, network: tensorrt.INetworkDefinition, heard: trt.Listener, onnx: bytes, title: str
) -> tensorrt.OnnxParser:
    parser = library.OnnxParser(network, heard.log)
    if not parser.parse(onnx):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reason = _reason(
            [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors] or heard.errors
        )
        raise ExportFailed(f"{title} cannot read the network ({reason}); export it again")
    return parser


def _configure(library: Library, config: tensorrt.IBuilderConfig, options: Options) -> None:
    config.builder_optimization_level = options.level
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # the inspector tells types by this alone
    # The network's fp32 islands are there for their mantissa, which TF32 would cut to that of fp16.
    config.clear_flag(library.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.compiler == "rtx":
        targets.configure(config, options.targets)
        return
    levels = library.HardwareCompatibilityLevel
    if options.hardware == "same":  # not in every version: looked up only if asked for
        config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY
    elif options.hardware == "ampere+":
        config.hardware_compatibility_level = levels.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)


def _take_timings(
    config: tensorrt.IBuilderConfig, timings: bytes | None
) -> tuple[tensorrt.ITimingCache, tuple[str, ...]]:
    """Give earlier timings to a build, or none where they are of another GPU or version; what it fills, and notes."""
    if timings:
        cache = config.create_timing_cache(timings)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache, ()
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache, ("the timing cache does not fit this GPU and version: it was dropped",) if timings else ()


def _give_timings(config: tensorrt.IBuilderConfig, given: tensorrt.ITimingCache | None) -> bytes | None:
    cache = config.get_timing_cache() if given is not None else None
    return None if cache is None else bytes(memoryview(cache.serialize()))  # type: ignore[arg-type]


def _nodes(library: Library, network: tensorrt.INetworkDefinition) -> Nodes:
    """The ONNX nodes whose fate matters; the parser notes on each layer which node it came from."""
    kinds = library.LayerType
    products = (kinds.MATRIX_MULTIPLY, kinds.CONVOLUTION)
    attention, half = [], []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        node = re.search(r"\[ONNX Layer: ([^\]]+)\]", layer.metadata)
        if node is None:
            continue
        if layer.type == kinds.SOFTMAX:
            attention.append(node[1])
        elif layer.type in products and layer.get_output(0).dtype == library.DataType.HALF:
            half.append(node[1])
    return Nodes(tuple(attention), tuple(half))


def _reason(errors: Sequence[str]) -> str:
    """The first error, in one line: later ones follow from it."""
    return " ".join(errors[0].split())[:300] if errors else "it gives no reason"


def _monitor(library: Library, bar: NestedPhases, stop: threading.Event) -> tensorrt.IProgressMonitor:
    """Shows a compiler's phases in a bar, and tells it to stop."""

    class Monitor(library.IProgressMonitor):  # type: ignore[name-defined,misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            bar.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            bar.step(phase_name, step)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            bar.finish(phase_name)

    return Monitor()  # type: ignore[no-any-return]
