"""The precision of a run's arithmetic: fp32, or autocast to half of it; `auto` is bf16 where the machine has it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from segfast.machine.cpu import instructions

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(precision: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; of `auto` bf16 where the device's own instructions compute in it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A block that computes in a resolved precision."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, _DTYPES[precision])


def _cpu_has_bf16() -> bool:
    found = instructions() or {}
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
