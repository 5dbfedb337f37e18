"""Fine-tune a model on pictures and masks of your own, and measure it.

    python examples/train_your_own.py mine run --model seg-s-dinov2-14 --iterations 500

MINE is a folder with images/train, images/val, masks/train, masks/val (PNGs of class numbers, 255 for none) and
classes.txt, one class a line. The command line of the same is `python -m segfast.train --recipe folder`.
"""

import argparse
from pathlib import Path

import segfast
from segfast.datasets import open_dataset
from segfast.evaluate import evaluate
from segfast.train import Running, recipe, train


def main() -> None:
    """Train and evaluate what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="MINE")
    parser.add_argument("out", metavar="RUN", type=Path)
    parser.add_argument("--model", default="seg-s-dinov2-14", help="family member (python -m segfast.models)")
    parser.add_argument("--encoder", help="file of weights to start from, or none (default: downloaded)")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--crop", type=int, default=252, help="side of the training crops, a multiple of the patch")
    options = parser.parse_args()

    # Every option of `python -m segfast.train` is a field of the recipe; what is left out, the recipe and the encoder say.
    changes = {
        "iterations": options.iterations,
        "crop": options.crop,
        "evaluate_every": max(1, options.iterations // 4),
    }
    if options.encoder:
        changes["encoder"] = options.encoder
    chosen = recipe("folder", options.model, **changes)
    train(chosen, options.data, options.out, Running())  # stopped by Ctrl-C, the same call goes on

    engine = segfast.Engine(options.out / "best.safetensors")
    report = evaluate(engine, open_dataset("folder", options.data, "val"))
    for name, iou in zip(report.classes, report.scores.per_class, strict=True):
        print(f"{name}: IoU {iou:.3f}" if iou is not None else f"{name}: in no picture")
    print(f"next: python -m segfast.export --weights {options.out / 'best.safetensors'} --fp16")


if __name__ == "__main__":
    main()
