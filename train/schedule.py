"""Learning rate by iteration, and the optimizers (paper, section 4.2 and Appendix A)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from segfast.train.fields import Recipe
from segfast.train.layers import Group


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """The rate of a step: a linear rise over the warm-up, then poly or cosine from `lr` to `min_lr`.

    Original code: (lr − min_lr) · (1 − it/T)^0.9 + min_lr, set anew for every iteration.
    """
    first, last = recipe.warmup_iterations, recipe.iterations
    if iteration < first:
        return recipe.lr * (iteration + 1) / first
    # Poly falls over the whole run even behind a warm-up, as in MMSegmentation; cosine behind the warm-up.
    if recipe.schedule == "poly":
        share = (1 - iteration / last) ** recipe.power
    else:
        share = (1 + math.cos(math.pi * (iteration - first) / (last - first))) / 2
    return (recipe.lr - recipe.min_lr) * share + recipe.min_lr


def make_optimizer(recipe: Recipe, groups: Iterable[Group]) -> torch.optim.Optimizer:
    """SGD or AdamW over groups of parameters, whose rates the step sets."""
    rows: list[dict[str, Any]] = [{**group} for group in groups]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            rows,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    betas = (recipe.beta1, recipe.beta2)
    return torch.optim.AdamW(rows, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=True)
