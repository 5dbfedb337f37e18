"""PNG files whose pixels are whole, though what lies beside them is not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Chunks that pixels and their orientation come from.
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
_SMALL = 1 << 16


def without_extras(content: bytes) -> Iterator[bytes]:
    """The file without large or damaged ancillary chunks, then with none: Pillow refuses files over them.

    The frames of an animation are ancillary; its first, or what stands for it, is not.
    """
    chunks = list(_chunks(content))
    kept = [body for kind, body, whole in chunks if kind in _NEEDED or (whole and len(body) <= _SMALL)]
    needed = [body for kind, body, whole in chunks if kind in _NEEDED and (whole or kind == b"IDAT")]
    for some in (kept, needed):
        if len(some) < len(chunks):
            yield SIGNATURE + b"".join(some)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, length + name + data + checksum, whether that is right) of every chunk."""
    at = len(SIGNATURE)
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        body = content[at : at + 12 + length]
        yield kind, body, zlib.crc32(body[4:-4]) == int.from_bytes(body[-4:], "big")
        at += 12 + length
