"""What an export tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segfast.export.check import Agreement
from segfast.export.peaks import Peak

if TYPE_CHECKING:
    from segfast.export.int8 import Quantised


@dataclass(frozen=True)
class ExportReport:
    """What was written and how well it agrees with the fp32 model in PyTorch, on a photo.

    Attributes:
        path, bytes: of the file.
        peak: the largest activation over photos, black, white and noise (fp16 only).
        checks: agreement in ONNX Runtime, which is the gate, and in the Engine's default runtime.
        gate: largest relative error that is published; None of int8, whose gate is what it loses.
        replaced: what was at `path` before, in words.
        quantised: how it became int8, and what that loses.
    """

    path: Path
    bytes: int
    peak: Peak | None
    checks: tuple[Agreement, ...]
    gate: float | None
    replaced: str | None = None
    quantised: Quantised | None = None

    def __str__(self) -> str:
        lines = [f"wrote {self.path} ({self.bytes / 1e6:.1f} MB)"]
        if self.replaced is not None:
            lines.append(f"it replaced a file of that name: {self.replaced}")
        if self.peak is not None:
            lines.append(f"largest activation {self.peak}")
        if self.quantised is not None:
            lines.append(str(self.quantised))
        gate = "" if self.gate is None else f" (gate {self.gate:g})"
        lines += [f"{agreement}{gate}" for agreement in self.checks[:1]]
        return "\n".join(lines + [str(agreement) for agreement in self.checks[1:]])
