"""OpenVINO on CPUs: the default for `.onnx` files."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segfast.artifacts.onnx import Artifact
from segfast.dependencies import choice, imports
from segfast.errors import BadModel, MissingRuntime
from segfast.kernels import quota, upsample_argmax
from segfast.machine import cpu
from segfast.processes import forks
from segfast.protocol import Size
from segfast.runtimes import HostRuntime, openvino_split, to_bytes
from segfast.runtimes.openvino_cache import Kept

if TYPE_CHECKING:
    import openvino

# OpenVINO makes the process's locale C while it reads or writes a model, and then brings back what it found: two at
# once would leave C behind, and with it ASCII as the encoding of files.
_one_at_a_time = forks.Lock()


class OpenVINORuntime(HostRuntime):
    """An artifact compiled for windows one at a time on all cores, and on demand for many: a pair of them on each core.

    fp16 artifacts run in the CPU's own half precision (bf16 on x86, f16 on Arm), fp32 ones strictly
    in fp32, int8 ones in int8 and what is not int8 in them in bf16, where the CPU has these. Sizes are
    fixed when a network is compiled: one of any batch size would be slower and round differently.
    """

    name = "OpenVINO"
    device = "cpu"
    bytes_only = True
    # A thread that has a pair for itself waits for nobody: on 2 cores 0.76 (seg-s-32) to 0.84 (seg-b-mask-16) of the
    # CPU time of a window at a time on both. Fours gain little more.
    batch = 2
    # At most so many pairs at once, each on its share of the threads: they hold memory.
    STREAMS = 8

    def __init__(self, artifact: Artifact, threads: int | None):
        tolerate_no_home()
        library = imports.load("openvino", "OpenVINO", "openvino")
        try:
            self._core: openvino.Core = library.Core()
            capable = load_plugin(self._core)
        except Exception as error:  # of an installation in pieces, anything
            raise MissingRuntime(imports.broken("OpenVINO", "openvino", error)) from error
        self._version = str(getattr(library, "__version__", ""))
        self._artifact, self._threads = artifact, threads or quota.cpus()
        self.notes: list[str] = []
        self._choose(capable, threads)
        with ThreadPoolExecutor(2, "segfast-load") as pool:
            if artifact.output == "logits":
                pool.submit(_load_kernels)  # a failure of it is said at the first image
            self._load(pool)
        self._compiling = threading.Lock()
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None  # from `compile_pairs` on
        forks.leave_behind(self)

    def _choose(self, capable: list[str], threads: int | None) -> None:
        """The arithmetic and the threads."""
        self.precision = choice.openvino_precision(self._artifact.precision, capable)
        if self._artifact.precision == "fp16" and self.precision == "fp32":
            self.notes.append("this CPU has no half-precision arithmetic: the fp16 artifact runs in fp32")
        hint = {"bf16": "bf16", "fp16": "f16", "fp32": "f32"}[self.precision]
        self._options: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        if self._artifact.precision == "int8":
            self._choose_int8()
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        elif (few := quota.cut()) is not None:
            # Containers that share a machine by quotas would all be pinned to its first cores.
            self._options |= {"INFERENCE_NUM_THREADS": few, "ENABLE_CPU_PINNING": False}
        self._identity = self._version, sorted(capable), self._artifact.identity, self._options

    def _choose_int8(self) -> None:
        """int8 products where they are exact; else what they stand for, in the precision of the rest."""
        if cpu.has_int8():
            self.precision = f"int8 over {self.precision}"
            return
        self._options["LP_TRANSFORMS_MODE"] = False  # where sums saturate, labels would be others
        self.notes.append(
            "this CPU has no instructions for int8 (VNNI, AMX, or Arm's dot product): the int8 artifact computes the same in "
            f"{self.precision}, slower than an fp16 artifact"
        )

    def _load(self, pool: ThreadPoolExecutor) -> None:
        """Read the network and compile it for single windows; what is kept of it is checked meanwhile."""
        kept = Kept(self._artifact.path, 1, self._identity)
        checked = pool.submit(kept.check)
        with self._errors():
            with forks.running(), _one_at_a_time:
                self._model = self._core.read_model(self._artifact.path)
            windows, answer = self._model.input(0).partial_shape, self._model.output(0).partial_shape
            self._artifact.check_shapes(_plain(windows), _plain(answer))
        model = self._shaped(1, self._threads)
        checked.result()
        self._networks = {1: self._compile(model, kept, self._options)}

    def run(self, windows: NDArray[Any]) -> NDArray[Any]:
        """See `HostRuntime`."""
        count = len(windows)
        if count not in self._networks:
            return np.concatenate([self.run(windows[i : i + 1]) for i in range(count)])
        requests: dict[int, openvino.InferRequest] = self._local.__dict__.setdefault("requests", {})
        if count not in requests:
            requests[count] = self._networks[count].create_infer_request()
        result: NDArray[Any] = requests[count].infer({0: to_bytes(windows)})[0]
        return result

    @property
    def group(self) -> int:
        """See `HostRuntime`: a pair of windows for every stream, if each image has but one."""
        return self.batch * self.streams

    @property
    def streams(self) -> int:
        """How many pairs run at once."""
        return min(self._threads, self.STREAMS)

    def run_all(self, windows: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See `HostRuntime`: on all cores at once where there are enough, else each on all cores."""
        pool, step = self._pool, self.batch if len(windows) >= self.group else 1
        if pool is None or step == 1:
            return [self.call(windows[i : i + 1]) for i in range(len(windows))]
        parts = [windows[start : start + step] for start in range(0, len(windows), step)]
        calls = [pool.submit(contextvars.copy_context().run, self.call, part) for part in parts]
        try:
            return [call.result() for call in calls]
        finally:  # after an error nobody wants the rest, but what runs still reads the windows
            wait([call for call in calls if not call.cancel()])

    def warm_up(self, window: Size) -> None:
        """See `Runtime`."""
        self.compile_pairs()
        with self.lane() as lane:
            for count in (1, self.group):
                lane.run([np.zeros((*window, 3), np.uint8)] * count)

    def compile_pairs(self) -> None:
        """Compile the network for many windows, the first time; later starts take it from the cache on disk."""
        with self._compiling:
            if self.batch not in self._networks:
                options = self._options | {"NUM_STREAMS": self.streams}
                kept = Kept(self._artifact.path, self.batch, self._identity, self.streams)
                kept.check()
                model = self._shaped(self.batch, self._threads // self.streams)
                self._networks[self.batch] = self._compile(model, kept, options)
                self._pool = ThreadPoolExecutor(self.streams, "segfast-network")

    def _shaped(self, batch: int, threads: int) -> openvino.Model:
        """The network for `batch` windows at a time on so many threads, not compiled yet."""
        with self._errors():
            model = self._model.clone()
            model.reshape({0: [batch, *self._artifact.size, 3]})
            # Where products are int8 the blocks of rows are not bf16's, and the pass would fold their weights.
            halves = self.precision == "bf16" and self._artifact.precision == "fp16"
            if halves and threads <= openvino_split.THREADS:
                openvino_split.split_rows(model)
            return model

    def _compile(self, model: openvino.Model, kept: Kept, options: Mapping[str, str | int]) -> openvino.CompiledModel:
        with forks.running(), _one_at_a_time, kept.lent() as folder:
            network = None
            if folder is not None:
                with suppress(RuntimeError):  # whatever the cache has to do with it
                    network = self._core.compile_model(model, "CPU", {**options, "CACHE_DIR": str(folder)})
            if network is None:
                with self._errors():
                    network = self._core.compile_model(model, "CPU", dict(options))
        self.notes += [note for note in kept.notes if note not in self.notes]
        return network

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, IndexError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise BadModel(f"OpenVINO cannot run {self._artifact.path} ({reason}); export it again") from error


def tolerate_no_home() -> None:
    """Hide OpenVINO's telemetry, which asks for a home directory as it is imported, from users who have none."""
    try:
        Path.home()
    except RuntimeError:
        modules: dict[str, Any] = sys.modules  # None: not to be found, which OpenVINO is ready for
        modules.setdefault("openvino_telemetry", None)


def _load_kernels() -> None:
    """What the first image would wait for otherwise, half a second of it imports, loaded while the network is."""
    with forks.running():
        upsample_argmax(np.zeros((1, 2, 2, 2), np.float32), (2, 2))


def load_plugin(core: openvino.Core) -> list[str]:
    """What the CPU can do, asked by a thread that ends.

    The plugin, which a Core loads when it is first asked, gives the thread that asks a signal stack, and
    unmaps it when the Core goes. Of two Cores of one thread the second to go would bring back the unmapped
    stack of the first, and the next signal with a handler on it would kill the process.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(core.get_property, "CPU", "OPTIMIZATION_CAPABILITIES").result()


def _plain(shape: openvino.PartialShape) -> list[int | str]:
    """A partial shape as numbers, and `?` where it is not fixed."""
    return [side.get_length() if side.is_static else "?" for side in shape]
