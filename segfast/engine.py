"""The Engine: a model ready to segment images of any size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segfast.config import Config
from segfast.errors import BadImage, BadModel, BadOption, SegfastError
from segfast.image import read_image, read_windows
from segfast.inference import limits, pipeline
from segfast.inference.batching import run_requests
from segfast.inference.border import border
from segfast.inference.requests import Layout, Request, Result, lay_out, whole_window
from segfast.inference.room import Room
from segfast.inference.scores import Scores
from segfast.inference.warming import warm_up_kernels
from segfast.kernels import loops
from segfast.kernels.merge import merge_laid_out, upsample_argmax
from segfast.kernels.reference import label_dtype
from segfast.pictures.inputs import check_many
from segfast.processes import forks
from segfast.processes.sending import Source
from segfast.protocol import MODEL, Protocol, Size, check_fit
from segfast.runtimes import MANY, select
from segfast.segmentation import Segmentation

if TYPE_CHECKING:
    from segfast.model import Segmenter


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
        threads: CPU threads of each stage: resizing, network, merging; by default one per core. Runtime and threads
            of an `.onnx` file on the CPU that are both left out are those that `segfast.tune` found the fastest here,
            if it left a record beside the file.
        precision: of a checkpoint, `fp32`, `fp16` or `bf16`. By default fp32 on a CPU; on a GPU fp16,
            or bf16 where the model's activations are too large for fp16. A file has its own.
        attention: of a checkpoint, `triton`, `cudnn`, `flash` or `sdpa` (PyTorch's choice); by default
            what is fastest. The first three run on NVIDIA GPUs only.
        trusted: open an `.engine` file that has no sidecar of ours. It is a program, and nothing of it
            can be checked: say so only of files that you vouch for.

    Any number of threads may call one Engine; they get what one after the other would. On a GPU the last bits
    of logits depend on the size of the batch, so that where two classes tie but for rounding the labels of
    `segment_many`, whose images share batches, may differ from those of `segment`.
    `repr(engine)` says what runs where, and every fall-back.

    Pickled, an Engine of a file or published name is its absolute path, options and digest, and is opened
    again where it arrives, if the file there is the same; one of a Segmenter cannot be sent. A copy is the
    Engine itself. In a forked child it answers if it runs in PyTorch on the CPU, and is refused otherwise.

    Attributes:
        config: architecture, protocol and classes of the model.
        protocol: preprocessing and windows, as far as this network can follow the model's.
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
    protocol: Protocol
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
        threads = int(threads) if isinstance(threads, np.integer) else threads
        with border("opening the model", BadModel):
            options = select.Options(runtime, device, threads, precision, attention, trusted)
            opened = select.open_model(path, options)
        self.config, self.protocol, self.output = opened.config, opened.protocol.plain(), opened.output
        self._runtime, self._threads, self._notes = opened.runtime, opened.threads, opened.notes
        self._token = object()  # by which requests and results know whose they are
        self._network = limits.Network(self.config.patch, self.config.num_classes, self._runtime.on_host)
        self._source = Source(path, asdict(options))
        self._process = os.getpid()
        self.runtime = f"{self._runtime.name} on {self._runtime.device} in {self._runtime.precision}"

    def segment(
        self, image: Any, *, multiscale: bool = False, stride: int | None = None, fit: Size | str | None = MODEL
    ) -> Segmentation:
        """Labels of one image at its own size, by the protocol of the model's origin.

        The image is enlarged if it does not cover the window, covered with windows, and the windows'
        logits are averaged where they overlap (paper, section 4.2).

        Args:
            image: a path, PIL image, binary file or its bytes, of any mode; or a uint8 RGB array or
                tensor [H, W, 3]; of any size.
            multiscale: average the softmax scores of 12 views, six scales and their mirror images.
            stride: of the sliding window in pixels; by default the model's own.
            fit: (long, short): resize the image first, up or down, until its sides just fit these, as
                evaluation on the paper's datasets does; the labels still have its own size. None does
                not; "model" does as the model was trained, if that was with an image size.

        Raises:
            BadImage: the image cannot be read.
            BadOption: the stride is not from 1 to the window, or `fit` is no size.
            NotSupported: a labels artifact is asked for more than one exact window; the image has to be
                enlarged to cover the window and is over 100 times as long as wide; it takes over 65,536
                windows, an array of over 2^31 - 1024 numbers, or more memory than there is (told before
                anything is allocated); or a library fails at it, whose error is then the cause.
        """
        return self._merge(self.infer([self.prepare(image, multiscale=multiscale, stride=stride, fit=fit)])[0])

    def segment_many(
        self,
        images: Iterable[Any],
        *,
        multiscale: bool = False,
        stride: int | None = None,
        fit: Size | str | None = MODEL,
        errors: str = "raise",
    ) -> Iterator[Segmentation | SegfastError]:
        """What `segment` gives for each image, in order, with reading, network and merging overlapped.

        Windows of neighbouring images share the network's batches, for which a CPU gets a second
        network ready once it has seen eight images: OpenVINO then runs a pair of windows on every core, or
        from eight cores on eight pairs. At most 14 images are held at a time on two cores, 50 on eight and
        more, 26 on a GPU; and no further one is read while they take a gigabyte. Closing the iterator, or
        Ctrl-C, stops the work between two windows.

        Args:
            images: a list, generator, … of whatever `segment` takes, consumed as needed, ahead of the
                answers, in a thread of its own that finds the caller's context variables. An image is
                copied or decoded before the next is asked for: a source may use one buffer again and
                again, delete its files, or wait for an answer. What it raises comes after the answers of
                all that it gave.
            multiscale, stride, fit: as of `segment`.
            errors: `raise` ends the iteration at an image that `segment` would refuse; `yield` gives
                the error in its place and goes on.

        Raises:
            As `segment`; BadOption also for an unknown `errors`, and for one image in place of many.
        """
        images = check_many(images)
        self._check_process()
        if errors not in ("raise", "yield"):
            raise BadOption(f"errors must be 'raise' or 'yield'; got {errors!r}")
        stages = (
            pipeline.one_by_one(partial(self.prepare, multiscale=multiscale, stride=stride, fit=fit)),
            pipeline.Stage(self._infer_stream(), self._runtime.group),
            pipeline.one_by_one(self._merge),
        )
        room = Room(limits.HELD, lambda request: request.bytes_needed)
        return forks.Here(pipeline.answers(images, stages, errors == "raise", room))

    @border("laying the image out")
    def prepare(
        self, image: Any, *, multiscale: bool = False, stride: int | None = None, fit: Size | str | None = MODEL
    ) -> Request:
        """The first of `segment`'s three stages: read an image, and lay out its views and windows.

        A request can be run again and again, on any thread.

        Args, Raises: as of `segment`.
        """
        self._check_process()
        protocol = self.protocol.with_stride(stride)
        fit = protocol.fit if isinstance(fit, str) and fit == MODEL else check_fit(fit)
        laid_out = partial(self._lay_out, multiscale=bool(multiscale), protocol=protocol, fit=fit)
        size = limits.size_of(image)
        layout = None if size is None else laid_out(size)  # refused before it is copied
        with border("reading the image", BadImage):
            pixels = read_image(image)
        layout = layout or laid_out((pixels.shape[0], pixels.shape[1]))
        how = {"rounded": fit is not None, "as_bytes": self._runtime.bytes_only}
        needed = None if layout.need is None else layout.need.bytes
        return Request(pixels, layout.placements, self._token, **how, threads=self._threads, bytes_needed=needed)

    @border("running the network")
    def infer(self, requests: Iterable[Request]) -> list[Result]:
        """The second stage: run the network over requests of this Engine; single views share its batches.

        Raises:
            BadOption: a request is another Engine's, or there is one where a list of them is wanted.
            NotSupported: memory does not hold the results, or a library fails, whose error is then the cause.
        """
        self._check_process()
        if isinstance(requests, Request):
            raise BadOption("infer takes a list of requests, even for one: engine.infer([request])")
        mine = list(requests)
        for request in mine:
            self._check_own(request, Request, "infer takes what this Engine's prepare gave")
        size = self._runtime.group
        return [result for start in range(0, len(mine), size) for result in self._infer(mine[start : start + size])]

    def _infer(self, requests: Sequence[Request]) -> list[Result]:
        """The results of so many requests as the runtime takes at a time."""
        with self._runtime.lane() as lane:
            if self.output == "logits":
                found = run_requests(requests, lane)
                return [
                    Result(request.pixels, views, None, lane, self._token)
                    for request, views in zip(requests, found, strict=True)
                ]
            outputs = lane.run([request.pixels for request in requests])
        labels = lane.fetch(lambda: outputs).astype(label_dtype(self.config.num_classes), copy=False)
        return [
            Result(request.pixels, [], part, lane, self._token) for request, part in zip(requests, labels, strict=True)
        ]

    def merge(self, result: Result) -> Segmentation:
        """The third stage: the labels of an image, from what the network gave for it.

        The answer's `image` is the request's own, and so read-only.

        Raises:
            BadOption: the result is another Engine's.
            NotSupported: memory does not hold the labels; or this is a forked child, as of `segment`.
        """
        self._check_own(result, Result, "merge takes what this Engine's infer gave")
        self._check_process()
        pixels = result.pixels.view()
        pixels.flags.writeable = False
        labels = None if result.labels is None else result.labels.copy()
        return self._merge(result._replace(pixels=pixels, labels=labels))

    @border("merging the windows")
    def _merge(self, result: Result) -> Segmentation:
        """`merge` of what nobody else has."""
        pixels, views, labels, lane, _ = result
        names = self.config.classes, self.config.palette
        if labels is not None:
            return Segmentation(labels, *names, pixels)
        size = pixels.shape[0], pixels.shape[1]
        labels = lane.fetch(merge_laid_out, views, size, self._threads)
        return Segmentation(labels, *names, pixels, Scores(lane, views, size, self._threads))

    @border("running the network")
    def run(self, windows: Any, *, labels: bool = False) -> NDArray[Any]:
        """The network on windows that are cut already, any number of them.

        Args:
            windows: RGB, uint8 [n, H, W, 3] of the window's size, n at least 1: an array, a tensor, or a list
                of whatever `segment` takes.
            labels: give the labels of every pixel, where the network gives logits.

        Returns:
            logits [n, K, h, w] in the network's precision (bf16 as fp32), or labels [n, H, W].

        Raises:
            BadImage: they are of another shape or dtype.
            NotSupported: memory does not hold them, or a library fails at them, whose error is then the cause.
        """
        H, W = size = self.protocol.window
        self._check_process()
        pixels = read_windows(windows, size)
        with self._runtime.lane() as lane:
            outputs = lane.run(pixels)
        if not labels or self.output == "labels":
            return lane.fetch(lambda: outputs)
        padded = self.protocol.padded(size, self.config.patch)
        return lane.fetch(lambda: upsample_argmax(outputs, padded, threads=self._threads)[:, :H, :W])

    def __reduce__(self) -> tuple[Any, ...]:
        return self._source.reduce(type(self))

    def __copy__(self) -> Engine:
        return self

    def __deepcopy__(self, memo: Any) -> Engine:
        return self

    @border("warming up")
    def warm_up(self) -> None:
        """Compile, load and capture now what segmenting will need: images of any size, multi-scale or not, any thread.

        Without it the first images wait: on a GPU, where a CUDA graph is captured for every batch that may come,
        for seconds in all. A capture suffers none that waits for the whole device meanwhile: so call it before
        other threads use `torch.cuda.synchronize()`, which would raise there. A capture broken so is tried again.
        In OpenVINO it gets the network for many windows ready, too, which takes its memory: of seg-b-mask-16
        0.8 GB, needed otherwise from eight windows of an image, or images of a stream, on.

        Raises:
            NotSupported: memory does not hold it; or this is a forked child, as of `segment`.
        """
        self._check_process()
        self._runtime.warm_up(self.protocol.window)
        if self.output == "logits":
            with self._runtime.lane() as lane:
                warm_up_kernels(lane, self.protocol.window, self._threads)

    def __repr__(self) -> str:
        H, W = self.protocol.window
        what = f"{self.config.name}, {self.config.num_classes} classes, {H}×{W} windows, {self.output}"
        loops_run = [] if self.output == "labels" else loops.notes(merging=self._runtime.on_host)
        notes = "".join(f"; {note}" for note in (*self._runtime.notes, *self._notes, *loops_run))
        return f"Engine({what}: {self.runtime}{notes})"

    def _lay_out(self, size: Size, multiscale: bool, protocol: Protocol, fit: Size | None) -> Layout:
        """The views and windows of an image, unless this network or this machine cannot do them."""
        if self.output == "labels":
            return whole_window(size, self.protocol.window, multiscale, fit)
        layout = lay_out(size, multiscale, protocol, fit, self._network)
        assert layout.need is not None
        layout.need.check()
        return layout

    def _infer_stream(self) -> Callable[[list[Request]], list[Result]]:
        """`infer` for a stream, which compiles for pairs once MANY images have passed."""
        seen = 0

        def infer(requests: list[Request]) -> list[Result]:
            nonlocal seen
            if seen >= MANY:
                self._runtime.compile_pairs()
            seen += len(requests)
            return self.infer(requests)

        return infer

    def _check_own(self, item: Request | Result, kind: type, rule: str) -> None:
        """See that this is a request, or a result, of this Engine."""
        if getattr(item, "owner", None) is not self._token:
            got = f"another's {kind.__name__.lower()}" if isinstance(item, kind) else type(item).__name__
            raise BadOption(f"{rule}; got {got}")

    def _check_process(self) -> None:
        """Refuse to run in a forked child what would hang there."""
        if not self._runtime.outlives_forks:
            forks.check(self._process, self._runtime.name)
