"""What the service takes, and what it does with who brings more. The command's options are these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, Any

from PIL import Image

from segfast.pictures.formats import FORMATS


def _limit(default: int, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Limits:
    """Whole numbers from 1; `metadata["help"]` of each field says what it bounds."""

    max_bytes: int = _limit(16 << 20, "of a picture's file")
    max_pixels: int = _limit(1 << 24, "of a picture, as the head of its file says")
    seconds: int = _limit(30, "for a picture to arrive, and then for its answer")
    queue: int = _limit(32, "pictures that wait at most")
    connections: int = _limit(256, "open at most")

    def too_large(self, file: IO[bytes]) -> bool:
        """Whether a picture has too many pixels, which is known before it is decoded."""
        try:
            with Image.open(file, formats=FORMATS) as image:
                return image.width * image.height > self.max_pixels
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            return True
        except Exception:  # no picture: the Engine says why
            return False
