"""What a client gets for its picture: JSON, labels or an overlay, by its `Accept` header."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

from segfast.errors import NotSupported
from segfast.pictures import runs
from segfast.segmentation import Segmentation

JPEG_SIDE = 65500  # pixels: libjpeg's limit


def choose(accept: str) -> str | None:
    """The media type of KINDS that an `Accept` header likes best, the first of equals; None if it takes none."""
    liked: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        liked[name] = next((_quality(word[2:]) for word in parameters if word.startswith("q=")), 1.0)
    qualities = {kind: _liking(kind, liked) for kind in KINDS}
    best = max(KINDS, key=lambda kind: qualities[kind])
    return best if qualities[best] > 0 else None


def _liking(kind: str, liked: dict[str, float]) -> float:
    """The quality of a kind: that of the most specific range that holds it."""
    ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    return next((liked[name] for name in ranges if name in liked), 0.0)


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


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


def to_png(answer: Segmentation) -> bytes:
    """The labels as a PNG with a palette."""
    file = io.BytesIO()
    # A third of the time of Pillow's own level, for files half as large again.
    answer.picture().save(file, format="PNG", compress_level=3)
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


KINDS: dict[str, Callable[[Segmentation], bytes]] = {
    "application/json": to_json,
    "image/png": to_png,
    "image/jpeg": to_jpeg,
}
