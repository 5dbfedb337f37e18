"""Every way to get labels from uint8 images: the original's, stock deployments, and ours.

A column is a function from uint8 images [B, H, W, 3] to labels [B, H, W] on the host. The stock export is what
one does without segfast: the whole eager model, logits of all classes at full resolution, then argmax.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segfast
from segfast.errors import MissingRuntime
from segfast.export.graph import at_size
from segfast.model import Segmenter
from segfast.runtimes.device import out_of_memory

Column = Callable[[Any], Any]


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
    artifact: Callable[[str, Callable[[Path], object]], Path]
    fixed: Segmenter

    @classmethod
    def of(cls, model: Segmenter, size: int, device: str, batch: int, artifact: Any) -> Case:
        return cls(model, size, device, batch, artifact, at_size(model, (size, size)).to(device))

    @property
    def key(self) -> str:
        """Of its artifacts."""
        return f"{self.model.config.name}-{self.size}"

    def normalised(self, images: Any) -> torch.Tensor:
        """[B, H, W, 3] uint8 of the host → [B, 3, H, W] fp32 on the device."""
        return normalised(images, self.model.config.protocol, self.device)


def normalised(images: Any, protocol: Any, device: str) -> torch.Tensor:
    """[B, H, W, 3] uint8 of the host → [B, 3, H, W] fp32 on a device."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (protocol.mean, protocol.std))
    return (torch.from_numpy(images).to(device).permute(0, 3, 1, 2) / 255 - mean) / std


def make(makers: dict[str, Callable[[], Column]]) -> dict[str, Column | str]:
    """The columns by name, in their place the reason where one cannot be had."""
    made: dict[str, Column | str] = {}
    for name, maker in makers.items():
        try:
            made[name] = maker()
        except (Unavailable, MissingRuntime, ImportError) as error:
            made[name] = str(error)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            made[name] = "the device's memory does not hold it"
    return made


def peers(case: Case, compiled: bool) -> dict[str, Callable[[], Column]]:
    """What one would use otherwise; torch.compile, which takes long, where asked."""
    half = "bf16" if case.device == "cpu" else "fp16"
    makers = {"eager-fp32": lambda: eager(case)}
    if case.device == "cuda":
        makers["eager-fp16"] = lambda: eager(case, torch.float16)
    if compiled:
        makers["compile-fp32"] = lambda: eager(case, network=torch.compile(case.fixed))
        if case.device == "cuda":
            makers["compile-fp16"] = lambda: eager(case, torch.float16, torch.compile(case.fixed))
    makers["stock-onnxruntime-fp32"] = lambda: stock_onnxruntime(case)
    if case.device == "cpu":
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


def eager(case: Case, autocast: torch.dtype | None = None, network: Callable[..., Any] | None = None) -> Column:
    """The original's algorithm in plain PyTorch, its images in as many parts as the device's memory asks for."""
    network = case.fixed if network is None else network
    largest = math.inf

    @torch.inference_mode()
    def part(images: Any) -> Any:
        with torch.autocast(case.device, autocast, enabled=autocast is not None):
            return network(case.normalised(images)).argmax(1).cpu().numpy()

    def call(images: Any) -> Any:
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


def stock_file(case: Case) -> Path:
    """The stock export: fp32 images in, full-resolution logits out."""
    fixed, example = case.fixed.cpu(), torch.zeros(1, 3, case.size, case.size)

    def write(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                             # of the old exporter, of sizes it takes as constants
            torch.onnx.export(
                fixed, (example,), path, opset_version=18, dynamo=False, input_names=["images"], output_names=["logits"],
                dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}} if case.batch > 1 else None,
            )  # fmt: skip

    try:
        return case.artifact(f"{case.key}-stock{'-batches' if case.batch > 1 else ''}.onnx", write)
    finally:
        case.fixed.to(case.device)


def stock_onnxruntime(case: Case) -> Column:
    import onnxruntime

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[case.device]
    if provider not in onnxruntime.get_available_providers():
        raise Unavailable(f"ONNX Runtime has no {provider} here")
    session = onnxruntime.InferenceSession(stock_file(case), providers=[provider])
    return _stock(lambda x: session.run(None, {"images": x})[0], case)


def stock_openvino(case: Case, precision: str) -> Column:
    import openvino

    path, made = stock_file(case), []
    if precision == "bf16" and not _has_bf16():
        raise Unavailable("this CPU has no bf16")

    # As our own runtime does: a Core's plugin is loaded by a thread that ends (segfast/runtimes/openvino.py).
    def load() -> None:
        hint = {"fp32": "f32"}.get(precision, precision)
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        made.append(openvino.Core().compile_model(path, "CPU", options))

    loader = threading.Thread(target=load)
    loader.start()
    loader.join()
    request = made[0].create_infer_request()
    return _stock(lambda x: request.infer({0: x})[0], case)


def _has_bf16() -> bool:
    import openvino

    from segfast.runtimes.openvino import _load_plugin

    return "BF16" in _load_plugin(openvino.Core())


def _stock(network: Callable[[Any], Any], case: Case) -> Column:
    protocol = case.model.config.protocol

    def call(images: Any) -> Any:
        logits = network(normalised(images, protocol, "cpu").contiguous().numpy())
        return torch.from_numpy(logits).argmax(1).numpy()               # faster than NumPy's

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
