"""Segment a picture with an exported file, without segfast: NumPy, Pillow and ONNX Runtime are enough.

    python onnx_only.py seg-b-mask-16-512-fp16.onnx photo.jpg labels.png

The steps are those of docs/onnx.md, under their numbers there, for whoever ports them to another language.
The labels are those of `segfast.Engine(file, runtime="onnxruntime")`, pixel for pixel (pictures of 8 bits a sample).

Letters: K classes, P patch size; H, W the picture's size, h, w patches. Sizes are (height, width).
"""

import itertools
import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[Any]
Size = tuple[int, int]
Parts = dict[Size, Array]  # each window's logits by its (top, left)

BAND = 64  # rows of the picture that are labelled at once: K×H×W never exists


def main() -> None:
    """Segment what the command line names."""
    model, picture, out = sys.argv[1:]
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
    Image.fromarray(segment(model, np.asarray(image))).save(out)


def segment(model: str, image: Array) -> Array:
    """Labels [H, W] of RGB bytes [H, W, 3]."""
    session = onnxruntime.InferenceSession(model)
    about = json.loads(session.get_modelmeta().custom_metadata_map["segfast"])
    protocol, P, whole = about["protocol"], about["patch"], image.shape[:2]
    told = about["format"], about["output"], protocol.get("fit")  # format 2 is of encoders, which are in the graph
    assert told in [(1, "logits", None), (2, "logits", None)], "newer, or of labels, or of pictures resized first"
    window, stride = protocol["window"], protocol["stride"]

    size = covering(whole, window)  # step 1
    image = np.rint(stretch(stretch(image.astype(np.float32), size[1], axis=1), size[0], axis=0)).astype(np.uint8)
    parts = {}
    for top, left in itertools.product(*map(starts, size, window, stride)):  # step 2
        pixels = np.ascontiguousarray(image[None, top : top + window[0], left : left + window[1]])
        parts[top, left] = session.run(None, {"images": pixels})[0][0].astype(np.float32)  # [K, h, w]

    padded = [-(-side // P) * P for side in window] if protocol["crop_padding"] else window
    parts = {at: stretch(x, padded[1], axis=2)[..., : window[1]] for at, x in parts.items()}  # [K, h, Ww]
    labels = np.empty(whole, np.uint8 if about["num_classes"] <= 256 else np.uint16)
    for start in range(0, whole[0], BAND):
        stop = min(start + BAND, whole[0])
        labels[start:stop] = scores(parts, window, padded[0], size, whole, start, stop).argmax(0)  # step 6
    return labels


def scores(parts: Parts, window: Size, padded: int, size: Size, whole: Size, start: int, stop: int) -> Array:
    """Rows start … stop of the picture's logits, [K, stop - start, W] (steps 3 to 5)."""
    if size == whole:
        return averaged(parts, window, padded, size, start, stop)
    above, below, weight = taps(size[0], whole[0], start, stop)
    rows = stretch(averaged(parts, window, padded, size, above[0], below[-1] + 1), whole[1], axis=2)
    return rows if size[0] == whole[0] else blend(rows, above - above[0], below - above[0], weight, axis=1)


def averaged(parts: Parts, window: Size, padded: int, size: Size, start: int, stop: int) -> Array:
    """Rows start … stop of the mean of the windows' logits where they overlap (steps 3 and 4)."""
    K = len(next(iter(parts.values())))
    total = np.zeros((K, stop - start, size[1]), np.float32)
    count = np.zeros(total.shape[1:], np.float32)
    for (top, left), part in parts.items():
        first, last = max(start, top), min(stop, top + window[0])
        if first < last:
            at = slice(first - start, last - start), slice(left, left + window[1])
            total[:, *at] += stretch(part, padded, 1, first - top, last - top)
            count[at] += 1
    return total / count


def covering(size: Size, window: Size) -> Size:
    """The picture's own size, or the one to which it is enlarged so that it covers the window (step 1)."""
    (H, W), (high, wide) = size, window
    if high <= H and wide <= W:
        return H, W
    by_height = high * W >= wide * H  # the larger factor is the height's
    return (high, max(wide, int(W / H * high))) if by_height else (max(high, int(H / W * wide)), wide)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side (step 2)."""
    return [*range(0, length - window, stride), length - window]


def stretch(x: Array, length: int, axis: int, start: int = 0, stop: int | None = None) -> Array:
    """One axis of an array resized to `length`, of which start … stop are computed."""
    if x.shape[axis] == length:
        return x[tuple(slice(start, stop) if i == axis else slice(None) for i in range(x.ndim))]
    return blend(x, *taps(x.shape[axis], length, start, stop), axis)


def taps(length: int, resized: int, start: int = 0, stop: int | None = None) -> tuple[Array, Array, Array]:
    """For each place of a resized side its two neighbours among `length`, and the weight of the second, in float32."""
    places = np.arange(resized, dtype=np.float32)[start:stop] + np.float32(0.5)
    places = np.maximum(places * (np.float32(length) / np.float32(resized)) - np.float32(0.5), 0)
    first = np.minimum(places.astype(np.intp), length - 1)
    return first, np.minimum(first + 1, length - 1), (places - first).astype(np.float32)


def blend(x: Array, first: Array, second: Array, weight: Array, axis: int) -> Array:
    """first · (1 − weight) + second · weight, places along one axis."""
    weight = weight.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return x.take(first, axis) * (1 - weight) + x.take(second, axis) * weight


if __name__ == "__main__":
    main()
