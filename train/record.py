"""What a run tells: a progress bar, TensorBoard, and the same numbers as lines of JSON in `log.jsonl`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segfast import files
from segfast.datasets.base import IGNORE
from segfast.machine import memory
from segfast.progress import bar, on_terminal

if TYPE_CHECKING:  # drawing curves needs none of it
    from segfast.evaluation.metrics import Labels
    from segfast.train.fields import Recipe
    from segfast.train.running import Running
    from segfast.train.step import Outcome
    from segfast.train.world import World

LOG = "log.jsonl"

# After so many steps, the first of which is slow, the length of a run is told where no bar tells it.
ESTIMATED = 3

SHOWN = 1000  # pixels of the longer side of a picture in TensorBoard

Row = dict[str, Any]  # a line of it


class Recorder:
    """The reports of the first process; the others' stay silent.

    Args:
        first: the step the run begins or goes on with; what the log holds of later ones is dropped.
    """

    def __init__(self, folder: Path, world: World, recipe: Recipe, running: Running, *, first: int):
        self.path, self.world, self.batch, self.every = folder / LOG, world, recipe.batch, running.log_every
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._writer: Any = None
        self._total, self._drawn = recipe.iterations, on_terminal()
        self._bar = bar(
            desc="train",
            total=recipe.iterations,
            initial=first,
            unit="step",
            disable=not world.first or not self._drawn,
            dynamic_ncols=True,
        )
        if world.first:
            _drop_after(self.path, first)
            if running.tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                # A log that is only ever appended to: the one output that TensorBoard writes, not `segfast.files`.
                self._writer = SummaryWriter(str(folder), purge_step=first + 1)
        self._waited, self._start = 0.0, time.perf_counter()
        self._steps, self._first = 0, 0.0

    def step(self, iteration: int, outcome: Outcome, waited: float) -> None:
        """Take a step's numbers in; every few steps their means are reported."""
        self._losses.append(outcome.loss)
        self._norms.append(outcome.norm)
        self._waited += waited
        self._bar.update(1)
        if iteration % self.every == 0:
            self._report(iteration, outcome.rate)
        self._steps += 1
        if self._steps == 1:
            self._first = time.perf_counter()
        elif self._steps == ESTIMATED:
            self._estimate(iteration, (time.perf_counter() - self._first) / (ESTIMATED - 1))

    def evaluation(self, iteration: int, values: Mapping[str, object]) -> None:
        """Report an evaluation; its time counts for no step."""
        self._write("evaluation", iteration, values)
        self._restart()

    def pictures(self, iteration: int, name: str, rows: Iterable[NDArray[np.uint8]]) -> None:
        """Show pictures [H, W, 3] in TensorBoard; without it none is asked for."""
        for number, picture in enumerate(rows if self._writer else ()):
            self._writer.add_image(f"{name}/{number}", at_most(picture, SHOWN), iteration, dataformats="HWC")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.world.first and self._drawn:
            self._bar.write(text)
        elif self.world.first:
            print(text, flush=True)  # a log is read while it is written

    def close(self) -> None:
        """End the bar and the event file."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _report(self, iteration: int, rate: float) -> None:
        seconds, count, memory = time.perf_counter() - self._start, len(self._losses), self._memory()
        loss, speed = sum(self._losses) / count, round(self.batch * count / seconds, 3)
        values = {
            "loss": loss,
            "lr": rate,
            "gradient_norm": sum(self._norms) / count,
            "images_per_second": speed,
            "waiting": round(self._waited / seconds, 4),
            "memory_bytes": memory,
        }
        self._write("train", iteration, values)
        shown = {"loss": f"{loss:.4f}", "lr": f"{rate:.2e}", "images/s": f"{speed:.1f}"}
        shown |= {"memory": f"{(memory or 0) / 1e9:.2f} GB"}
        self._bar.set_postfix(shown)
        if self.world.first and not self._drawn:
            left = (self._total - iteration) * seconds / count
            words = ", ".join(f"{name} {value}" for name, value in shown.items())
            print(f"iteration {iteration}/{self._total}: {words}, {_clock(left)} left", flush=True)
        self._restart()

    def _estimate(self, iteration: int, seconds: float) -> None:
        """Tell how long the rest takes, at so many seconds a step, unless it is over soon."""
        left = (self._total - iteration) * seconds
        if left > 60 and not self._drawn:
            self.say(f"about {_clock(left)} left, besides evaluations: {seconds:.2g} s a step")

    def _restart(self) -> None:
        self._losses, self._norms, self._waited, self._start = [], [], 0.0, time.perf_counter()

    def _memory(self) -> int | None:
        """The most memory held so far: of the GPU, or of the process."""
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device)
        return memory.peak()

    def _write(self, kind: str, iteration: int, values: Mapping[str, object]) -> None:
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


def read_log(path: Path) -> list[Row]:
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
    image: NDArray[np.uint8], truth: Labels, labels: Labels, palette: Sequence[Sequence[int]]
) -> NDArray[np.uint8]:
    """Image, truth and prediction [H, 3·W, 3] in the palette's colours; what is ignored is black."""
    colours = np.zeros((IGNORE + 1, 3), np.uint8)
    colours[: len(palette)] = palette
    return np.concatenate([image, colours[truth], colours[np.where(truth == IGNORE, IGNORE, labels)]], 1)


def at_most(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture [H, W, 3], made smaller where a side of it is longer."""
    H, W = picture.shape[:2]
    if max(H, W) <= side:
        return picture
    size = (max(1, W * side // max(H, W)), max(1, H * side // max(H, W)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _drop_after(path: Path, iteration: int) -> None:
    rows = read_log(path)
    kept = [row for row in rows if row["iteration"] <= iteration]
    if path.exists():
        files.write_text("".join(f"{json.dumps(row)}\n" for row in kept), path)
