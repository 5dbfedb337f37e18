"""File formats: which are read, and what to do with a file of any other."""

from __future__ import annotations

from typing import IO

from segfast.errors import BadImage
from segfast.pictures import tiff

# Formats whose decoders only decode: no Ghostscript, no remote or scripted content.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "TGA", "AVIF")
SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".tif", ".tiff", ".bmp", ".dib",
    ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tga",
))  # fmt: skip
# How to convert the pictures of a folder that are not read, by suffix.
CONVERSIONS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "convert them to JPEG, with heif-convert or pillow-heif"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"), "develop them to TIFF or PNG"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"), "take their frames out, with ffmpeg"),
}

_CONVERT = "convert it to PNG or JPEG"
_AS_ARRAY = "pass a uint8 array [H, W, 3] of its data"
_TONE_MAP = "tone-map it to 8 bits, and save it as PNG"
_FRAMES = "decode it with another library and pass its frames"
_HEIC = (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
# Where in the file which bytes stand (in lower case, where they begin with <), what it is then, what to do with it.
_SIGNATURES: tuple[tuple[int, tuple[bytes, ...], str, str], ...] = (
    (0, (b"\x93NUMPY",), "a NumPy array", "pass what np.load gives"),
    (0, (b"\x89HDF",), "an HDF5 file", _AS_ARRAY),
    (0, (b"SIMPLE  =",), "a FITS file", _AS_ARRAY),
    (128, (b"DICM",), "a DICOM file", _AS_ARRAY),
    (0, (b"\x76\x2f\x31\x01",), "an OpenEXR picture", _TONE_MAP),
    (0, (b"#?RADIANCE", b"#?RGBE"), "a Radiance HDR picture", _TONE_MAP),
    (4, (b"ftypavif", b"ftypavis"), "an AVIF picture", _CONVERT),
    (4, _HEIC, "a HEIC picture", "convert it to JPEG, or open it with pillow-heif and pass the PIL image"),
    (4, (b"ftypcrx",), "a raw file of a camera", tiff.DEVELOP),
    (0, (b"FUJIFILM",), "a raw file of a camera", tiff.DEVELOP),
    (4, (b"ftyp",), "a video", _FRAMES),
    (8, (b"AVI ",), "a video", _FRAMES),
    (0, (b"\x1a\x45\xdf\xa3",), "a video", _FRAMES),
    (0, (b"\xff\x0a", b"\x00\x00\x00\x0cJXL "), "a JPEG XL picture", _CONVERT),
    (0, (b"8BPS",), "a Photoshop document", _CONVERT),
    (0, (b"gimp xcf",), "a GIMP document", _CONVERT),
    (0, (b"DDS ",), "a DirectDraw surface", _CONVERT),
    (0, (b"qoif",), "a QOI picture", _CONVERT),
    (0, (b"\x00\x00\x01\x00",), "an icon", _CONVERT),
    (0, (b"%PDF",), "a PDF document", "render its pages to PNG"),
    (0, (b"%!PS",), "a PostScript document", "render it to PNG"),
    (0, (b"<svg",), "an SVG drawing", "render it to PNG"),
    (0, (b"<?xml",), "an XML document", "if it is a drawing, render it to PNG"),
    (0, (b"<!doctype html", b"<html"), "a web page", "download the picture itself"),
    (0, (b"version https://git-lfs",), "a pointer of Git LFS", "fetch the file itself with git lfs pull"),
    (0, (b"PK\x03\x04",), "a zip archive", "unpack it"),
    (0, (b"\x1f\x8b",), "a gzip archive", "unpack it"),
)
_HEAD = 160  # bytes that hold every signature


def unknown_format(file: IO[bytes], name: str) -> BadImage:
    """The error for a file, at its start, that Pillow does not recognise."""
    head = file.read(_HEAD)
    if not head:
        return BadImage(f"{name} is empty; copy or download it again")
    if head.startswith(tiff.PREFIXES):
        return tiff.unknown_layout(file, name)
    refused = f"{name} is no picture in a format that is read ({', '.join(FORMATS)})"
    for at, magic, what, remedy in _SIGNATURES:
        if (head.lower() if magic[0].startswith(b"<") else head)[at:].startswith(magic):
            return BadImage(f"{refused}: it is {what}; {remedy}")
    return BadImage(
        f"{refused}; convert it to PNG or JPEG (pixels alone are read as an array: "
        "np.frombuffer(data, np.uint8).reshape(H, W, 3))"
    )
