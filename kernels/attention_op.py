"""The attention kernels as operators of PyTorch: autograd, torch.compile, torch.export and opcheck know them.

`segfast::attention` takes q, k and v; `segfast::attention_packed` the whole qkv, so that its gradient
is the one packed tensor that the backward writes: autograd would copy three gradients together.
CUDA tensors run the Triton kernels, CPU tensors the formulas below: what the operators compute, in the open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OperatorBase
from torch.autograd.function import FunctionCtx

from . import reference

# The largest head by dtype: tiles of larger ones would not fit the registers.
MAX_HEAD = {torch.float16: 128, torch.bfloat16: 128, torch.float32: 64}


@torch.library.custom_op("segfast::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(q·kᵀ·scale)·v of q, k, v [B, N, heads, d] → ([B, N, heads, d] contiguous, logsumexp fp32 [B, heads, N])."""
    check(q, k, v, scale)
    if q.is_cuda:
        from .attention_cuda import launch_forward

        return launch_forward(q, k, v, scale)
    wide = q.float(), k.float(), v.float()
    out = reference.attention(*wide, scale).to(q.dtype).contiguous()
    return out, _scores(*wide[:2], scale).logsumexp(-1)


@torch.library.custom_op("segfast::attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, scale: float
) -> Tensor:
    """The gradients of q, k and v as one [B, N, 3, heads, d]."""
    check(q, k, v, scale)
    if q.is_cuda:
        from .attention_cuda import launch_backward

        return launch_backward(grad, q, k, v, out, logsumexp, scale)
    Q, K, V, G = (x.float().transpose(1, 2) for x in (q, k, v, grad))  # [B, heads, N, d]
    weights = (_scores(q.float(), k.float(), scale) - logsumexp[..., None]).exp()
    delta = (G * out.float().transpose(1, 2)).sum(-1, keepdim=True)
    scores = weights * (G @ V.mT - delta)
    gradients = scores @ K * scale, scores.mT @ Q * scale, weights.mT @ G
    return torch.stack([x.transpose(1, 2) for x in gradients], 2).to(q.dtype)


@torch.library.custom_op("segfast::attention_packed", mutates_args=())
def attention_packed(qkv: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`segfast::attention` of q, k, v = qkv.unbind(2) for qkv [B, N, 3, heads, d], read in place."""
    q, k, v = unpack(qkv)
    result: tuple[Tensor, Tensor] = torch.ops.segfast.attention(q, k, v, scale)
    return result


def check_alike(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise unless q, k and v are [B, N, heads, d] of one shape (ValueError), device (ValueError) and dtype (TypeError)."""
    if any(x.ndim != 4 for x in (q, k, v)) or q.shape != k.shape or q.shape != v.shape:
        shapes = ", ".join(str(list(x.shape)) for x in (q, k, v))
        raise ValueError(f"attention takes q, k and v of one shape [B, N, heads, d], not {shapes}")
    if q.dtype != k.dtype or q.dtype != v.dtype:
        raise TypeError(f"attention takes q, k and v of one dtype, not {q.dtype}, {k.dtype}, {v.dtype}")
    if q.device != k.device or q.device != v.device:
        raise ValueError(f"attention takes q, k and v on one device, not {q.device}, {k.device}, {v.device}")


def check(q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
    """Raise a ValueError or TypeError for what the kernels do not compute."""
    check_alike(q, k, v)
    if q.dtype not in MAX_HEAD:
        raise TypeError(f"the attention kernels take fp16, bf16 or fp32, not {q.dtype}")
    if q.device.type not in ("cuda", "cpu") or (q.is_cuda and torch.version.cuda is None):
        raise ValueError(f"the attention kernels run on NVIDIA GPUs, not on {q.device.type}")
    if q.shape[3] > MAX_HEAD[q.dtype]:
        raise ValueError(
            f"the attention kernels take heads of at most {MAX_HEAD[q.dtype]} in {q.dtype}, not {q.shape[3]}"
        )
    if not 1e-30 < scale < 1e30:  # of 0, or what fp32 rounds to it, the masked scores would be 0 · -inf = NaN
        raise ValueError(f"the attention kernels take a positive, finite scale, not {scale}")


def unpack(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The views q, k, v [B, N, heads, d] of qkv [B, N, 3, heads, d]."""
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"packed attention takes qkv of shape [B, N, 3, heads, d], not {list(qkv.shape)}")
    q, k, v = qkv.unbind(2)
    return q, k, v


def _scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return q.transpose(1, 2) * scale @ k.permute(0, 2, 3, 1)  # [B, heads, N, N]


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    B, N, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((B, heads, N), dtype=torch.float32)


@attention_packed.register_fake
def _(qkv: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    B, N, _, heads, d = qkv.shape
    return qkv.new_empty((B, N, heads, d)), qkv.new_empty((B, heads, N), dtype=torch.float32)


@attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, scale: float) -> Tensor:
    B, N, heads, d = q.shape
    return q.new_empty((B, N, 3, heads, d))


class _Kept(FunctionCtx):
    """What a forward leaves to its backward."""

    scale: float
    saved_tensors: tuple[Tensor, ...]


def _keep(ctx: _Kept, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: _Kept, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    q, k, v, out, logsumexp = ctx.saved_tensors
    packed = torch.ops.segfast.attention_backward(grad, q, k, v, out, logsumexp, ctx.scale)
    return *packed.unbind(2), None


def _backward_packed(ctx: _Kept, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None]:
    if grad is None:
        return None, None
    qkv, out, logsumexp = ctx.saved_tensors
    return torch.ops.segfast.attention_backward(grad, *qkv.unbind(2), out, logsumexp, ctx.scale), None


attention.register_autograd(_backward, setup_context=_keep)
attention_packed.register_autograd(_backward_packed, setup_context=_keep)


def decompositions() -> dict[OperatorBase, Callable[..., object]]:
    """The plain twin of each operator: `program.run_decompositions(decompositions())` makes an export ONNX understands."""

    def plain(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return reference.attention(q, k, v, scale), _scores(q.float(), k.float(), scale).logsumexp(-1)

    def plain_packed(qkv: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        q, k, v = unpack(qkv)
        return plain(q, k, v, scale)

    return torch.export.default_decompositions() | {
        torch.ops.segfast.attention.default: plain,
        torch.ops.segfast.attention_packed.default: plain_packed,
    }
