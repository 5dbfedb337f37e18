"""What a file is that is no picture in a format that is read."""

from __future__ import annotations

from typing import IO

from segfast.errors import BadImage
from segfast.pictures import tiff

# Where in the file, what stands there, what that makes the file, what to do with it.
_CONVERT = "convert it to PNG or JPEG"
_HEIF = "convert it to JPEG, or open it with pillow-heif and pass the PIL image"
_FRAMES = "decode it with another library and pass its frames"
_KNOWN: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x93NUMPY", "a NumPy array", "pass what np.load gives"),
    (0, b"\x89HDF", "an HDF5 file", "pass a uint8 array [H, W, 3] of its data"),
    (0, b"SIMPLE  =", "a FITS file", "pass a uint8 array [H, W, 3] of its data"),
    (128, b"DICM", "a DICOM file", "pass a uint8 array [H, W, 3] of its data"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture", "tone-map it to 8 bits, and save it as PNG"),
    (0, b"#?RADIANCE", "a Radiance HDR picture", "tone-map it to 8 bits, and save it as PNG"),
    (0, b"#?RGBE", "a Radiance HDR picture", "tone-map it to 8 bits, and save it as PNG"),
    *((4, b"ftyp" + brand, "an AVIF picture", _CONVERT) for brand in (b"avif", b"avis")),
    *(
        (4, b"ftyp" + brand, "a HEIC picture", _HEIF)
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
    ),
    (
        4,
        b"ftypcrx",
        "a raw file of a camera",
        "develop it with a raw converter (rawpy, for example), and pass the result",
    ),
    (
        0,
        b"FUJIFILM",
        "a raw file of a camera",
        "develop it with a raw converter (rawpy, for example), and pass the result",
    ),
    (4, b"ftyp", "a video", _FRAMES),
    (8, b"AVI ", "a video", _FRAMES),
    (0, b"\x1a\x45\xdf\xa3", "a video", _FRAMES),
    (0, b"\xff\x0a", "a JPEG XL picture", _CONVERT),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture", _CONVERT),
    (0, b"8BPS", "a Photoshop document", _CONVERT),
    (0, b"gimp xcf", "a GIMP document", _CONVERT),
    (0, b"DDS ", "a DirectDraw surface", _CONVERT),
    (0, b"qoif", "a QOI picture", _CONVERT),
    (0, b"\x00\x00\x01\x00", "an icon", _CONVERT),
    (0, b"%PDF", "a PDF document", "render its pages to PNG"),
    (0, b"%!PS", "a PostScript document", "render it to PNG"),
    (0, b"<svg", "an SVG drawing", "render it to PNG"),
    (0, b"<?xml", "an XML document", "if it is a drawing, render it to PNG"),
    (0, b"<!doctype html", "a web page", "download the picture itself"),
    (0, b"<html", "a web page", "download the picture itself"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself with git lfs pull"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
)

# So many bytes of a file's start tell what it is.
_HEAD = 160


def refusal(file: IO[bytes], name: str, read: str) -> BadImage:
    """The error for a file, at its start, that is no picture in a format that is `read`."""
    head = file.read(_HEAD)
    if not head:
        return BadImage(f"{name} is empty; copy or download it again")
    if head.startswith(tiff.PREFIXES):
        return _no_layout(file, name)
    what, remedy = _kind_of(head) or ("", "")
    if what:
        return BadImage(f"{name} is no picture in a format that is {read}: it is {what}; {remedy}")
    return BadImage(
        f"{name} is no picture in a format that is {read}; convert it to PNG or JPEG (pixels alone are read as an array: "
        "np.frombuffer(data, np.uint8).reshape(H, W, 3))"
    )


def other_layout(layout: tiff.Layout, name: str) -> BadImage:
    """The error for a TIFF that Pillow reads as something else, or not at all."""
    return BadImage(f"{name} is a TIFF of a layout that is not read: {layout}; {layout.remedy}")


def _no_layout(file: IO[bytes], name: str) -> BadImage:
    try:
        return other_layout(tiff.read_layout(file), name)
    except Exception as error:  # a damaged directory
        return BadImage(f"{name} is a TIFF whose tags cannot be read ({error!r}); copy or download it again")


def _kind_of(head: bytes) -> tuple[str, str] | None:
    """(what a file is, what to do with it) by its first bytes; none if they are not known."""
    text = head.lower()
    for at, magic, what, remedy in _KNOWN:
        if (text if magic.startswith(b"<") else head)[at : at + len(magic)] == magic:
            return what, remedy
    return None
