"""One launch of one kernel, compared with its twin: what a memory checker is to watch.

python -m benchmarks.gpu.once labels-300
python -m benchmarks.gpu.once split-1025 --device cpu      in Triton's interpreter, tiny
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

# Relative error of attention in half precision against fp32, as a ratio of norms.
TOLERANCE = 5e-3
HEADS, HEAD = 2, 64
TINY = {1025: 33, 257: 17}


def forward(device: str, N: int, splits: int = 1) -> None:
    """Attention, its keys shared by so many programs."""
    q, k, v, _ = _inputs(device, N)
    _check(_launch(q, k, v, splits)[0], _twin(q, k, v))


def backward(device: str, N: int) -> None:
    """The gradients of q, k and v."""
    import torch

    from segfast.kernels.attention_configs import BackwardConfig
    from segfast.kernels.attention_cuda import launch_backward

    q, k, v, grad = _inputs(device, N)
    config = BackwardConfig(_tile(), _tile(), False) if device == "cpu" else None
    found = launch_backward(grad, q, k, v, *_launch(q, k, v, 1), HEAD**-0.5, config)
    leaves = [x.float().requires_grad_() for x in (q, k, v)]
    _check(found, torch.stack(torch.autograd.grad(_twin(*leaves), leaves, grad.float()), 2))


def labels(device: str, K: int) -> None:
    """Labels of two windows of K classes."""
    import torch

    from segfast.kernels import reference, upsample_argmax

    grid, size = (4, 64) if device == "cpu" else (32, 512)
    logits = torch.randn(2, K, grid, grid, generator=torch.Generator().manual_seed(K))
    found = torch.as_tensor(upsample_argmax(logits.to(device), (size, size))).cpu()
    assert (found.numpy() == reference.upsample_argmax(logits.numpy(), (size, size))).all(), (
        "the labels are not the twin's"
    )


def merge(device: str, K: int) -> None:
    """Labels of an image from overlapping windows and their mirror images."""
    import torch

    from segfast.kernels import merge_windows, reference
    from segfast.kernels.reference import Windows
    from segfast.protocol import Protocol

    size, window, step = ((64, 100), 32, 24) if device == "cpu" else ((384, 600), 256, 192)
    origins, extent = Protocol((0.5,) * 3, (0.5,) * 3, (window, window), (step, step)).windows(size)
    logits = torch.randn(len(origins), K, window // 16, window // 16, generator=torch.Generator().manual_seed(K))
    views = [Windows(logits.numpy(), origins, extent, extent, size, mirrored) for mirrored in (False, True)]
    moved: Any = [view._replace(logits=logits.to(device)) for view in views]  # type: ignore[arg-type]
    found = torch.as_tensor(merge_windows(moved, size))
    scores = reference.view_scores(views, size, 0, size[0])
    chosen = torch.from_numpy(scores).gather(0, found.cpu().long()[None])[0].numpy()
    assert (scores.max(0) - chosen).max() <= 1e-5, "the labels are not the twin's"


CASES: dict[str, Callable[[str], None]] = {
    "forward-1025": lambda device: forward(device, 1025),
    "split-1025": lambda device: forward(device, 1025, 3),
    "backward-257": lambda device: backward(device, 257),
    "backward-1025": lambda device: backward(device, 1025),
    "labels-150": lambda device: labels(device, 150),
    "labels-300": lambda device: labels(device, 300),
    "merge-of-two-views": lambda device: merge(device, 19),
}


def main() -> None:
    """Run a case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.once")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    CASES[options.case](options.device)
    print("right")


def _inputs(device: str, N: int) -> tuple[Any, ...]:
    """Views q, k, v of a packed tensor and the gradient of their attention, [1, N, HEADS, HEAD] in fp16."""
    import torch

    N = TINY[N] if device == "cpu" else N
    torch.manual_seed(N)
    packed, grad = torch.randn(1, N, 3, HEADS, HEAD), torch.randn(1, N, HEADS, HEAD)
    return *packed.half().to(device).unbind(2), grad.half().to(device)


def _launch(q: Any, k: Any, v: Any, splits: int) -> Any:
    from segfast.kernels import attention_configs as configs
    from segfast.kernels.attention_cuda import launch_forward

    config = configs.LaunchConfig(_tile(), splits, False) if q.device.type == "cpu" else None
    if config is None and splits > 1:
        config = configs.forward_config(q, k, v)._replace(splits=splits)
    return launch_forward(q, k, v, HEAD**-0.5, config)


def _tile() -> Any:
    from segfast.kernels.attention_configs import Tile

    return Tile(16, 16, 4, 2)


def _twin(q: Any, k: Any, v: Any) -> Any:
    from segfast.kernels import reference

    return reference.attention(q.float(), k.float(), v.float())


def _check(found: Any, exact: Any) -> None:
    error = ((found.float() - exact).norm() / exact.norm()).item()
    assert error < TOLERANCE, f"relative error {error:.1e}"


if __name__ == "__main__":
    main()
