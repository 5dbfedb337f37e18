"""What a run of the benchmarks found: rows by section, each as what it means."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

SECTIONS = ("models", "scaling", "stages", "kernels", "limits")
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "pytorch": "PyTorch", "tensorrt": "TensorRT"}
EAGER = "eager-fp32"
KINDS = ("eager", "compile", "stock", "segfast")
PRECISIONS = ("fp32", "fp16", "bf16")
LIMITS = ("fp32_flops", "bf16_flops", "fp16_flops", "copy_bytes")


@dataclass(frozen=True)
class Column:
    """One way of computing a row's labels: `eager-fp32`, `stock-openvino-bf16`, `segfast-tensorrt-fp16`, …

    Attributes:
        seconds: of a call, the least of its rounds; None where it was skipped for the reason `skipped`.
        agreement: share of the labels equal to those of the fp32 reference.
        attention: share of the time spent in attention.
    """

    name: str
    precision: str
    seconds: float | None = None
    images_per_second: float | None = None
    agreement: float | None = None
    peak_bytes: float | None = None
    attention: float | None = None
    skipped: str | None = None

    @property
    def ours(self) -> bool:
        return self.name.startswith("segfast-")

    @property
    def stock(self) -> bool:
        return self.name.startswith("stock-")

    @property
    def runtime(self) -> str:
        """Its runtime as its makers write it; empty for the eager and the compiled model."""
        return next((title for key, title in RUNTIMES.items() if f"-{key}-" in self.name), "")

    @property
    def place(self) -> tuple[int, str, int, str]:
        """What it is sorted by: peers before ours, fp32 before less, by runtime."""
        return _index(KINDS, self.name.split("-")[0]), self.runtime, _index(PRECISIONS, self.precision), self.name

    @property
    def title(self) -> str:
        """For people: `stock OpenVINO bf16`."""
        return " ".join(part for part in (self.name.split("-")[0], self.runtime, self.precision) if part)


@dataclass(frozen=True)
class Target:
    """What was wanted of a row, and what it got."""

    row: str
    what: str
    wanted: float
    got: float | None
    met: bool
    note: str = ""


@dataclass(frozen=True)
class Timed:
    """A row of the models or of the scaling: one model at one size, in every column.

    Attributes:
        paper_speeds: the paper's images per second; it gives two for B†.
        flops: of one image.
        share_of_peak: of the machine's measured matrix peak, by our fastest column.
    """

    id: str
    model: str
    size: int
    batch: int
    columns: dict[str, Column]
    patch: int | None = None
    tokens: int | None = None
    flops: float | None = None
    least_bytes: float | None = None
    paper_speeds: tuple[float, ...] = ()
    paper_miou: float | None = None
    share_of_peak: float | None = None
    targets: tuple[Target, ...] = ()

    @property
    def eager(self) -> Column | None:
        return self._fastest([self.columns[EAGER]] if EAGER in self.columns else [])

    @property
    def best(self) -> Column | None:
        """Our fastest column."""
        return self._fastest([column for column in self.columns.values() if column.ours])

    def best_of(self, precision: str, stock: bool) -> Column | None:
        """The fastest stock deployment, or our fastest column, of a precision."""
        candidates = [c for c in self.columns.values() if c.precision == precision and (c.stock if stock else c.ours)]
        return self._fastest(candidates)

    def _fastest(self, columns: list[Column]) -> Column | None:
        return min((c for c in columns if c.seconds is not None), key=lambda c: c.seconds or math.inf, default=None)


@dataclass(frozen=True)
class Stage:
    """One photo through an Engine: seconds of decode, resize, network, merge and in total."""

    id: str
    runtime: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class Kernel:
    """One of our operations beside its peers; `ratio` is how many times as fast as the best of them."""

    id: str
    seconds: float
    peers: dict[str, float]
    ratio: float
    wanted: float | None

    @property
    def target(self) -> Target | None:
        met = self.wanted is None or self.ratio >= self.wanted
        return None if self.wanted is None else Target(self.id, "ratio to its peer", self.wanted, self.ratio, met)


@dataclass(frozen=True)
class Results:
    """What one run on one machine gave. A partial run lacks sections.

    Attributes:
        device, versions: as the run recorded them.
        exponents: of the cost in the number of tokens, by column and `patch 16`.
        limits: FLOP/s of the largest matrix product by precision, bytes/s of a copy.
        skipped: why rows could not be measured, by (section, id).
        foreign: how many rows are of sections unknown here, by section.
    """

    path: Path
    device: dict[str, Any]
    versions: dict[str, Any]
    date: str
    commit: str
    seconds: float | None
    models: tuple[Timed, ...] = ()
    scaling: tuple[Timed, ...] = ()
    stages: tuple[Stage, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    exponents: dict[str, dict[str, float]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)
    foreign: dict[str, int] = field(default_factory=dict)

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Those of all rows, the missed ones first."""
        timed = [target for row in (*self.models, *self.scaling) for target in row.targets]
        kernels = [kernel.target for kernel in self.kernels if kernel.target]
        return tuple(sorted([*timed, *kernels], key=lambda target: target.met))


def _index(known: tuple[str, ...], value: str) -> int:
    return known.index(value) if value in known else len(known)
