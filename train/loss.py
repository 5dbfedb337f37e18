"""The training loss, without ever holding the full-resolution logits of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from segfast.datasets.base import IGNORE

# Bytes of full-resolution logits that are held at once; log-softmax and gradient take twice as much again.
CHUNK = 1 << 28

Enlarge = Callable[[Tensor, tuple[int, int]], Tensor]


def pixel_loss(logits: Tensor, labels: Tensor, enlarge: Enlarge) -> Tensor:
    """Sum over the pixels of the cross-entropy of enlarged logits; IGNORE does not count.

    The loss is a scalar, so its gradient is known up to a factor in the forward pass: it is taken there, a few
    images at a time, and only the gradient of the small logits is kept. Twin: `plain_pixel_loss`.

    Args:
        logits: patch-level logits [B, K, h, w].
        labels: uint8 [B, H, W].
        enlarge: such as `Segmenter.enlarge`: logits [b, K, h, w], (H, W) → [b, K, H, W].
    """
    return _PixelLoss.apply(logits, labels, enlarge)


def plain_pixel_loss(logits: Tensor, labels: Tensor, enlarge: Enlarge) -> Tensor:
    """The same by definition: one cross-entropy over the whole batch."""
    full = enlarge(logits.float(), (labels.shape[-2], labels.shape[-1]))  # [B, K, H, W]
    return F.cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction="sum")


class _PixelLoss(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, enlarge: Enlarge) -> Tensor:
        B, K = logits.shape[:2]
        step = max(1, CHUNK // (4 * K * labels[0].numel()))
        total = torch.zeros((), device=logits.device)
        gradients: list[Tensor] = []
        for start in range(0, B, step):
            chunk = logits[start : start + step].detach().float().requires_grad_(ctx.needs_input_grad[0])
            with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
                loss = plain_pixel_loss(chunk, labels[start : start + step], enlarge)
                if ctx.needs_input_grad[0]:
                    gradients += torch.autograd.grad(loss, chunk)
            total += loss.detach()
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
            ctx.dtype = logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outer).to(ctx.dtype), None, None
