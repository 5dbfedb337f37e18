"""Whether a column's labels are those of the fp32 reference, before its time counts."""

import numpy as np
import torch

from segfast.evaluation.agreement import label_agreement

# The regret that is allowed.
REGRET = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.05}


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
    found = {}
    for name, call in calls.items():
        labels, most = call(images), REGRET[precision(name)]
        assert labels.shape == (len(images), *pixels[0].shape[1:]), name
        compared = []
        for i, given in enumerate(labels):
            known = i > 1 and np.array_equal(given, labels[i - 2])
            compared.append(compared[i - 2] if known else label_agreement(given, pixels[i % 2]))
        right = all(one.regret < most for one in compared)
        assert right or not name.startswith("segfast"), name
        found[name] = (
            {"precision": precision(name), "agreement": float(np.mean([one.equal for one in compared]))}
            if right
            else f"its labels are wrong: what they lack to the best logits is over {most} of the spread"
        )
    return found
