"""The training loss, without ever holding the full-resolution logits of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from segfast.datasets.base import IGNORE

# Bytes of full-resolution logits that are held at once; log-softmax and gradient take twice as much again.
CHUNK = 1 << 28

Enlarge = Callable[[Tensor, tuple[int, int]], Tensor]


class Terms(NamedTuple):
    """What the loss counts beside plain cross-entropy.

    Attributes:
        weights: of the classes in the cross-entropy, float32 [K].
        dice: factor of the images' Dice losses, a scalar.
    """

    weights: Tensor | None = None
    dice: Tensor | None = None


PLAIN = Terms()


def pixel_loss(logits: Tensor, labels: Tensor, enlarge: Enlarge, terms: Terms = PLAIN) -> Tensor:
    """Sum over the pixels of the cross-entropy of enlarged logits; IGNORE does not count.

    The loss is a scalar, so its gradient is known up to a factor in the forward pass: it is taken there, a few
    images at a time, and only the gradient of the small logits is kept. Twin: `plain_pixel_loss`.

    Args:
        logits: patch-level logits [B, K, h, w].
        labels: uint8 [B, H, W].
        enlarge: such as `Segmenter.enlarge`: logits [b, K, h, w], (H, W) → [b, K, H, W].
        terms: weights of the classes, and the Dice losses that are added.
    """
    return _PixelLoss.apply(logits, labels, enlarge, terms)


def plain_pixel_loss(logits: Tensor, labels: Tensor, enlarge: Enlarge, terms: Terms = PLAIN) -> Tensor:
    """The same by definition: one cross-entropy over the whole batch."""
    full = enlarge(logits.float(), (labels.shape[-2], labels.shape[-1]))  # [B, K, H, W]
    loss = F.cross_entropy(full, labels.long(), weight=terms.weights, ignore_index=IGNORE, reduction="sum")
    return loss if terms.dice is None else loss + terms.dice * dice_loss(full, labels)


def dice_loss(full: Tensor, labels: Tensor) -> Tensor:
    """Sum over the images of 1 − Dice, the mean over the classes in the truth (V-Net's, Milletari et al. 2016, softly).

    Of a class, Dice is 2·Σ p·y / (Σ p + Σ y), p its softmax and y its truth, over the pixels that count. It is taken
    image by image, so that any division of a batch gives the same sum.

    Args:
        full: logits [B, K, H, W].
        labels: uint8 [B, H, W].
    """
    known = labels != IGNORE
    shares = full.softmax(1) * known[:, None]  # [B, K, H, W]
    truth = labels.long().masked_fill(~known, 0)
    right = shares.gather(1, truth[:, None])[:, 0]  # [B, H, W]
    empty = torch.zeros(full.shape[:2], device=full.device, dtype=full.dtype)  # [B, K]
    hits = empty.scatter_add(1, truth.flatten(1), right.flatten(1))
    sizes = empty.scatter_add(1, truth.flatten(1), known.to(full.dtype).flatten(1))
    dice = 2 * hits / (shares.sum((2, 3)) + sizes).clamp(min=1e-6)
    there = sizes > 0
    return (((1 - dice) * there).sum(1) / there.sum(1).clamp(min=1)).sum()


class _PixelLoss(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, enlarge: Enlarge, terms: Terms) -> Tensor:
        B, K = logits.shape[:2]
        step = max(1, CHUNK // (4 * K * labels[0].numel()))
        total = torch.zeros((), device=logits.device)
        gradients: list[Tensor] = []
        for start in range(0, B, step):
            chunk = logits[start : start + step].detach().float().requires_grad_(ctx.needs_input_grad[0])
            with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
                loss = plain_pixel_loss(chunk, labels[start : start + step], enlarge, terms)
                if ctx.needs_input_grad[0]:
                    gradients += torch.autograd.grad(loss, chunk)
            total += loss.detach()
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
            ctx.dtype = logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outer).to(ctx.dtype), None, None, None
