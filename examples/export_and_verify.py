"""Export a trained model, and see that the file gives the model's labels on pictures of your own.

    python examples/export_and_verify.py run/best.safetensors model.onnx photo.jpg another.jpg

Every export is checked on a photo of its own before it is written. What matters is your pictures: here is how to compare.
"""

import sys

import numpy as np

import segfast
from segfast.export import export_onnx

LEAST = 0.99  # share of equal labels; in half precision pixels on an outline may change sides


def main() -> None:
    """Export and compare what the command line names; exit 1 if a picture's labels differ too much."""
    weights, out, *pictures = sys.argv[1:]
    model = segfast.load_model(weights)
    print(export_onnx(model, out, precision="fp16"))

    trained, exported = segfast.Engine(model, precision="fp32"), segfast.Engine(out)
    print(exported)  # what runs it, where, and in which precision
    wrong = False
    for picture in pictures:
        equal = float(np.mean(trained.segment(picture).labels == exported.segment(picture).labels))
        print(f"{picture}: {equal:.2%} of the labels are equal")
        wrong |= equal < LEAST
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
