"""A run that is under way: its steps, evaluations and saved states, up to its end or a request to stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segfast.errors import TrainingFailed
from segfast.train import state
from segfast.train.data import Batch
from segfast.train.fields import Recipe
from segfast.train.record import Recorder
from segfast.train.running import StopRequest
from segfast.train.state import Progress
from segfast.train.step import Stepper
from segfast.train.validation import BEST, Validation
from segfast.train.workers import WorkersFailed
from segfast.train.world import World

# After so many losses in a row that are no numbers, more will follow.
PATIENCE = 5


@dataclass
class Run:
    """What a run is doing, and how far it came.

    Attributes:
        progress: changes with every step.
        bad: losses in a row that were no numbers; a state behind them is not saved.
    """

    recipe: Recipe
    folder: Path
    stepper: Stepper
    progress: Progress
    record: Recorder
    validation: Validation
    stop: StopRequest
    bad: int = 0

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
