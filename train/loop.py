"""A training run from its first step, or from where it stopped, to its last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from segfast.datasets import Dataset, open_dataset
from segfast.datasets.content import tell
from segfast.dependencies.imports import need
from segfast.errors import BadOption, TrainingFailed
from segfast.machine.devices import check_device
from segfast.model import Segmenter
from segfast.train import state
from segfast.train.build import build_model, save_activations, set_attention
from segfast.train.data import Batch
from segfast.train.fields import Recipe
from segfast.train.frequency import class_weights
from segfast.train.length import length, settled
from segfast.train.owner import owned
from segfast.train.precision import resolve
from segfast.train.record import Recorder
from segfast.train.resume import agree, check_folder, find, restore, settings_of, write_settings
from segfast.train.running import Running, StopRequest, stop_request
from segfast.train.state import Progress
from segfast.train.step import Stepper
from segfast.train.troubles import told
from segfast.train.validation import BEST, Validation
from segfast.train.workers import WorkersFailed, batches, queue
from segfast.train.world import World, join

# After so many losses in a row that are no numbers, more will follow.
PATIENCE = 5

Source = str | os.PathLike[str] | None
Sets = Callable[[], tuple[Dataset, Dataset]]


def train(recipe: Recipe, data: Source, out: str | os.PathLike[str], running: Running) -> Progress:
    """Train, or go on with the run in `out`; returns how far it came.

    `out` will hold `best.safetensors` (the best mIoU so far), `last.safetensors` (to go on from), the one before it,
    `settings.json`, `log.jsonl` and TensorBoard's event files.

    Args:
        data: the dataset's folder; None for shapes.

    Raises:
        BadOption: settings are impossible, contradict each other, or are not those of the run in `out`; or another
            process trains into it.
        BadData: the dataset cannot be used; the files at fault are listed.
        BadImage: a picture was damaged since it was checked.
        BadModel, UnknownModel, DownloadFailed: the weights to start from cannot be had.
        MissingRuntime: a library, compiler or device is not there, or other processes of the run do not come.
        TrainingFailed: the loss stopped being a number, memory ran out, or a process that helps has gone.
        CannotWrite: `out` is full, read-only or missing.
    """
    return train_on(lambda: _datasets(recipe, data), recipe, out, running)


def train_on(sets: Sets, recipe: Recipe, out: str | os.PathLike[str], running: Running) -> Progress:
    """`train` on what `sets` opens: the training set and the validation set."""
    need("train", "torch", "timm", "safetensors", "filelock", *(["tensorboard"] if running.tensorboard else []))
    recipe.check()
    world = join(check_device(running.device))
    with world.together(), told():
        running.check(recipe, world.size)
        if running.threads is not None:
            torch.set_num_threads(running.threads)
        train_set, val_set = sets()
        with owned(Path(out)) if world.first else nullcontext():
            return run(recipe, (train_set, val_set), Path(out), running, world)


def run(recipe: Recipe, sets: tuple[Dataset, Dataset], folder: Path, running: Running, world: World) -> Progress:
    """See `train`: one process's part of it."""
    train_set, val_set = sets
    if world.first:
        check_folder(folder)
    found = find(folder, world)
    recipe = settled(recipe, len(train_set), found.progress if found else None)
    # The first process alone looks: others may be so late that they would see what it has written since.
    settings = settings_of(recipe, train_set, val_set) if world.first else {}
    resuming = world.share(agree(folder, settings) if world.first else None)
    model, notes = _model(recipe, train_set, running, world)
    if not resuming:
        check_data(sets, world)
    weights = class_weights(recipe, train_set, world)
    stepper = Stepper(
        model, recipe, world, accumulate=running.accumulate, compile=running.compile, class_weights=weights
    )
    progress, notes = restore(found, folder, stepper, [*notes, length(recipe, len(train_set))])
    if world.first:
        write_settings(folder, settings)
    record = Recorder(folder, world, recipe, running, first=progress.iteration)
    prefetch = queue(recipe, world, running.workers)
    for note in (*notes, *prefetch.notes):
        record.say(note)
    prepared = batches(train_set, recipe, world, progress=progress, prefetch=prefetch)
    # Until here Ctrl-C ends the run at once: there was nothing to save yet.
    with stop_request() as stop, closing(record):
        validation = Validation(val_set, recipe, folder, world, record)
        this = _Run(recipe, folder, stepper, progress, record, validation, stop)
        if not this.is_over() or not this.is_evaluated():
            with prepared as stream:
                this.go(stream)
        else:
            record.say(
                f"{folder} is finished, at iteration {progress.iteration}; more --iterations go on with it, "
                "another --out begins anew"
            )
        progress.finished = this.is_over() and this.is_evaluated()
    return progress


@dataclass
class _Run:
    recipe: Recipe
    folder: Path
    stepper: Stepper
    progress: Progress
    record: Recorder
    validation: Validation
    stop: StopRequest
    bad: int = 0  # losses in a row that were no numbers; a state behind them is not saved

    def go(self, stream: Iterator[tuple[Batch, float]]) -> None:
        """Every step that is left; the evaluation first that was interrupted."""
        try:
            if not self.is_evaluated() and not self.evaluate():
                return
            while not self.is_over():
                batch, waited = next(stream)
                if not self.step(batch, waited):
                    return
        except WorkersFailed:
            if self.stepper.world.size == 1 and not self.bad:
                self.save()
            raise

    def step(self, batch: Batch, waited: float) -> bool:
        """One step, and what is due behind it; False where the run was asked to stop."""
        progress, recipe = self.progress, self.recipe
        outcome = self.stepper.step(batch, progress.iteration, self.stop.wanted)
        progress.iteration += 1
        progress.seen = (progress.seen or 0) + recipe.batch
        self.bad = 0 if outcome.taken else self.bad + 1
        if self.bad == PATIENCE:
            raise TrainingFailed(_failure(self.folder, recipe, progress, self.stepper.world))
        self.record.step(progress.iteration, outcome, waited)
        if outcome.stop and not self.is_over():
            self.halt()
            return False
        evaluating = not self.is_evaluated()
        if not self.bad and (evaluating or _due(progress, recipe.save_every)):
            self.save()
        return self.evaluate() if evaluating else True

    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.progress.iteration >= self.recipe.iterations or self.progress.is_stale(self.recipe.patience)

    def is_evaluated(self) -> bool:
        """Whether no evaluation is due at this iteration, or it was made."""
        progress = self.progress
        due = progress.iteration == self.recipe.iterations or _due(progress, self.recipe.evaluate_every or 0)
        return not due or progress.iteration <= progress.evaluated

    def evaluate(self) -> bool:
        """Evaluate, and save what is known now; False where the run was asked to stop meanwhile."""
        progress = self.progress
        if not self.validation.run(self.stepper, progress, self.stop):
            self.record.say(
                f"stopped within the evaluation, saved after iteration {progress.iteration}; the same command goes on"
                if not self.bad
                else "stopped within the evaluation; the same command goes on"
            )
            return False
        progress.evaluated = progress.iteration
        if progress.is_stale(self.recipe.patience) and progress.iteration < self.recipe.iterations:
            self.record.say(f"no better mIoU in {progress.stale} evaluations (--patience): finished early")
        if not self.bad:
            self.save()
        return True

    def save(self) -> None:
        """Write the state."""
        progress, world = self.progress, self.stepper.world
        progress.scale, progress.world = self.stepper.scaler.state_dict(), world.size
        randoms = world.gather(state.random_states(world.device))
        if world.first:
            state.save(self.folder, progress, self.stepper.model, self.stepper.optimizer, randoms)

    def halt(self) -> None:
        """Save, as a signal asked."""
        if not self.bad:
            self.save()
        saved = "left the last good state as it was" if self.bad else f"saved after iteration {self.progress.iteration}"
        self.record.say(f"stopped and {saved}; the same command goes on")


def _datasets(recipe: Recipe, data: Source) -> tuple[Dataset, Dataset]:
    """Train and val."""
    train_set = open_dataset(recipe.dataset, data, "train", fraction=recipe.fraction, reading=recipe.reading)
    val_set = open_dataset(recipe.dataset, data, "val", reading=recipe.reading)
    if train_set.classes != val_set.classes:
        raise BadOption("the classes of train and val differ; use one list for both")
    return train_set, val_set


def _model(recipe: Recipe, dataset: Dataset, running: Running, world: World) -> tuple[Segmenter, list[str]]:
    model, notes = build_model(recipe, dataset)
    set_attention(model, running.attention, world.device)
    if running.save_activations:
        save_activations(model)
    if recipe.precision == "auto":
        notes.append(f"precision: {resolve(recipe.precision, world.device)} on this machine")
    return model, notes


def check_data(datasets: Iterable[Dataset], world: World) -> None:
    """Read every sample once, on the first process, before the first step, and tell what they hold."""
    if world.first:
        tell(dataset.check(progress=True) for dataset in datasets)
    world.share(None)


def _due(progress: Progress, every: int) -> bool:
    return every > 0 and progress.iteration % every == 0


def _failure(folder: Path, recipe: Recipe, progress: Progress, world: World) -> str:
    saved = state.load(folder) if world.first else None
    kept = f"the state of iteration {saved[0].iteration} is kept in {folder}" if saved else "nothing was saved yet"
    remedy = "train with a lower --lr" + (", or --precision bf16 or fp32," if recipe.precision == "fp16" else "")
    remedy += " and another --out"
    if (folder / BEST).exists():
        remedy += f", from the start or from --checkpoint {folder / BEST}"
    return f"the loss was no number {PATIENCE} times in a row, up to iteration {progress.iteration}; {kept}: {remedy}"
