"""A training run from its first step, or from where it stopped, to its last."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segfast import __version__, files
from segfast.datasets import Dataset, open_dataset
from segfast.dependencies.imports import need
from segfast.engine import Engine
from segfast.errors import BadOption, SegfastError, TrainingFailed
from segfast.evaluate import evaluate
from segfast.evaluation.metrics import scores
from segfast.machine.devices import check_device
from segfast.model import Segmenter
from segfast.train import state
from segfast.train.build import build_model, save_activations, set_attention
from segfast.train.data import Batch, iterating, loader
from segfast.train.recipes import Recipe
from segfast.train.record import Recorder, side_by_side
from segfast.train.running import Running, StopRequest, stop_request
from segfast.train.schedule import learning_rate
from segfast.train.state import Progress
from segfast.train.step import Stepper
from segfast.train.world import World, join

SETTINGS, BEST = "settings.json", "best.safetensors"
# After so many losses in a row that are no numbers, more will follow.
PATIENCE = 5
# How many predictions TensorBoard shows.
SHOWN = 4
# Fields of a Recipe that may differ between a run and its continuation.
_FREE = ("source", "evaluate_every", "save_every")


def train(
    recipe: Recipe, data: str | os.PathLike[str] | None, out: str | os.PathLike[str], running: Running
) -> Progress:
    """Train, or go on with the run in `out`; returns how far it came.

    `out` will hold `best.safetensors` (the best mIoU so far), `last.safetensors` (to go on from), the one before it,
    `settings.json`, `log.jsonl` and TensorBoard's event files.

    Args:
        data: the dataset's folder; None for shapes.

    Raises:
        BadOption: settings are impossible, contradict each other, or are not those of the run in `out`.
        BadData: the dataset cannot be used; the files at fault are listed.
        BadImage: a picture was damaged since it was checked.
        BadModel, UnknownModel, DownloadFailed: the weights to start from cannot be had.
        MissingRuntime: a library or device is not there.
        TrainingFailed: the loss stopped being a number.
        CannotWrite: `out` is full, read-only or missing.
    """
    need("train", "torch", "timm", "safetensors", *(["tensorboard"] if running.tensorboard else []))
    recipe.check()
    world = join(check_device(running.device))
    try:
        running.check(recipe, world.size)
        if running.threads is not None:
            torch.set_num_threads(running.threads)
        run = _Run(recipe, data, Path(out), running, world)  # Ctrl-C ends it: there is nothing to save yet
        with stop_request() as stop:
            return run.go(stop)
    finally:
        world.close()


class _Run:
    def __init__(self, recipe: Recipe, data: Any, folder: Path, running: Running, world: World):
        self.recipe, self.running, self.world, self.folder = recipe, running, world, folder
        self.train = open_dataset(recipe.dataset, data, "train", fraction=recipe.fraction)
        self.val = open_dataset(recipe.dataset, data, "val")
        if self.train.classes != self.val.classes:
            raise BadOption("the classes of train and val differ; use one list for both")
        settings = _settings(recipe, self.train, self.val)
        # The first process alone looks: others may be so late that they would see what it has written since.
        found = world.share(_agree(folder, settings) if world.first else None)
        model, notes = build_model(recipe, self.train)
        set_attention(model, running.attention, world.device)
        if running.save_activations:
            save_activations(model)
        if not found:
            self._check_data()
        files.make_folder(folder)
        if world.first and not found:
            files.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", folder / SETTINGS)
        self.stepper = Stepper(model, recipe, world, accumulate=running.accumulate, compile=running.compile)
        self.progress, notes = self._resume(notes)
        self.record = Recorder(
            folder,
            world,
            first=self.progress.iteration,
            total=recipe.iterations,
            batch=recipe.batch,
            tensorboard=running.tensorboard,
            every=running.log_every,
        )
        for note in notes:
            self.record.say(note)

    @property
    def model(self) -> Segmenter:
        return self.stepper.model

    def go(self, stop: StopRequest) -> Progress:
        """Train to the last iteration, or until asked to stop."""
        try:
            self._steps(stop)
        finally:
            self.record.close()
        return self.progress

    def _steps(self, stop: StopRequest) -> None:
        pin, first = self.world.device.type == "cuda", self.progress.iteration
        with iterating(
            loader(self.train, self.recipe, self.world, first=first, workers=self.running.workers, pin=pin)
        ) as batches:
            self._on(batches, stop)

    def _on(self, batches: Iterator[Batch | SegfastError], stop: StopRequest) -> None:
        recipe, progress, bad = self.recipe, self.progress, 0
        while progress.iteration < recipe.iterations:
            start = time.perf_counter()
            batch = next(batches)
            if isinstance(batch, SegfastError):
                raise batch
            waited = time.perf_counter() - start
            rate = learning_rate(recipe, progress.iteration)
            outcome = self.stepper.step(batch, progress.iteration, stop.wanted)
            progress.iteration += 1
            bad = 0 if outcome.taken else bad + 1
            if bad == PATIENCE:
                raise TrainingFailed(self._failure())
            self.record.step(progress.iteration, outcome.loss, outcome.norm, rate, waited)
            if outcome.stop and progress.iteration < recipe.iterations:
                self._leave(bad)
                return
            self._report(bad)

    def _leave(self, bad: int) -> None:
        """Save, unless behind a bad step."""
        if not bad:
            self._save()
        saved = f"saved after iteration {self.progress.iteration}" if not bad else "left the last good state as it was"
        self.record.say(f"stopped and {saved}; the same command goes on")

    def _report(self, bad: int) -> None:
        """Evaluate and save where the recipe says so; a state behind a bad step is not saved."""
        recipe, iteration = self.recipe, self.progress.iteration
        last = iteration == recipe.iterations
        evaluating = last or (recipe.evaluate_every and iteration % recipe.evaluate_every == 0)
        if evaluating:
            self._evaluate()
        if not bad and (evaluating or iteration % recipe.save_every == 0):
            self._save()

    def _evaluate(self) -> None:
        """mIoU of the validation set, its pictures shared among the processes; the best weights are kept."""
        start, world, progress = time.perf_counter(), self.world, self.progress
        engine = Engine(self.model, device=str(world.device))
        mine = self.val.take(range(world.rank, len(self.val), world.size))
        K = len(self.val.classes)
        matrix = torch.zeros(K, K, dtype=torch.int64)
        if len(mine):
            matrix += torch.from_numpy(evaluate(engine, mine, fit=self.recipe.fit).confusion)
        found = scores(world.sum(matrix.to(world.device)).cpu().numpy())
        self._show(engine)
        self.model.train()
        miou = found.miou or 0.0
        values = {
            "miou": miou,
            "pixel_accuracy": found.pixel_accuracy,
            "seconds": round(time.perf_counter() - start, 3),
            "per_class": dict(zip(self.val.classes, found.per_class, strict=True)),
        }
        self.record.evaluation(progress.iteration, values)
        better = miou > progress.best
        self.record.say(f"iteration {progress.iteration}: mIoU {100 * miou:.2f}{' (best)' if better else ''}")
        if better:
            progress.best, progress.best_iteration = miou, progress.iteration
            if world.first:
                self._publish()

    def _publish(self) -> None:
        """Write `best.safetensors`, which says where it comes from."""
        progress, config = self.progress, self.model.config
        words = {
            "weights": f"trained by segfast {__version__}, recipe {self.recipe.dataset}, iteration {progress.iteration}"
        }
        words["miou"] = f"{progress.best:.6f}"
        self.model.config = replace(config, provenance={**config.provenance, **words})
        self.model.save(self.folder / BEST)
        self.model.config = config

    def _show(self, engine: Engine) -> None:
        if not (self.running.tensorboard and self.world.first):
            return
        rows = []
        for index in range(min(SHOWN, len(self.val))):
            image, truth = self.val.image(index), self.val.labels(index)
            labels = np.asarray(engine.segment(image, fit=self.recipe.fit))
            rows.append(side_by_side(image, truth, labels, self.val.palette))
        self.record.pictures(self.progress.iteration, "prediction", rows)

    def _save(self) -> None:
        self.progress.scale = self.stepper.scaler.state_dict()
        self.progress.world = self.world.size
        randoms = self.world.gather(state.random_states(self.world.device))
        if self.world.first:
            state.save(self.folder, self.progress, self.model, self.stepper.optimizer, randoms)

    def _resume(self, notes: list[str]) -> tuple[Progress, list[str]]:
        """Where the run stopped, or its beginning."""
        world = self.world
        torch.manual_seed(self.recipe.seed + world.rank)
        found = state.load(self.folder)
        if world.share(found and found[0].iteration) != (found and found[0].iteration):
            raise BadOption(
                f"the processes find different states in {self.folder}; --out must be a folder that all share"
            )
        if found is None:
            return Progress(), notes
        progress, tensors, trouble = found
        state.restore(tensors, self.model, self.stepper.optimizer)
        if progress.scale:
            self.stepper.scaler.load_state_dict(progress.scale)
        notes = [*trouble, f"going on from iteration {progress.iteration} of {self.recipe.iterations} in {self.folder}"]
        if progress.world == world.size:
            state.restore_random(tensors, world.rank, world.device)
        else:
            torch.manual_seed(self.recipe.seed + world.rank + world.size * progress.iteration)
            notes.append(f"it ran on {progress.world} processes, now on {world.size}: dropout draws anew")
        return progress, notes

    def _check_data(self) -> None:
        """Read every sample once, on the first process, before the first step."""
        if self.world.first:
            for dataset in (self.train, self.val):
                dataset.check(progress=True)
        self.world.share(None)

    def _failure(self) -> str:
        saved = state.load(self.folder) if self.world.first else None
        kept = (
            f"the state of iteration {saved[0].iteration} is kept in {self.folder}"
            if saved
            else "nothing was saved yet"
        )
        remedy = "train with a lower --lr" + (
            ", or --precision bf16 or fp32," if self.recipe.precision == "fp16" else ""
        )
        remedy += " and another --out"
        if (self.folder / BEST).exists():
            remedy += f", from the start or from --checkpoint {self.folder / BEST}"
        return f"the loss was no number {PATIENCE} times in a row, up to iteration {self.progress.iteration}; {kept}: {remedy}"


def _settings(recipe: Recipe, train: Dataset, val: Dataset) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    data = {"classes": list(train.classes), "train": len(train), "val": len(val)}
    return {"segfast": __version__, "recipe": dataclasses.asdict(recipe), "data": data}


def _agree(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a run is in the folder already.

    Raises:
        BadOption: there is one with other settings; they are named.
    """
    path = folder / SETTINGS
    if not path.exists():
        for name, what in ((state.LAST, "a state"), (BEST, f"a {BEST}")):
            if (folder / name).exists():
                raise BadOption(
                    f"{folder} holds {what} without its {SETTINGS}, which a run would replace; choose another --out"
                )
        return False
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(part, dict(theirs[part]), settings[part]) for part in ("recipe", "data")]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadOption(f"{path} is damaged; choose another --out") from None
    ours = json.loads(json.dumps(settings))
    differences = [
        f"{name} is {ours[part].get(name)!r}, there {old.get(name)!r}"
        for part, old, new in pairs
        for name in sorted({*old, *new} - set(_FREE))
        if old.get(name) != ours[part].get(name)
    ]
    if differences:
        raise BadOption(f"{folder} holds a run with other settings: {'; '.join(differences)}; choose another --out")
    return True
