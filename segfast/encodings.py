"""A Segmentation as bytes, by media type: what a service answers, and what a table or an object store holds.

from segfast.encodings import to_json

content = to_json(engine.segment("photo.jpg"))
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial

from segfast.errors import NotSupported
from segfast.pictures import runs
from segfast.segmentation import Segmentation

JPEG_SIDE = 65500  # pixels: libjpeg's limit


def to_json(answer: Segmentation) -> bytes:
    """Size, classes present, largest first, and the labels as runs, row by row."""
    H, W = answer.labels.shape
    index = {name: label for label, name in enumerate(answer.classes)}
    classes = [
        {"label": index[name], "name": name, "color": list(answer.palette[index[name]]), "share": share}
        for name, share in answer.areas.items()
    ]
    labels, lengths = (array.tolist() for array in runs.encode(answer.labels))
    found = {"height": H, "width": W, "classes": classes, "runs": {"labels": labels, "lengths": lengths}}
    return json.dumps(found, separators=(",", ":")).encode()


def to_png(answer: Segmentation, *, compress_level: int = 6) -> bytes:
    """The labels as a PNG with a palette, as of `Segmentation.save`."""
    file = io.BytesIO()
    answer.picture().save(file, format="PNG", compress_level=compress_level)
    return file.getvalue()


def to_jpeg(answer: Segmentation) -> bytes:
    """The overlay with its legend.

    Raises:
        NotSupported: it is longer than JPEG allows.
    """
    picture = answer.overlay()
    if max(picture.size) > JPEG_SIDE:
        raise NotSupported(
            f"an overlay of {picture.width}×{picture.height} is too long for JPEG; ask for image/png or application/json"
        )
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90)
    return file.getvalue()


# What somebody waits for. A PNG takes a third of the time of Pillow's own level, and is half as large again.
KINDS: dict[str, Callable[[Segmentation], bytes]] = {
    "application/json": to_json,
    "image/png": partial(to_png, compress_level=3),
    "image/jpeg": to_jpeg,
}
