"""The Engine: a model ready to segment images of any size."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segfast import kernels, pipeline
from segfast.artifact import Artifact, read_artifact
from segfast.config import Config
from segfast.devices import check_device
from segfast.errors import BadImage, BadModel, BadOption, MissingRuntime, NotSupported, SegfastError
from segfast.image import Pixels, read_image
from segfast.kernels.merge import Windows, merge_scores, merge_windows, upsample_argmax
from segfast.kernels.reference import Labels, label_dtype
from segfast.plan import read_plan
from segfast.protocol import Protocol, Size, views
from segfast.runtimes import Lane, Runtime
from segfast.segmentation import Segmentation

if TYPE_CHECKING:
    from segfast.model import Segmenter
    from segfast.runtimes.tensorrt import TensorRTRuntime

RUNTIMES = ("openvino", "onnxruntime", "pytorch")


class _Cut(NamedTuple):
    """One view of an image, [H, W, 3], and its windows."""

    image: NDArray[Any]
    anchors: list[Size]
    window: Size
    mirrored: bool


class _Work(NamedTuple):
    """An image, ready for the network."""

    pixels: Pixels
    cuts: Iterable[_Cut]


class _Answer(NamedTuple):
    """What the network gave for an image, on a lane: the windows of its views, or labels [H, W]."""

    pixels: Pixels
    given: list[Windows] | Labels
    lane: Lane


class Engine:
    """A model ready to run.

    Args:
        path: an `.onnx` or `.engine` file of `segfast.export`; or a checkpoint, published name or Segmenter,
            which run in PyTorch. A Segmenter is left as it is, its weights shared where neither
            device nor precision changes them, so that there the Engine follows further training.
        runtime: `openvino`, `onnxruntime` or `pytorch`. By default `.onnx` files run in OpenVINO on
            a CPU (in ONNX Runtime where OpenVINO is missing) and in ONNX Runtime on an NVIDIA GPU.
        device: `cpu`, `cuda` or `cuda:N`. By default the NVIDIA GPU if there is one, else the CPU;
            never the CPU in place of a GPU that fails.
        threads: CPU threads of the network and of merging; by default one per core.
        precision: of a checkpoint, `fp32`, `fp16` or `bf16`. By default fp32 on a CPU; on a GPU fp16,
            or bf16 where the model's activations are too large for fp16. A file has its own.
        attention: of a checkpoint, `triton`, `cudnn`, `flash` or `sdpa` (PyTorch's choice); by default
            what is fastest. The first three run on NVIDIA GPUs only.
        trusted: open an `.engine` file that has no sidecar of ours. It is a program, and nothing of it
            can be checked: say so only of files that you vouch for.

    Any number of threads may call one Engine; they get what one after the other would.
    `repr(engine)` says what runs where, and every fall-back.

    Attributes:
        config: architecture, protocol and classes of the model.
        output: `logits` or `labels`: what its network gives.
        runtime: what runs the network, where and in which precision, in words.

    Raises:
        BadModel: the file is missing, damaged, or not ours.
        EngineMismatch: an `.engine` file is not what its sidecar says, or was built for another GPU or version.
        BadOption: the runtime, device, thread count, precision or attention is impossible here.
        NotSupported: the GPU's memory does not hold the model.
        MissingRuntime: what should run it is not installed, or the device is not there.
    """

    config: Config
    output: str

    def __init__(
        self,
        path: str | os.PathLike[str] | Segmenter,
        *,
        runtime: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        attention: str | None = None,
        trusted: bool = False,
    ):
        device = check_device("cpu" if device is None and runtime == "openvino" else device)
        whole = isinstance(threads, int) and not isinstance(threads, bool)
        if threads is not None and not (whole and 1 <= threads <= 1024):
            raise BadOption(f"threads must be a whole number from 1 to 1024; got {threads!r}")
        if runtime not in (None, *RUNTIMES):
            raise BadOption(f"runtime must be one of {', '.join(RUNTIMES)}; got {runtime!r}")
        self._threads = threads
        self._notes: list[str] = []
        if isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() == ".onnx":
            _refuse_choices(precision, attention)
            artifact = read_artifact(Path(path))
            self.config, self._protocol = artifact.config, self._fixed_size(artifact)
            self.output, self._runtime = artifact.output, self._load_artifact(artifact, runtime, device, threads)
        elif isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() == ".engine":
            _refuse_choices(precision, attention)
            self._runtime = engine = _load_engine(Path(path), runtime, device, trusted)
            self.config, self._protocol = engine.artifact.config, self._fixed_size(engine.artifact)
            self.output = engine.artifact.output
        else:
            model = _load_checkpoint(path, runtime)
            from segfast.runtimes.pytorch import PyTorchRuntime

            self.config, self._protocol = model.config, model.config.protocol
            self.output, self._runtime = "logits", PyTorchRuntime(model, device, threads, precision, attention)
        self.runtime = f"{self._runtime.name} on {self._runtime.device} in {self._runtime.precision}"
        if importlib.util.find_spec("numba") is None:
            self._notes.append("numba is not installed: windows are merged in NumPy, slower")
        if self.config.random_weights:
            self._notes.append("random weights: for timing only")

    def segment(self, image: Any, *, multiscale: bool = False, stride: int | None = None) -> Segmentation:
        """Labels of one image at its own size, by the protocol of the model's origin.

        The image is enlarged if it does not cover the window, covered with windows, and the windows'
        logits are averaged where they overlap (paper, section 4.2).

        Args:
            image: a path, PIL image, or uint8 RGB array or tensor [H, W, 3], of any size and, for
                files and PIL images, of any mode.
            multiscale: average the softmax scores of 12 views, six scales and their mirror images.
            stride: of the sliding window in pixels; by default the model's own.

        Raises:
            BadImage: the image cannot be read.
            BadOption: the stride is not from 1 to the window.
            NotSupported: a labels artifact is asked for more than one exact window, or a GPU's memory
                does not hold the image.
        """
        return self._finish(self._infer(self._prepare(image, multiscale, stride)))

    def segment_many(
        self,
        images: Iterable[Any],
        *,
        multiscale: bool = False,
        stride: int | None = None,
        errors: str = "raise",
    ) -> Iterator[Segmentation | SegfastError]:
        """What `segment` gives for each image, in order, with reading, network and merging overlapped.

        At most six images are held at a time. Closing the iterator stops the work.

        Args:
            images: whatever `segment` takes, consumed as needed.
            multiscale, stride: as of `segment`.
            errors: `raise` ends the iteration at an image that `segment` would refuse; `yield` gives
                the error in its place and goes on.

        Raises:
            As `segment`; BadOption also for an unknown `errors`.
        """
        if errors not in ("raise", "yield"):
            raise BadOption(f"errors must be 'raise' or 'yield'; got {errors!r}")
        stages = (partial(self._prepare, multiscale=multiscale, stride=stride), self._infer, self._finish)
        return pipeline.answers(images, stages, errors == "raise")

    def run(self, windows: NDArray[Any], *, labels: bool = False) -> NDArray[Any]:
        """The network on windows that are cut already, any number of them.

        Args:
            windows: RGB, uint8 [n, H, W, 3] of the window's size, n at least 1.
            labels: give the labels of every pixel, where the network gives logits.

        Returns:
            logits [n, K, h, w] in the network's precision (bf16 as fp32), or labels [n, H, W].

        Raises:
            BadImage: they are of another shape or dtype.
            NotSupported: a GPU's memory does not hold them.
        """
        wanted = (*self._protocol.window, 3)
        if windows.dtype != np.uint8 or windows.shape[1:] != wanted or len(windows) == 0:
            raise BadImage(f"windows must be uint8 {['n', *wanted]}; got {windows.dtype} {list(windows.shape)}")
        with self._runtime.lane() as lane:
            given = lane.run(list(windows))
        if not labels or self.output == "labels":
            return lane.fetch(lambda: given)
        (H, W), padded = wanted[:2], self._padded(wanted[:2])
        return lane.fetch(lambda: upsample_argmax(given, padded, threads=self._threads)[:, :H, :W])

    def __repr__(self) -> str:
        H, W = self._protocol.window
        what = f"{self.config.name}, {self.config.num_classes} classes, {H}×{W} windows, {self.output}"
        notes = "".join(f"; {note}" for note in (*self._runtime.notes, *self._notes))
        return f"Engine({what}: {self.runtime}{notes})"

    def _prepare(self, image: Any, multiscale: bool, stride: int | None) -> _Work:
        """Read an image and lay its views out. Those of a multi-scale request are cut when their turn comes."""
        pixels = read_image(image)
        size, protocol = pixels.shape[:2], self._protocol.with_stride(stride)
        if self.output == "labels":
            self._check_window(size, multiscale)
            return _Work(pixels, [])
        cuts = (self._cut(pixels, view, mirrored, protocol) for view, mirrored in views(size, multiscale))
        return _Work(pixels, cuts if multiscale else list(cuts))

    def _cut(self, pixels: Pixels, size: Size, mirrored: bool, protocol: Protocol) -> _Cut:
        """One view: the image resized to `size`, mirrored or not, and where its windows lie."""
        image = resize(resize(pixels, size, self._threads), protocol.working_size(size), self._threads)
        image = image[:, ::-1] if mirrored else image
        return _Cut(image, *protocol.windows((image.shape[0], image.shape[1])), mirrored)

    def _infer(self, work: _Work) -> _Answer:
        """Run the network over everything that was laid out."""
        with self._runtime.lane() as lane:
            if self.output == "logits":
                return _Answer(work.pixels, [self._run_cut(cut, lane) for cut in work.cuts], lane)
            given = lane.run([work.pixels])
        labels = lane.fetch(lambda: given)[0]
        return _Answer(work.pixels, labels.astype(label_dtype(self.config.num_classes), copy=False), lane)

    def _run_cut(self, cut: _Cut, lane: Lane) -> Windows:
        """The network's answer for one view; a window is a view of the image until it is copied in."""
        h, w = cut.window
        logits = lane.run([cut.image[top : top + h, left : left + w] for top, left in cut.anchors])
        size = cut.image.shape[0], cut.image.shape[1]
        return Windows(logits, cut.anchors, cut.window, self._padded(cut.window), size, cut.mirrored)

    def _padded(self, window: Size) -> Size:
        """The size that a window's logits stand for."""
        (h, w), P = window, self.config.patch
        return (h + -h % P, w + -w % P) if self._protocol.crop_padding else window

    def _finish(self, answer: _Answer) -> Segmentation:
        """Merge what the network gave into labels."""
        pixels, size = answer.pixels, answer.pixels.shape[:2]
        names = self.config.classes, self.config.palette
        if isinstance(answer.given, np.ndarray):
            return Segmentation(answer.given, *names, pixels)
        labels = answer.lane.fetch(merge_windows, answer.given, size, threads=self._threads)
        scores = partial(answer.lane.fetch, merge_scores, answer.given, size, threads=self._threads)
        return Segmentation(labels, *names, pixels, scores)

    def _check_window(self, size: Size, multiscale: bool) -> None:
        """Refuse what a labels artifact cannot do exactly: anything but one image of the window's size."""
        H, W = self._protocol.window
        if multiscale or size != (H, W):
            asked = "multi-scale scores" if multiscale else f"an image of {size[0]}×{size[1]}"
            raise NotSupported(
                f"this artifact gives labels of exactly {H}×{W} pixels, not {asked}; export the model for any size: "
                "python -m segfast.export --output logits, with the same --model or --weights"
            )

    def _fixed_size(self, artifact: Artifact) -> Protocol:
        """The model's protocol as far as a network of one input size can follow it."""
        protocol = artifact.config.protocol
        if protocol.small_windows:
            H, W = artifact.size
            self._notes.append(f"images smaller than {H}×{W} are enlarged to it (a checkpoint takes them as they are)")
            protocol = replace(protocol, small_windows=False)
        return protocol

    def _load_artifact(self, artifact: Artifact, runtime: str | None, device: str, threads: int | None) -> Runtime:
        if runtime == "pytorch":
            raise BadOption("an .onnx file does not run in PyTorch; give the checkpoint it was exported from")
        if runtime == "openvino" and device != "cpu":
            raise BadOption(f"OpenVINO does not run on {device}; use device='cpu', or runtime='onnxruntime'")
        if runtime is None and device == "cpu":
            runtime = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
            if runtime == "onnxruntime":
                self._notes.append("OpenVINO is not installed: ONNX Runtime instead, slower on CPUs")
        if runtime == "openvino":
            from segfast.runtimes.openvino import OpenVINORuntime

            return OpenVINORuntime(artifact, threads)
        from segfast.runtimes.onnxruntime import ONNXRuntime

        return ONNXRuntime(artifact, device, threads)


def resize(image: NDArray[Any], size: Size, threads: int | None = None) -> NDArray[Any]:
    """Bilinear [H, W, 3] → [*size, 3], float32 in the same range; the image itself if it has that size."""
    if image.shape[:2] == size:
        return image
    return kernels.resize(image, size, threads=threads)


def _refuse_choices(precision: str | None, attention: str | None) -> None:
    """Refuse what an artifact has decided already."""
    if precision is not None:
        raise BadOption("precision is the .onnx file's own: export it with --fp16 or --fp32, or give the checkpoint")
    if attention is not None:
        raise BadOption("attention is inside the .onnx file: give the checkpoint it was exported from, or leave it out")


def _load_engine(path: Path, runtime: str | None, device: str, trusted: bool) -> TensorRTRuntime:
    """The runtime of an `.engine` file, after its sidecar was found to fit."""
    if runtime is not None:
        raise BadOption(f"{path} runs in the TensorRT that built it; leave runtime={runtime!r} out")
    read_plan(path, trusted)                                            # said before PyTorch is missed
    if importlib.util.find_spec("torch") is None:
        raise MissingRuntime(f"{path} is an engine file, whose tensors are PyTorch's: pip install 'segfast[gpu]'")
    from segfast.runtimes.tensorrt import open_engine

    return open_engine(path, device, trusted)


def _load_checkpoint(path: Any, runtime: str | None) -> Segmenter:
    """The Segmenter of a checkpoint, or the one given."""
    if not isinstance(path, (str, os.PathLike)):
        if hasattr(path, "patch_logits"):
            return path  # type: ignore[no-any-return]
        raise BadModel(f"an Engine takes a path, a published name or a Segmenter, not {type(path).__name__}")
    name = os.fspath(path)
    if runtime not in (None, "pytorch"):
        raise BadOption(f"{name} is a checkpoint, which runs in PyTorch; for {runtime} export it with segfast.export")
    if importlib.util.find_spec("torch") is None:
        raise MissingRuntime(
            f"{name} is a checkpoint, which needs PyTorch: pip install 'segfast[export]'; "
            "an .onnx file exported from it does not"
        )
    from segfast.weights import load_model

    return load_model(name)
