"""Answer requests that come as arrays, from any number of threads: the inside of a service.

    python examples/serve_arrays.py examples/pets.onnx examples/cat.jpg examples/coffee.jpg

Frames of a camera, parts of a raster, decoded uploads: an Engine takes uint8 RGB arrays [H, W, 3] of any size.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import segfast


class Service:
    """An Engine that is ready before the first request comes."""

    def __init__(self, model: str):
        self.engine = segfast.Engine(model)
        self.engine.warm_up()  # compiles now what the first request would wait for

    def answer(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """What a client gets for an image [H, W, 3]: labels [H, W] and shares, or why there is none."""
        try:
            found = self.engine.segment(image)
        except (
            segfast.BadImage,
            segfast.NotSupported,
        ) as error:  # the client's fault: wrong dtype or shape, or too large
            return {"error": str(error)}
        return {"labels": found.labels, "areas": found.areas}


def main() -> None:
    """Serve the pictures of the command line, all at once."""
    model, *pictures = sys.argv[1:]
    service = Service(model)
    arrays = [np.asarray(Image.open(picture).convert("RGB")) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:  # one Engine for all: it is safe to call from many threads
        for picture, answer in zip(pictures, threads.map(service.answer, arrays), strict=True):
            print(picture, answer.get("areas", answer.get("error")))


if __name__ == "__main__":
    main()
