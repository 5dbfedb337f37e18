"""Every way to get labels from uint8 images: the original's, stock deployments, and ours.

A column is a function from uint8 images [B, H, W, 3] to labels [B, H, W] on the host. The stock export is what
one does without segfast: the whole eager model, logits of all classes at full resolution, then argmax.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

import segfast
from segfast.errors import MissingRuntime, NotSupported
from segfast.export.graph import at_size
from segfast.inference.normalisation import channels
from segfast.machine.exhaustion import out_of_memory
from segfast.model import Segmenter
from segfast.protocol import Protocol

if TYPE_CHECKING:
    import onnxruntime

Images = NDArray[np.uint8]
Labels = NDArray[np.integer]
Column = Callable[[Images], Labels]
MakeFile = Callable[[str, Callable[[Path], object]], Path]


class Unavailable(Exception):
    """A column cannot be had here, for this reason."""


@dataclass(frozen=True)
class Case:
    """What the columns compute.

    Attributes:
        device: `cpu` or `cuda`.
        batch: the most images that they are to take at once.
        artifact: a function (name, function that writes a path) → the file's path, made once.
        fixed: the original's algorithm in plain PyTorch, fp32, for this size: unfused attention, upsampling of all classes.
    """

    model: Segmenter
    size: int
    device: str
    batch: int
    artifact: MakeFile
    fixed: Segmenter

    @classmethod
    def of(cls, model: Segmenter, size: int, device: str, batch: int, artifact: MakeFile) -> Case:
        return cls(model, size, device, batch, artifact, at_size(model, (size, size)).to(device))

    @property
    def key(self) -> str:
        """Of its artifacts."""
        return f"{self.model.config.name}-{self.size}"

    def normalised(self, images: Images) -> torch.Tensor:
        """[B, H, W, 3] uint8 of the host → [B, 3, H, W] fp32 on the device."""
        return normalised(images, self.model.config.protocol, self.device)


_channels = lru_cache(channels)  # copied to the device once


def normalised(images: Images, protocol: Protocol, device: str) -> torch.Tensor:
    """[B, H, W, 3] uint8 of the host → [B, 3, H, W] fp32 on a device."""
    mean, std = _channels(protocol, device)
    # Not by `normalise`, whose cast would be one more pass over the images that the peers have to pay for.
    return (torch.from_numpy(images).to(device).permute(0, 3, 1, 2) / 255 - mean) / std


def best_classes(logits: torch.Tensor) -> Labels:
    """[B, K, H, W] → [B, H, W] on the host, as bytes where they hold the classes."""
    labels = logits.argmax(1)
    return (labels.to(torch.uint8) if logits.shape[1] <= 256 else labels).cpu().numpy()


def make(makers: dict[str, Callable[[], Column]], images: Images) -> dict[str, Column | str]:
    """The columns by name, each called once; in their place the reason where one cannot be had.

    A peer may fail in any way, ours only for want of what is not there.
    """
    made: dict[str, Column | str] = {}
    for name, maker in makers.items():
        try:
            made[name] = maker()
            made[name](images)
        except (Unavailable, MissingRuntime, NotSupported, ImportError) as error:
            made[name] = str(error)
        except Exception as error:
            if out_of_memory(error):
                made[name] = "the device's memory does not hold it"
            elif name.startswith("segfast"):
                raise
            else:
                made[name] = (
                    f"it fails: {type(error).__name__}: {(str(error).strip() or 'no more is said').splitlines()[0]}"
                )
        if isinstance(made[name], str) and torch.cuda.is_available():
            torch.cuda.empty_cache()
    return made


def peers(case: Case, compiled: bool) -> dict[str, Callable[[], Column]]:
    """What one would use otherwise; torch.compile, which takes long, where asked."""
    half = "bf16" if case.device == "cpu" else "fp16"
    makers = {"eager-fp32": lambda: eager(case)}
    if case.device == "cuda":
        makers["eager-fp16"] = lambda: eager(case, torch.float16)
    if compiled:
        mode = "reduce-overhead" if case.device == "cuda" else None  # CUDA graphs
        makers["compile-fp32"] = lambda: eager(case, network=torch.compile(case.fixed, mode=mode))
        if case.device == "cuda":
            makers["compile-fp16"] = lambda: eager(case, torch.float16, torch.compile(case.fixed, mode=mode))
    makers["stock-onnxruntime-fp32"] = lambda: stock_onnxruntime(case, "fp32")
    if case.device == "cuda":
        makers["stock-onnxruntime-fp16"] = lambda: stock_onnxruntime(case, "fp16")
    else:
        makers["stock-openvino-fp32"] = lambda: stock_openvino(case, "fp32")
        makers[f"stock-openvino-{half}"] = lambda: stock_openvino(case, half)
    return makers


def ours(case: Case) -> dict[str, Callable[[], Column]]:
    """segfast's engines."""
    if case.device == "cpu":
        return {
            "segfast-onnxruntime-fp32": lambda: engine(case, exported(case, "fp32"), runtime="onnxruntime"),
            "segfast-openvino-fp32": lambda: engine(case, exported(case, "fp32"), runtime="openvino"),
            "segfast-openvino-bf16": lambda: engine(case, exported(case, "fp16"), runtime="openvino", precision="bf16"),
            "segfast-pytorch-fp32": lambda: engine(case, case.model, precision="fp32"),
            "segfast-pytorch-bf16": lambda: engine(case, case.model, precision="bf16"),
        }
    return {
        "segfast-onnxruntime-fp16": lambda: engine(case, exported(case, "fp16"), runtime="onnxruntime"),
        "segfast-pytorch-fp32": lambda: engine(case, case.model, precision="fp32"),
        "segfast-pytorch-fp16": lambda: engine(case, case.model, precision="fp16"),
        "segfast-tensorrt-fp16": lambda: engine(case, planned(case)),
    }


def eager(
    case: Case, autocast: torch.dtype | None = None, network: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> Column:
    """The original's algorithm in plain PyTorch, its images in as many parts as the device's memory asks for."""
    network = case.fixed if network is None else network
    largest = math.inf

    @torch.inference_mode()
    def part(images: Images) -> Labels:
        with torch.autocast(case.device, autocast, enabled=autocast is not None):
            return best_classes(network(case.normalised(images)))

    def call(images: Images) -> Labels:
        nonlocal largest
        while True:
            count = int(min(largest, len(images)))
            try:
                return np.concatenate([part(images[i : i + count]) for i in range(0, len(images), count)])
            except RuntimeError as error:
                if count == 1 or not out_of_memory(error):
                    raise
            torch.cuda.empty_cache()
            largest = count // 2

    return call


def stock_file(case: Case, precision: str = "fp32") -> Path:
    """The stock export: normalised images in, full-resolution logits out, all of it fp32 or fp16."""
    dtype = torch.float16 if precision == "fp16" else torch.float32

    def write(path: Path) -> None:
        fixed, example = copy.deepcopy(case.fixed).cpu().to(dtype), torch.zeros(1, 3, case.size, case.size, dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the old exporter, of sizes it takes as constants
            torch.onnx.export(
                fixed,
                (example,),
                path,
                opset_version=18,
                dynamo=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}} if case.batch > 1 else None,
            )

    return case.artifact(f"{case.key}-stock-{precision}{'-batches' if case.batch > 1 else ''}.onnx", write)


def stock_onnxruntime(case: Case, precision: str) -> Column:
    import onnxruntime

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[case.device]
    if provider not in onnxruntime.get_available_providers():
        raise Unavailable(f"ONNX Runtime has no {provider} here")
    options: dict[str, object] = {}
    if case.device == "cuda":
        options = {"use_tf32": 0}  # fp32 is fp32, as PyTorch's is
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(stock_file(case, precision), providers=[(provider, options)])
    if session.get_providers()[0] != provider:
        raise Unavailable(f"ONNX Runtime cannot use its {provider} here")
    session.disable_fallback()
    if case.device == "cpu":
        return _stock(lambda x: session.run(None, {"images": x})[0], case)
    return on_device(session, case, precision)


def on_device(session: onnxruntime.InferenceSession, case: Case, precision: str) -> Column:
    """An ONNX Runtime session whose images and logits stay on the device, where PyTorch prepares and reads them."""
    dtype, element = {"fp16": (torch.float16, np.float16), "fp32": (torch.float32, np.float32)}[precision]

    def call(images: Images) -> Labels:
        given = case.normalised(images).to(dtype).contiguous()
        logits = torch.empty(
            len(images), case.model.config.num_classes, case.size, case.size, dtype=dtype, device=case.device
        )
        binding = session.io_binding()
        binding.bind_input("images", case.device, 0, element, given.shape, given.data_ptr())
        binding.bind_output("logits", case.device, 0, element, logits.shape, logits.data_ptr())
        if case.device == "cuda":
            torch.cuda.synchronize()  # ONNX Runtime has a stream of its own
        session.run_with_iobinding(binding)  # which is waited for
        return best_classes(logits)

    return call


def stock_openvino(case: Case, precision: str) -> Column:
    import openvino

    from segfast.runtimes.openvino import load_plugin

    core = openvino.Core()
    capable = load_plugin(core)
    if precision == "bf16" and "BF16" not in capable:
        raise Unavailable("this CPU has no bf16")
    hint = {"fp32": "f32"}.get(precision, precision)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = core.compile_model(stock_file(case), "CPU", options).create_infer_request()
    return _stock(lambda x: request.infer({0: x})[0], case)


def _stock(network: Callable[[NDArray[np.float32]], NDArray[np.float32]], case: Case) -> Column:
    protocol = case.model.config.protocol

    def call(images: Images) -> Labels:
        logits = network(normalised(images, protocol, "cpu").contiguous().numpy())
        return best_classes(torch.from_numpy(logits))  # faster than NumPy's

    return call


def exported(case: Case, precision: str) -> Path:
    """Our .onnx file."""
    from segfast.export import export_onnx

    return case.artifact(
        f"{case.key}-{precision}.onnx", lambda path: export_onnx(case.model, path, size=case.size, precision=precision)
    )


def planned(case: Case) -> Path:
    """Our TensorRT engine for the GPU here."""
    from segfast.export import build_engine

    onnx, batches = exported(case, "fp16"), (1, case.batch, case.batch)
    return case.artifact(f"{case.key}-{case.batch}.engine", lambda path: build_engine(onnx, path, batch=batches))


def engine(case: Case, source: Path | Segmenter, runtime: str | None = None, precision: str | None = None) -> Column:
    """One image as users segment it; several as a batch of windows."""
    given = precision if isinstance(source, Segmenter) else None
    made = segfast.Engine(source, runtime=runtime, device=case.device, precision=given)
    if precision == "bf16" and not made.runtime.endswith("bf16"):
        raise Unavailable("this CPU has no bf16")
    if case.batch == 1:
        return lambda images: made.segment(images[0]).labels[None]
    return lambda images: made.run(images, labels=True)
