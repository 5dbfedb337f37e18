"""What a request may bring: a picture in its body, within limits of bytes and pixels. Never a path."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from segfast.pictures.formats import FORMATS

# Full-size bodies that are held at once, those still arriving among them.
HELD = 16


class Refused(Exception):
    """A request that gets no answer but a status and the reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


class upload(io.BytesIO):
    """A picture's bytes as an open file, which messages name by its class. Bare bytes might be taken for a path."""


@dataclass(frozen=True)
class Limits:
    """What the service takes.

    Attributes:
        max_bytes: of a body.
        max_pixels: of a picture; told from the head of its file, before it is decoded.
        seconds: for a picture to arrive, and then for its answer.
        queue: pictures that wait at most.
    """

    max_bytes: int = 16 << 20
    max_pixels: int = 1 << 24
    seconds: float = 30.0
    queue: int = 32

    def check_type(self, content_type: str) -> None:
        """See that a body is said to be a picture. Other pages that a browser shows cannot send these types unasked.

        Raises:
            Refused: 415.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if not (kind.startswith("image/") or kind == "application/octet-stream"):
            raise Refused(415, "send the picture's bytes as they are, with Content-Type: image/jpeg (or image/png, …)")

    def check_length(self, length: int) -> None:
        """See that a body is not too long.

        Raises:
            Refused: 413.
        """
        if length > self.max_bytes:
            raise Refused(413, f"the picture has over {self.max_bytes:,} bytes; send a smaller one")

    def open(self, body: bytes) -> upload:
        """The picture, whose decoding is left to the Engine.

        Raises:
            Refused: 413, it has too many pixels.
        """
        try:
            with Image.open(io.BytesIO(body), formats=FORMATS) as image:
                count = image.width * image.height
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            count = self.max_pixels + 1
        except Exception:  # no picture: the Engine says why
            count = 0
        if count > self.max_pixels:
            raise Refused(413, f"the picture has over {self.max_pixels:,} pixels; send a smaller one")
        return upload(body)
