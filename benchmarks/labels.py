"""Whether a column's labels are those of the fp32 reference, before its time counts."""

import numpy as np
import torch

# What the logits of the chosen classes may lack to the best ones, against the spread of all.
LACK = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.05}


def precision(column):
    """The end of a column's name."""
    return column.rpartition("-")[2]


def agreements(calls, case, images):
    """Share of labels equal to the fp32 reference's, by column; in the place of a peer whose labels are wrong, the reason.

    Args:
        calls: columns by name; a wrong one of ours is an AssertionError.
        images: [B, H, W, 3], every other one the same.
    """
    with torch.inference_mode():
        pixels = [case.fixed(case.normalised(one[None]))[0].cpu().numpy() for one in images[:2]]  # each [K, H, W]
    expected = np.stack([one.argmax(0) for one in pixels])[np.arange(len(images)) % 2]
    found = {}
    for name, call in calls.items():
        labels = call(images)
        assert labels.shape == expected.shape, name
        right = all(
            (i > 1 and np.array_equal(given, labels[i - 2])) or lack(given, pixels[i % 2]) < LACK[precision(name)]
            for i, given in enumerate(labels)
        )
        assert right or not name.startswith("segfast"), name
        found[name] = (
            {"precision": precision(name), "agreement": float((labels == expected).mean())}
            if right
            else f"its labels are wrong: what they lack to the best logits is over {LACK[precision(name)]} of the spread"
        )
    return found


def lack(labels, pixels):
    """What the logits of the chosen labels lack to the best ones, against the spread of all, as root mean squares.

    Args:
        labels: [H, W].
        pixels: logits of the fp32 reference, [K, H, W].
    """
    if labels.min() < 0 or labels.max() >= len(pixels):
        return float("inf")
    chosen = np.take_along_axis(pixels, labels[None].astype(np.intp), 0)[0]
    missing = pixels.max(0) - chosen
    return float(np.sqrt(np.mean(missing**2)) / pixels.std())
