"""Multi-head attention of packed tokens: the one call every block of the model makes, and what may compute it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import attention_op, attention_table, rotary

AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
PINNED = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
# What PyTorch may choose by itself.
NAMES = {
    SDPBackend.CUDNN_ATTENTION: "cudnn",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "efficient",
    SDPBackend.MATH: "math",
}
# cuDNN up to 9.15.0 gives wrong answers for lengths that 128 does not divide.
WRONG_CUDNN, WHOLE = 91500, 128


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q·kᵀ·scale)·v for q, k, v [B, N, heads, d], views of one packed qkv tensor included.

    On a GPU in half precision it runs what `attention_table` measured as the fastest there, with its
    gradient where one is wanted; fp32, a CPU, and whatever the table has no row for run PyTorch's
    scaled_dot_product_attention. Twin: `reference.attention`.

    Args:
        scale: d^-0.5 by default (paper, equation 3).

    Returns:
        [B, N, heads, d]; `flatten(2)` of it is what the next Linear reads.

    Raises:
        ValueError: q, k, v are not of one shape [B, N, heads, d] on one device.
        TypeError: they differ in dtype.
    """
    return BACKENDS[choose(q)](q, k, v, scale)


def attention_backend(name: str) -> Callable[..., Tensor]:
    """The attention of one name, for `Segmenter.set_attention`: it is run whatever the table says.

    Args:
        name: "auto" (the table), "triton" (our kernels; the operator's plain formulas for CPU tensors),
            "cudnn" or "flash" (PyTorch's, pinned), "sdpa" (PyTorch's own choice).

    Raises:
        ValueError: there is no such attention, or Triton is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"no attention is called {name!r}: there are {', '.join(BACKENDS)}")
    if name == "triton" and find_spec("triton") is None:
        raise ValueError("attention 'triton' needs Triton, which comes with PyTorch for CUDA on Linux: choose 'sdpa'")
    return BACKENDS[name]


def attend_packed(attend: AttentionFunction, qkv: Tensor, rotation: rotary.Rotation | None = None) -> Tensor:
    """`attend` of q, k, v = qkv.unbind(2), for qkv [B, N, 3, heads, d] → [B, N, heads, d].

    Where our kernels run, the gradient of qkv is the packed tensor that they write; of any other
    attention, and of rotated tokens, autograd copies three gradients together.

    Args:
        rotation: cosines and sines [N, 1, d] or [B, N, 1, d] by which q and k are rotated first (`rotary.rotate`).
    """
    if rotation is not None:
        q, k, v = attention_op.unpack(qkv)
        return attend(rotary.rotate(q, rotation), rotary.rotate(k, rotation), v)
    ours = attend is triton_attention or (attend is attention and choose(qkv) == "triton")
    if not ours:
        return attend(*attention_op.unpack(qkv))
    return torch.ops.segfast.attention_packed(qkv, qkv.shape[-1] ** -0.5)[0]


def choose(x: Tensor) -> str:
    """The backend that the table has for tensors like x [B, N, …, heads, d], in half precision on a GPU; else "sdpa".

    One whose gradient is wanted takes the fastest forward and backward together, if both were measured.
    """
    if not x.is_cuda or not attention_table.ROWS or x.element_size() != 2 or torch.version.cuda is None:
        return "sdpa"
    major, minor = torch.cuda.get_device_capability(x.device)
    name = attention_table.fastest(10 * major + minor, x.shape[-1], x.shape[1], attention_table.ROWS, wants_gradient(x))
    allowed = name != "cudnn" or (cudnn_is_right(x.shape[1]) and torch.backends.cuda.cudnn_sdp_enabled())
    return name if allowed else "sdpa"


def wants_gradient(x: Tensor) -> bool:
    """Whether autograd records what is computed of x."""
    return torch.is_grad_enabled() and x.requires_grad


def cudnn_is_right(N: int) -> bool:
    """Whether the cuDNN that is here computes the attention of N tokens rightly."""
    version = torch.backends.cudnn.version()
    return N % WHOLE == 0 or version is None or version > WRONG_CUDNN


def sdpa_choice(q: Tensor) -> str:
    """What PyTorch runs by its own choice for q, k and v like q [B, N, heads, d]; "sdpa" where it does not tell."""
    q = q.transpose(1, 2)  # [B, heads, N, d]
    try:
        return NAMES[SDPBackend(torch._fused_sdp_choice(q, q, q))]
    except (AttributeError, KeyError, RuntimeError, ValueError):  # it is private
        return "sdpa"


def triton_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """`attention` in our kernels."""
    attention_op.check_alike(q, k, v)
    return torch.ops.segfast.attention(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)[0]


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """`attention` in PyTorch, which chooses the backend."""
    attention_op.check_alike(q, k, v)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [B, heads, N, d]
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def cudnn_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """`attention` in cuDNN through PyTorch.

    Raises:
        ValueError: this cuDNN gives wrong answers for so many tokens.
    """
    if not cudnn_is_right(q.shape[1]):
        version = torch.backends.cudnn.version()
        raise ValueError(
            f"cuDNN {version} gives wrong answers for {q.shape[1]} tokens, which {WHOLE} does not divide: "
            "choose 'flash' or 'sdpa', or install a cuDNN after 9.15.0"
        )
    with sdpa_kernel(PINNED["cudnn"]):
        return sdpa_attention(q, k, v, scale)


def flash_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """`attention` in PyTorch's FlashAttention."""
    with sdpa_kernel(PINNED["flash"]):
        return sdpa_attention(q, k, v, scale)


BACKENDS: dict[str, Callable[..., Tensor]] = {
    "auto": attention,
    "triton": triton_attention,
    "cudnn": cudnn_attention,
    "flash": flash_attention,
    "sdpa": sdpa_attention,
}
