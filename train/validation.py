"""Evaluations during a run; the weights with the best mIoU so far are kept as `best.safetensors`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segfast import __version__
from segfast.datasets import Dataset
from segfast.engine import Engine
from segfast.evaluation.evaluate import evaluate
from segfast.evaluation.metrics import Labels, Scores, scores
from segfast.model import Segmenter
from segfast.train.augment import resize_image, resize_labels, resized
from segfast.train.data import Collate
from segfast.train.fields import Recipe
from segfast.train.record import Recorder, side_by_side
from segfast.train.running import StopNow, StopRequest
from segfast.train.state import Progress
from segfast.train.step import Stepper
from segfast.train.world import World

BEST = "best.safetensors"
# How many predictions TensorBoard shows.
SHOWN = 4


@dataclass(frozen=True)
class Validation:
    """The validation set of a run, its pictures shared among the processes.

    Attributes:
        folder: of the run.
    """

    dataset: Dataset
    recipe: Recipe
    folder: Path
    world: World
    record: Recorder

    def run(self, stepper: Stepper, progress: Progress, stop: StopRequest) -> bool:
        """Evaluate a model in training, tell of it, and keep it if it is the best so far; False if it was stopped."""
        start, model = time.perf_counter(), stepper.model
        engine = Engine(model, device=str(self.world.device))
        found = self._measured(engine, stepper, stop)
        if found is not None:
            self.record.pictures(progress.iteration, "prediction", self._predictions(engine, stop))
        model.train()
        if found is None:
            return False
        self._tell(*found, progress, time.perf_counter() - start)
        if progress.best_iteration == progress.iteration and self.world.first:
            self._publish(model, progress)
        return True

    def _tell(self, found: Scores, loss: float | None, progress: Progress, seconds: float) -> None:
        """Write the numbers, and note in `progress` whether they are the best."""
        miou = found.miou
        values = {
            "miou": miou,
            "loss": loss,
            "pixel_accuracy": found.pixel_accuracy,
            "dice": found.dice,
            "f1": found.f1,
            "precision": found.precision,
            "recall": found.recall,
            "seconds": round(seconds, 3),
            "per_class": dict(zip(self.dataset.classes, found.per_class, strict=True)),
        }
        self.record.evaluation(progress.iteration, values)
        better = miou is not None and miou > progress.best
        progress.stale = 0 if better else progress.stale + 1
        if miou is not None and better:
            progress.best, progress.best_iteration = miou, progress.iteration
        words = "mIoU undefined: no pixel is labelled" if miou is None else f"mIoU {100 * miou:.2f}"
        words += "" if loss is None else f", loss {loss:.4f}"
        self.record.say(f"iteration {progress.iteration}: {words}{' (best)' if better else ''}")

    def _measured(self, engine: Engine, stepper: Stepper, stop: StopRequest) -> tuple[Scores, float | None] | None:
        """Scores and loss over all processes; None where one was asked to stop."""
        dataset, world, K = self.dataset, self.world, len(self.dataset.classes)
        mine = dataset.take(range(world.rank, len(dataset), world.size))
        matrix = torch.zeros(K, K, dtype=torch.int64)
        parts = torch.zeros(2, dtype=torch.float64, device=world.device)

        def heed(index: int, labels: Labels) -> None:
            if stop.wanted:  # where StopNow was raised in a finaliser, it is lost
                raise StopNow

        stopped = False
        try:
            if len(mine):
                with stop.at_once():  # between the windows of a picture, as the Engine looks for Ctrl-C
                    report = evaluate(engine, mine, fit=self.recipe.fit, each=heed)
                matrix += torch.from_numpy(report.confusion)
                parts += self._losses(stepper, mine, stop)
        except StopNow:
            stopped = True
        if world.sum(torch.tensor(int(stopped), device=world.device)).item():
            return None
        found = scores(world.sum(matrix.to(world.device)).cpu().numpy())
        total, count = world.sum(parts).tolist()
        return found, total / count if count else None

    def _losses(self, stepper: Stepper, dataset: Dataset, stop: StopRequest) -> torch.Tensor:
        """What `Stepper.measure` finds of the middle of every picture: a training crop, without chance."""
        crop = self.recipe.crop
        recipe, collate = replace(self.recipe, ratio=(1.0, 1.0)), Collate(crop)
        total = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        for index in range(len(dataset)):
            if stop.wanted:
                raise StopNow
            image, labels = dataset.image(index), dataset.labels(index)
            H, W = labels.shape
            size = resized((H, W), recipe, 0.0)
            rows, columns = (slice(start := max(side - crop, 0) // 2, start + crop) for side in size)
            pair = resize_image(image, size, rows, columns), resize_labels(labels, size, rows, columns)
            batch = collate([pair])
            assert not isinstance(batch, Exception)
            total += stepper.measure(batch)
        return total

    def _predictions(self, engine: Engine, stop: StopRequest) -> Iterator[NDArray[np.uint8]]:
        """The first pictures with truth and prediction; none any more once the run was asked to stop."""
        for index in range(min(SHOWN, len(self.dataset))):
            image, truth = self.dataset.image(index), self.dataset.labels(index)
            try:
                with stop.at_once():
                    labels = engine.segment(image, fit=self.recipe.fit).labels
            except StopNow:
                return
            yield side_by_side(image, truth, labels, self.dataset.palette)

    def _publish(self, model: Segmenter, progress: Progress) -> None:
        """Write `best.safetensors`, which says where it comes from."""
        config, recipe = model.config, self.dataset.name
        words = {
            "weights": f"trained by segfast {__version__}, recipe {recipe}, iteration {progress.iteration}",
            "miou": f"{progress.best:.6f}",
        }
        model.config = replace(config, provenance={**config.provenance, **words})
        model.save(self.folder / BEST)
        model.config = config
