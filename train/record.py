"""What a run tells: a progress bar, TensorBoard, and the same numbers as lines of JSON in `log.jsonl`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segfast import files
from segfast.datasets.base import IGNORE
from segfast.machine import memory
from segfast.progress import bar
from segfast.train.world import World

LOG = "log.jsonl"


class Recorder:
    """The reports of the first process; the others' stay silent.

    Args:
        first: the step the run begins or goes on with; what the log holds of later ones is dropped.
        tensorboard: also write its event files.
    """

    def __init__(
        self, folder: Path, world: World, *, first: int, total: int, batch: int, tensorboard: bool, every: int
    ):
        self.path, self.world, self.batch, self.every = folder / LOG, world, batch, every
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._writer: Any = None
        self._bar = bar(
            desc="train", total=total, initial=first, unit="step", disable=not world.first, dynamic_ncols=True
        )
        if world.first:
            _drop_after(self.path, first)
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                # A log that is only ever appended to: the one output that TensorBoard writes, not `segfast.files`.
                self._writer = SummaryWriter(str(folder), purge_step=first + 1)
        self._waited, self._start = 0.0, time.perf_counter()

    def step(self, iteration: int, loss: float, norm: float, rate: float, waited: float) -> None:
        """Take a step's numbers in; every few steps their means are reported."""
        self._losses.append(loss)
        self._norms.append(norm)
        self._waited += waited
        self._bar.update(1)
        if iteration % self.every == 0:
            self._report(iteration, rate)

    def evaluation(self, iteration: int, values: dict[str, Any]) -> None:
        """Report an evaluation; its time counts for no step."""
        self._write("evaluation", iteration, values)
        self._restart()

    def pictures(self, iteration: int, name: str, rows: Sequence[NDArray[np.uint8]]) -> None:
        """Show pictures [H, W, 3] in TensorBoard."""
        for number, picture in enumerate(rows if self._writer else ()):
            self._writer.add_image(f"{name}/{number}", picture, iteration, dataformats="HWC")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.world.first:
            self._bar.write(text)

    def close(self) -> None:
        """End the bar and the event file."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _report(self, iteration: int, rate: float) -> None:
        seconds = time.perf_counter() - self._start
        count = len(self._losses)
        values = {
            "loss": sum(self._losses) / count,
            "lr": rate,
            "gradient_norm": sum(self._norms) / count,
            "images_per_second": round(self.batch * count / seconds, 3),
            "waiting": round(self._waited / seconds, 4),
            "memory_bytes": self._memory(),
        }
        self._write("train", iteration, values)
        memory = f"{(values['memory_bytes'] or 0) / 1e9:.2f} GB"
        speed = f"{values['images_per_second']:.1f}"
        self._bar.set_postfix(
            {"loss": f"{values['loss']:.4f}", "lr": f"{rate:.2e}", "images/s": speed, "memory": memory}
        )
        self._restart()

    def _restart(self) -> None:
        self._losses, self._norms, self._waited, self._start = [], [], 0.0, time.perf_counter()

    def _memory(self) -> int | None:
        """The most memory held so far: of the GPU, or of the process."""
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device)
        return memory.peak()

    def _write(self, kind: str, iteration: int, values: dict[str, Any]) -> None:
        if not self.world.first:
            return
        # JSON knows no NaN, which a loss may be.
        known = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        files.append_line(self.path, json.dumps({"kind": kind, "iteration": iteration, **known}))
        for name, value in values.items() if self._writer else ():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"{kind}/{name}", value, iteration)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a `log.jsonl`; a line that a crash left unfinished is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            rows.append(row)
    return rows


def side_by_side(
    image: NDArray[np.uint8], truth: NDArray[Any], labels: NDArray[Any], palette: Sequence[Sequence[int]]
) -> NDArray[np.uint8]:
    """Image, truth and prediction [H, 3·W, 3] in the palette's colours; what is ignored is black."""
    colours = np.zeros((IGNORE + 1, 3), np.uint8)
    colours[: len(palette)] = palette
    return np.concatenate([image, colours[truth], colours[np.where(truth == IGNORE, IGNORE, labels)]], 1)


def _drop_after(path: Path, iteration: int) -> None:
    rows = read_log(path)
    kept = [row for row in rows if row["iteration"] <= iteration]
    if path.exists():
        files.write_text("".join(f"{json.dumps(row)}\n" for row in kept), path)
