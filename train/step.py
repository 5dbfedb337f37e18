"""One step of the optimizer: micro-batches, autocast, the mean over every valid pixel of the world, and its gradient."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segfast.datasets.base import IGNORE
from segfast.inference.normalisation import channels
from segfast.model import Segmenter
from segfast.train.data import Batch, normalise
from segfast.train.fields import Recipe
from segfast.train.layers import groups
from segfast.train.loss import Terms, pixel_loss
from segfast.train.precision import autocast, resolve
from segfast.train.schedule import learning_rate, make_optimizer
from segfast.train.world import World


class Outcome(NamedTuple):
    """A step's numbers, the same on every process.

    Attributes:
        loss: mean over the valid pixels of all images.
        norm: of the gradient, before clipping.
        rate: the learning rate, the decoder's where the encoder has its own.
        taken: False for a step that was left out, as its loss is no number (fp16's scaling may leave out others).
        stop: whether a process was asked to stop.
    """

    loss: float
    norm: float
    rate: float
    taken: bool
    stop: bool


class PatchLogits(nn.Module):
    """The part of a Segmenter that is compiled and distributed: all but the enlarging of its logits."""

    def __init__(self, model: Segmenter):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Patch-level logits [B, K, h, w] of normalised images [B, 3, H, W]."""
        return self.model.patch_logits(images)


class Stepper:
    """A model on its device, its optimizer, and how a batch changes them."""

    def __init__(
        self,
        model: Segmenter,
        recipe: Recipe,
        world: World,
        *,
        accumulate: int = 1,
        compile: bool = False,
        class_weights: Tensor | None = None,
    ):
        self.recipe, self.world, self.accumulate = recipe, world, accumulate
        self.model = model.to(world.device).train()
        self.precision = resolve(recipe.precision, world.device)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(recipe, groups(self.model, recipe))
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.precision == "fp16")
        network: Any = PatchLogits(self.model)
        network = torch.compile(network) if compile else network
        if world.size > 1:
            places = [world.device] if world.device.type == "cuda" else None
            network = DistributedDataParallel(network, device_ids=places, gradient_as_bucket_view=True)
        self.network = network
        self.class_weights = None if class_weights is None else class_weights.to(world.device)
        self._mean, self._std = channels(model.config.protocol, world.device)

    def step(self, batch: Batch, iteration: int, stop: bool = False) -> Outcome:
        """Train on this process's share of a batch.

        The sum of the loss is divided by the count of valid pixels of all processes and micro-batches, so that any
        division of the same images gives the same step, up to rounding.
        """
        world, rate = self.world, learning_rate(self.recipe, iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        batch = Batch(*(part.to(world.device, non_blocking=True) for part in batch))
        count = world.sum(self._count(batch.labels)).clamp(min=1 if self.class_weights is None else 1e-9)
        terms = Terms(self.class_weights, self._dice_factor(count, self.recipe.batch))
        total = torch.zeros((), device=world.device, dtype=torch.float64)
        parts = [Batch(*part) for part in zip(*(tensor.chunk(self.accumulate) for tensor in batch), strict=True)]
        for number, part in enumerate(parts):
            with self._sync(number == len(parts) - 1):
                loss = self._loss(part, terms)
                # Averaging over processes is DistributedDataParallel's: undone by the factor.
                self.scaler.scale(loss * (world.size / count).float()).backward()
            total += loss.detach()
        norm = self._clip()
        facts = world.sum(torch.stack([total / count, torch.tensor(float(stop), device=world.device).double()]))
        mean, stops, size = *facts.tolist(), norm.item()  # the one wait for the device
        taken = math.isfinite(mean) and (math.isfinite(size) or self.scaler.is_enabled())
        if taken or self.scaler.is_enabled():  # the scaler leaves bad steps out by itself
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        return Outcome(mean, size, rate, taken, stops > 0)

    @torch.no_grad()
    def measure(self, batch: Batch) -> Tensor:
        """What the loss of a batch is made of, without training: float64 [2], sum and count.

        The batch's mean loss is their quotient, and that of several batches the quotient of their sums. With Dice it is
        that of each batch, weighted by its count.
        """
        batch = Batch(*(part.to(self.world.device) for part in batch))
        count = self._count(batch.labels)
        with autocast(self.precision, self.world.device):
            logits = self.model.patch_logits(normalise(batch, self._mean, self._std))
        terms = Terms(self.class_weights, self._dice_factor(count, len(batch.labels)))
        return torch.stack([pixel_loss(logits, batch.labels, self.model.enlarge, terms).double(), count])

    def _count(self, labels: Tensor) -> Tensor:
        """How many pixels count, or the sum of their weights; float64."""
        known = labels != IGNORE
        if self.class_weights is None:
            return known.sum().double()
        return (self.class_weights.double()[labels.long().masked_fill(~known, 0)] * known).sum()

    def _dice_factor(self, count: Tensor, images: int) -> Tensor | None:
        """What makes the mean of the images' Dice losses of their sum, once the loss is divided by `count`."""
        return (self.recipe.dice * count / images).float() if self.recipe.dice else None

    def _loss(self, part: Batch, terms: Terms) -> Tensor:
        images = normalise(part, self._mean, self._std)
        with autocast(self.precision, self.world.device):
            logits = self.network(images)  # [B, K, h, w]
        return pixel_loss(logits, part.labels, self.model.enlarge, terms)

    def _clip(self) -> Tensor:
        """The norm of the gradient, which is at most the recipe's `clip` afterwards."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.recipe.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.clip, norm)
        return norm

    def _sync(self, last: bool) -> AbstractContextManager[object]:
        """Gradients travel once a step, with the last micro-batch."""
        return nullcontext() if last or self.world.size == 1 else self.network.no_sync()
