"""The end of the pipeline, patch logits to labels, beside interpolation and argmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.budget import Row, missed, target
from benchmarks.gpu.clock import Clock
from segfast.kernels import merge_windows, upsample_argmax
from segfast.kernels.reference import Windows
from segfast.protocol import SCALES, Protocol, Size

CLASSES = 150
# Pixels that count when labels are compared: peers round scores to the logits' own dtype.
MARGIN = 2e-2


def plan(clock: Clock) -> Iterator[Row]:
    """Every case of upsample_argmax and merge_windows."""
    B, side, photo = (2, 64, (96, 128)) if clock.rehearsal else (16, 512, (1024, 2048))
    coarse, fine = side // 16, side // 8
    for batch, grid, kind in (
        (B, coarse, "smooth"),
        (B, coarse, "noise"),
        (1, coarse, "smooth"),
        (B, fine, "smooth"),
        (B, coarse, "smooth, K first"),
    ):
        about = {"section": "ends", "case": f"upsample_argmax {batch}×{CLASSES}×{grid}² → {side}², {kind}"}
        yield about, partial(_upsampled, clock, batch, grid, side, kind)
    about = {"section": "ends", "case": f"merge_windows {photo[0]}×{photo[1]}, windows of {side}"}
    yield about, partial(_merged, clock, side, photo, (1.0,))
    small = side, side * 4 // 3
    about = {"section": "ends", "case": f"merge_windows {small[0]}×{small[1]}, 12 views"}
    yield about, partial(_merged, clock, side, small, SCALES)


def _upsampled(clock: Clock, B: int, grid: int, side: int, kind: str) -> dict[str, Any]:
    logits = KINDS[kind](clock, B, (grid, grid))

    def theirs(x: Tensor = logits) -> Tensor:
        return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False).argmax(1).to(torch.uint8)

    scores = F.interpolate(logits.float(), size=(side, side), mode="bilinear", align_corners=False)
    row = _compare(clock, lambda: upsample_argmax(logits, (side, side)), theirs, scores)
    del scores
    if not clock.rehearsal and B > 1 and grid == side // 16:
        micros = row["microseconds"]
        row["targets"] = [
            target("times interpolate + argmax", 20, micros["theirs"] / micros["ours"]),
            target("microseconds an image", 15, micros["ours"] / B, at_most=True),
        ]
    return _explained(clock, row, lambda: upsample_argmax(logits, (side, side)))


def _merged(clock: Clock, side: int, size: Size, scales: Sequence[float]) -> dict[str, Any]:
    protocol = Protocol((0.5,) * 3, (0.5,) * 3, (side, side), (side * 2 // 3, side * 2 // 3))
    views = []
    for scale in scales:
        working = protocol.working_size((int(size[0] * scale), int(size[1] * scale)))
        origins, window = protocol.windows(working)
        for mirrored in (False, True)[: 2 if len(scales) > 1 else 1]:
            logits = smooth(clock, len(origins), (side // 16, side // 16))
            views.append(Windows(logits, origins, window, window, working, mirrored))  # type: ignore[arg-type]
    scores = original(views, size, torch.float32)[None]
    row = _compare(
        clock, lambda: merge_windows(views, size)[None], lambda: original(views, size).argmax(0)[None], scores
    )
    return _explained(clock, row, lambda: merge_windows(views, size))


def original(views: Sequence[Windows], size: Size, dtype: torch.dtype | None = None) -> Tensor:
    """Scores [K, H, W] as the original code computes them, with every score of every pixel in memory."""
    total: Any = 0
    for view in views:
        logits: Any = view.logits if dtype is None else view.logits.to(dtype)  # type: ignore[attr-defined]
        sums = logits.new_zeros(logits.shape[1], *view.size)
        count = logits.new_zeros(1, *view.size)
        (h, w) = view.window
        for window, (top, left) in zip(F.interpolate(logits, size=(h, w), mode="bilinear"), view.origins, strict=True):
            sums[:, top : top + h, left : left + w] += window
            count[:, top : top + h, left : left + w] += 1
        merged = F.interpolate((sums / count)[None], size=size, mode="bilinear")[0]
        merged = merged.flip(2) if view.mirrored else merged
        if len(views) == 1:
            return merged
        total = total + merged.softmax(0)
    return total / len(views)


def noise(clock: Clock, B: int, grid: Size) -> Tensor:
    """Logits [B, K, *grid] of which every pixel has another best class; in memory K lies last, as of a decoder."""
    torch.manual_seed(0)
    return _given(torch.randn(B, CLASSES, *grid, device=clock.device), clock)


def smooth(clock: Clock, B: int, grid: Size) -> Tensor:
    """Logits [B, K, *grid] as smooth as a trained model's, a coarse random field upsampled; in memory K lies last."""
    torch.manual_seed(0)
    coarse = 4 * torch.randn(B, CLASSES, 4, 4, device=clock.device)
    return _given(F.interpolate(coarse, size=grid, mode="bilinear", align_corners=False), clock)


def _given(logits: Tensor, clock: Clock) -> Tensor:
    dtype = torch.float32 if clock.rehearsal else torch.float16
    return logits.to(dtype).contiguous(memory_format=torch.channels_last)


KINDS = {"smooth": smooth, "noise": noise, "smooth, K first": lambda *given: smooth(*given).contiguous()}


def _compare(clock: Clock, ours: Callable[[], Any], theirs: Callable[[], Any], scores: Tensor) -> dict[str, Any]:
    """Times and memory of two ways to labels [B, H, W], after ours agree with fp32 scores [B, K, H, W]."""
    best = scores.topk(2, dim=1)
    margin = best.values[:, 0] - best.values[:, 1]
    clear = margin > MARGIN * scores.abs().max()
    wanted = best.indices[:, 0]
    labels = torch.as_tensor(ours(), device=wanted.device)
    wrong = int((labels.to(torch.int64) != wanted)[clear].sum())
    if wrong:
        raise AssertionError(f"{wrong} labels differ where the margin is clear")
    del best, margin
    seconds = clock.seconds({"ours": ours, "theirs": theirs}, graphs=True)
    return {
        "microseconds": {name: round(value * 1e6, 2) for name, value in seconds.items()},
        "ratio": round(seconds["theirs"] / seconds["ours"], 2),
        "peak_bytes": {"ours": clock.peak_bytes(ours), "theirs": clock.peak_bytes(theirs)},
        "compared_pixels": round(clear.float().mean().item(), 4),
        "labels_equal": round((labels.to(torch.int64) == wanted).float().mean().item(), 6),
    }


def _explained(clock: Clock, row: dict[str, Any], ours: Callable[[], Any]) -> dict[str, Any]:
    return row | {"profile": clock.profile(ours)} if missed(row) else row
