"""Read how sure a model is, pixel by pixel, and draw it: dark where it doubts.

    python examples/scores_and_doubt.py examples/pets.onnx examples/cat.jpg doubt.png

A softmax score is not a probability: networks are surer than they are right. It ranks pixels well all the same, which is enough
to send the doubtful ones to a person.
"""

import sys

import numpy as np
from PIL import Image

import segfast

SURE = 0.9


def main() -> None:
    """Segment the picture that the command line names, and draw its doubt."""
    model, picture, out = sys.argv[1:]
    answer = segfast.Engine(model).segment(picture)
    scores = answer.scores  # [K, H, W], a sum of 1 over the classes; computed now, from the logits

    best = scores.max(0)  # [H, W], of the class that `answer.labels` has
    print(f"{(best < SURE).mean():.1%} of the picture has a best score below {SURE}")
    for label, name in enumerate(answer.classes):
        mine = answer.labels == label
        if mine.any():
            print(f"{name}: {mine.mean():.1%} of the picture, mean score {scores[label][mine].mean():.3f}")

    # From 1 / K, where all classes are alike, to 1.
    certainty = (best - 1 / len(scores)) / (1 - 1 / len(scores))
    Image.fromarray((answer.image * np.clip(certainty, 0, 1)[..., None]).astype(np.uint8)).save(out)


if __name__ == "__main__":
    main()
