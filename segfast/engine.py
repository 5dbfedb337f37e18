"""The Engine: a model ready to segment images of any size."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segfast import kernels
from segfast.config import Config
from segfast.errors import BadImage, BadModel, BadOption, NotSupported, SegfastError
from segfast.image import Pixels, read_image, read_windows
from segfast.inference import limits, pipeline
from segfast.inference.border import border
from segfast.inference.scores import Scores
from segfast.inference.warming import warm_up_kernels
from segfast.kernels import loops
from segfast.kernels.merge import Windows, merge_windows, upsample_argmax
from segfast.kernels.reference import Labels, label_dtype
from segfast.pictures.remedies import check_many
from segfast.processes import forks
from segfast.processes.sending import Source
from segfast.protocol import Protocol, Size, check_fit, views
from segfast.runtimes import MANY, Lane, select, to_bytes
from segfast.segmentation import Segmentation

if TYPE_CHECKING:
    from segfast.model import Segmenter


class _Cut(NamedTuple):
    """One view of an image, [H, W, 3], and its windows."""

    image: NDArray[Any]
    origins: list[Size]
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
        threads: CPU threads of each stage: resizing, network, merging; by default one per core.
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
        threads = int(threads) if isinstance(threads, np.integer) else threads
        with border("opening the model", BadModel):
            opened = select.open_model(path, runtime, device, threads, precision, attention, trusted)
        self.config, self._protocol, self.output = opened.config, opened.protocol, opened.output
        self._runtime, self._threads, self._notes = opened.runtime, threads, opened.notes
        on_host = self._runtime.device == "cpu"
        self._network = limits.Network(self.config.patch, self.config.num_classes, on_host)
        options = {"runtime": runtime, "device": device, "threads": threads}
        self._source = Source(path, {**options, "precision": precision, "attention": attention, "trusted": trusted})
        self._process = os.getpid()
        self.runtime = f"{self._runtime.name} on {self._runtime.device} in {self._runtime.precision}"

    def segment(
        self, image: Any, *, multiscale: bool = False, stride: int | None = None, fit: Size | None = None
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
                evaluation on the paper's datasets does; the labels still have its own size.

        Raises:
            BadImage: the image cannot be read.
            BadOption: the stride is not from 1 to the window, or `fit` is no size.
            NotSupported: a labels artifact is asked for more than one exact window; the image has to be
                enlarged to cover the window and is over 100 times as long as wide; it takes over 65,536
                windows, an array of over 2^31 - 1024 numbers, or more memory than there is (told before
                anything is allocated); or a library fails at it, whose error is then the cause.
        """
        return self._finish(self._infer([self._prepare(image, multiscale, stride, fit)])[0])

    def segment_many(
        self,
        images: Iterable[Any],
        *,
        multiscale: bool = False,
        stride: int | None = None,
        fit: Size | None = None,
        errors: str = "raise",
    ) -> Iterator[Segmentation | SegfastError]:
        """What `segment` gives for each image, in order, with reading, network and merging overlapped.

        Windows of neighbouring images share the network's batches, for which a CPU gets a second
        network ready once it has seen eight images. At most eight images are held at a time, 26 on a
        GPU. Closing the iterator, or Ctrl-C, stops the work between two windows.

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
        seen = 0

        def infer(works: list[_Work]) -> list[_Answer]:
            nonlocal seen
            if seen >= MANY:
                self._runtime.compile_pairs()
            seen += len(works)
            return self._infer(works)

        stages = (
            pipeline.one_by_one(partial(self._prepare, multiscale=multiscale, stride=stride, fit=fit)),
            pipeline.Stage(infer, self._runtime.group),
            pipeline.one_by_one(self._finish),
        )
        return forks.Here(pipeline.answers(images, stages, errors == "raise"))

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
        H, W = size = self._protocol.window
        self._check_process()
        cut = read_windows(windows, size)
        with self._runtime.lane() as lane:
            given = lane.run(cut)
        if not labels or self.output == "labels":
            return lane.fetch(lambda: given)
        padded = self._padded(size)
        return lane.fetch(lambda: upsample_argmax(given, padded, threads=self._threads)[:, :H, :W])

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
        In OpenVINO it gets the network for pairs of windows ready, too, which takes its memory: of seg-b-mask-16
        0.8 GB, needed otherwise from eight windows of an image, or images of a stream, on.

        Raises:
            NotSupported: memory does not hold it; or this is a forked child, as of `segment`.
        """
        self._check_process()
        self._runtime.warm_up(self._protocol.window)
        if self.output == "logits":
            with self._runtime.lane() as lane:
                warm_up_kernels(lane, self._protocol.window, self._threads)

    def __repr__(self) -> str:
        H, W = self._protocol.window
        what = f"{self.config.name}, {self.config.num_classes} classes, {H}×{W} windows, {self.output}"
        loops_run = [] if self.output == "labels" else loops.notes(merging=self._runtime.device == "cpu")
        notes = "".join(f"; {note}" for note in (*self._runtime.notes, *self._notes, *loops_run))
        return f"Engine({what}: {self.runtime}{notes})"

    @border("laying the image out")
    def _prepare(self, image: Any, multiscale: bool, stride: int | None, fit: Size | None = None) -> _Work:
        """Read an image and lay its views out. Those of a multi-scale request are cut when their turn comes."""
        self._check_process()
        protocol, fit = self._protocol.with_stride(stride), check_fit(fit)
        if (size := limits.size_of(image)) is not None:
            self._check(size, multiscale, protocol, fit)  # before it is copied
        with border("reading the image", BadImage):
            pixels = read_image(image)
        if size is None:
            self._check(size := pixels.shape[:2], multiscale, protocol, fit)
        if self.output == "labels":
            return _Work(pixels, [])
        laid_out = views(size, multiscale, fit)
        cuts = (self._cut(pixels, view, mirrored, protocol, fit is not None) for view, mirrored in laid_out)
        return _Work(pixels, cuts if multiscale else list(cuts))

    def _cut(self, pixels: Pixels, size: Size, mirrored: bool, protocol: Protocol, rounded: bool) -> _Cut:
        """One view: the image resized to `size`, mirrored or not, and where its windows lie.

        Resized by a dataset's rule it is `rounded`, as the original's evaluation resizes bytes.
        """
        image = resize(pixels, size, self._threads)
        image = resize(to_bytes(image) if rounded else image, protocol.working_size(size), self._threads)
        image = image[:, ::-1] if mirrored else image
        return _Cut(image, *protocol.windows((image.shape[0], image.shape[1])), mirrored)

    @border("running the network")
    def _infer(self, works: Sequence[_Work]) -> list[_Answer]:
        """Run the network over everything that was laid out."""
        with self._runtime.lane() as lane:
            if self.output == "logits":
                return self._run_works(works, lane)
            given = lane.run([work.pixels for work in works])
        labels = lane.fetch(lambda: given).astype(label_dtype(self.config.num_classes), copy=False)
        return [_Answer(work.pixels, part, lane) for work, part in zip(works, labels, strict=True)]

    def _run_works(self, works: Sequence[_Work], lane: Lane) -> list[_Answer]:
        """Single views of several images share batches; the many views of one are cut when their turn comes."""
        if all(isinstance(work.cuts, list) for work in works):
            views = iter(self._run_cuts([cut for work in works for cut in work.cuts], lane))
            return [_Answer(work.pixels, [next(views) for _ in work.cuts], lane) for work in works]
        # By `map`, which lets go of a view's image before the next is made; a loop's variable would keep it.
        return [_Answer(work.pixels, list(map(partial(self._run_cut, lane), work.cuts)), lane) for work in works]

    def _run_cut(self, lane: Lane, cut: _Cut) -> Windows:
        return self._run_cuts([cut], lane)[0]

    def _run_cuts(self, cuts: Sequence[_Cut], lane: Lane) -> list[Windows]:
        """The network's answers for views; a window is a view of the image until it is copied in."""
        answers = []
        for ((h, w), _), group in itertools.groupby(cuts, lambda cut: (cut.window, cut.image.dtype)):
            alike = list(group)
            logits = lane.run([cut.image[y : y + h, x : x + w] for cut in alike for y, x in cut.origins])
            for cut in alike:
                mine, logits = logits[: len(cut.origins)], logits[len(cut.origins) :]
                size = cut.image.shape[0], cut.image.shape[1]
                answers.append(Windows(mine, cut.origins, cut.window, self._padded(cut.window), size, cut.mirrored))
        return answers

    def _padded(self, window: Size) -> Size:
        """The size that a window's logits stand for."""
        (h, w), P = window, self.config.patch
        return (h + -h % P, w + -w % P) if self._protocol.crop_padding else window

    @border("merging the windows")
    def _finish(self, answer: _Answer) -> Segmentation:
        """Merge what the network gave into labels."""
        pixels, size = answer.pixels, answer.pixels.shape[:2]
        names = self.config.classes, self.config.palette
        if isinstance(answer.given, np.ndarray):
            return Segmentation(answer.given, *names, pixels)
        labels = answer.lane.fetch(merge_windows, answer.given, size, threads=self._threads)
        scores = Scores(answer.lane, answer.given, size, self._threads)
        return Segmentation(labels, *names, pixels, scores)

    def _check(self, size: Size, multiscale: bool, protocol: Protocol, fit: Size | None) -> None:
        """Refuse what this network or this machine cannot do."""
        laid_out = [view for view, _ in views(size, multiscale, fit)]
        if self.output == "labels":
            self._check_window(size, multiscale, laid_out[0])
        else:
            limits.check_views(size, laid_out, protocol, self._network, fit)

    def _check_process(self) -> None:
        """Refuse to run in a forked child what would hang there."""
        if not self._runtime.outlives_forks:
            forks.check(self._process, self._runtime.name)

    def _check_window(self, size: Size, multiscale: bool, view: Size) -> None:
        """Refuse what a labels artifact cannot do exactly: anything but one image of the window's size."""
        H, W = self._protocol.window
        if multiscale or size != (H, W) or view != size:
            asked = "multi-scale scores" if multiscale else f"an image of {size[0]}×{size[1]}"
            asked += f" resized to {view[0]}×{view[1]}" if view != size and not multiscale else ""
            raise NotSupported(
                f"this artifact gives labels of exactly {H}×{W} pixels, not {asked}; export the model for any size: "
                "python -m segfast.export --output logits, with the same --model or --weights"
            )


def resize(image: NDArray[Any], size: Size, threads: int | None = None) -> NDArray[Any]:
    """Bilinear [H, W, 3] → [*size, 3], float32 in the same range; the image itself if it has that size."""
    if image.shape[:2] == size:
        return image
    with forks.running():  # the first time its loops are compiled
        return kernels.resize(image, size, threads=threads)
