"""What a file's samples stand for: read right, refused, or warned of; never black, negative or wrapped in silence."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from tiffs import write_tiff

from segfast.errors import BadImage
from segfast.image import SamplesWarning, read_image


@pytest.fixture
def grey(photo):
    return photo[..., 0]


def grey_rgb(grey):
    return np.repeat(grey[..., None], 3, 2)


def quietly(source):
    """The picture, without a single warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image(source)


READ = {
    "int8": (lambda g: (g >> 1).astype(np.int8), {}, lambda g: g & 254),
    "uint16": (lambda g: g.astype(np.uint16) * 257, {}, None),
    "int16": (lambda g: g.astype(np.int16) << 7, {}, None),
    "uint32": (lambda g: g.astype(np.uint32) << 24, {}, None),
    "int32": (lambda g: g.astype(np.int32) << 23, {}, None),
    "bytes in int16": (lambda g: g.astype(np.int16), {}, None),
    "bytes in uint32": (lambda g: g.astype(np.uint32), {}, None),
    "bytes in int32": (lambda g: g.astype(np.int32), {}, None),
    "white is zero": (lambda g: g.astype(np.uint16) * 257, {"photometric": 0}, lambda g: 255 - g),
    "floats of 0 … 1": (lambda g: g.astype(np.float32) / 255, {}, None),
    "floats where white is zero": (lambda g: g.astype(np.float32) / 255, {"photometric": 0}, lambda g: 255 - g),
    "floats of 0 … 255": (lambda g: g.astype(np.float32), {}, None),
    "12 bits, declared": (lambda g: g.astype(np.uint16) << 4, {"t281": (4095,)}, None),
    "12 bits, by the largest": (lambda g: g.astype(np.uint16) << 4, {"t281": (4000,)}, None),
    "the largest of 16 bits": (lambda g: g.astype(np.uint16) * 257, {"t281": (60000,)}, None),
    "a declared range": (lambda g: g.astype(np.uint16) * 10 + 100, {"t340": (100.0,), "t341": (2650.0,)}, None),
    "declared below zero": (lambda g: g.astype(np.int16) * 4 - 500, {"t340": (-500.0,), "t341": (520.0,)}, None),
    "declared floats": (lambda g: g.astype(np.float32) * 4, {"t341": (1020.0,)}, None),
    "a range of nonsense": (lambda g: g.astype(np.uint16) * 257, {"t341": (3.0,)}, None),
}  # fmt: skip


# Pillow has no modes for these in big-endian: they are refused, see LAYOUTS.
LITTLE = ("uint32", "bytes in uint32", "white is zero")


@pytest.mark.parametrize(
    ("case", "order"), [(case, order) for case in READ for order in "<>" if order == "<" or case not in LITTLE]
)
def test_grey_tiffs(tmp_path, grey, case, order):
    make, tags, expected = READ[case]
    path = write_tiff(tmp_path / "a.tif", make(grey), order=order, **tags)
    np.testing.assert_array_equal(quietly(path), grey_rgb(expected(grey) if expected else grey))


def test_12_bits_packed(tmp_path, grey):
    """Pillow unpacks them to 0 … 4095."""
    values = grey.astype(np.uint32) << 4
    packed = np.stack(
        [values[:, ::2] >> 4, (values[:, ::2] & 15) << 4 | values[:, 1::2] >> 8, values[:, 1::2] & 255], -1
    )
    path = write_tiff(tmp_path / "a.tif", packed.astype(np.uint8).reshape(60, -1), bits=12, t256=(90,))
    np.testing.assert_array_equal(quietly(path), grey_rgb(grey))


WARNED = {
    "12 bits": (lambda g: g.astype(np.uint16) << 4, r"reach only 3\d\d\d of 65535", lambda g: g >> 4),
    "12 bits, signed": (lambda g: g.astype(np.int16) << 4, r"reach only 3\d\d\d of 32767", lambda g: g >> 3),
    "bytes in uint16": (lambda g: g.astype(np.uint16), "none over 255: they are taken for bytes", lambda g: g),
    "16 bits in int32": (lambda g: g.astype(np.int32) * 257, "none over 65535", lambda g: g),
    "some floats outside": (lambda g: g.astype(np.float32) * 1.1, "cut off", lambda g: (g * np.float32(1.1)).clip(0, 255).astype(np.uint8)),
    "a float that is no number": (
        lambda g: np.where(np.indices(g.shape)[0] == 3, np.nan, g / 255).astype(np.float32), "NaN is taken for black",
        lambda g: np.where(np.indices(g.shape)[0] == 3, 0, g)),
}  # fmt: skip


@pytest.mark.parametrize("case", WARNED)
def test_doubtful_grey_is_warned_of(tmp_path, grey, case):
    make, words, expected = WARNED[case]
    grey = grey.copy()
    grey[0, 0] = 0  # black is there, for what is taken for black
    with pytest.warns(SamplesWarning, match=words):
        read = read_image(write_tiff(tmp_path / "a.tif", make(grey)))
    np.testing.assert_array_equal(read, grey_rgb(expected(grey)))


REFUSED = {
    "negative bytes": (lambda g: g.view(np.int8), "from -128 to 127"),
    "negative": (lambda g: g.astype(np.int16) - 128, "what is black is not declared"),
    "normalised": (lambda g: g.astype(np.float32) / 127 - 1, "what is black is not declared"),
    "large": (lambda g: g.astype(np.int32) * 1000, "what is white is not declared"),
    "large floats": (lambda g: g.astype(np.float32) * 257, "what is white is not declared"),
    "no number": (lambda g: np.full(g.shape, np.nan, np.float32), "no sample that is a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused(tmp_path, grey, case):
    make, words = REFUSED[case]
    with pytest.raises(BadImage, match=words):
        read_image(write_tiff(tmp_path / "a.tif", make(grey)))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_16_bits(tmp_path, photo, order, planar):
    """Pillow keeps their upper bytes: the lower ones are read where those do not suffice."""
    wide = photo.astype(np.uint16)
    options = {"photometric": 2, "order": order, "planar": planar}
    full = write_tiff(tmp_path / "full.tif", wide * 257, **options)
    np.testing.assert_array_equal(quietly(full), photo)
    declared = write_tiff(tmp_path / "declared.tif", wide << 4, t281=(4095,) * 3, **options)
    np.testing.assert_array_equal(quietly(declared), photo)
    with pytest.warns(SamplesWarning, match=r"reach only 3\d\d\d of 65535"):
        np.testing.assert_array_equal(read_image(write_tiff(tmp_path / "dark.tif", wide << 4, **options)), photo >> 4)
    with pytest.warns(SamplesWarning, match="taken for bytes"):
        np.testing.assert_array_equal(read_image(write_tiff(tmp_path / "bytes.tif", wide, **options)), photo)


def test_an_open_image_of_16_bit_colours(tmp_path, photo):
    """Its upper bytes are all that can be had: warned of where they are dark, refused where they are nothing."""
    wide = photo.astype(np.uint16)
    with (
        Image.open(write_tiff(tmp_path / "a.tif", wide << 4, photometric=2)) as image,
        pytest.warns(SamplesWarning, match="dark"),
    ):
        np.testing.assert_array_equal(read_image(image), photo >> 4)
    with (
        Image.open(write_tiff(tmp_path / "b.tif", wide, photometric=2)) as image,
        pytest.raises(BadImage, match="pass the path"),
    ):
        read_image(image)


def test_ink_of_16_bits(tmp_path, photo):
    """White paper has none."""
    ink = np.dstack([photo >> 3, np.zeros_like(photo[..., 0])])
    path = write_tiff(tmp_path / "a.tif", ink.astype(np.uint16) * 257, photometric=5)
    np.testing.assert_array_equal(quietly(path), np.asarray(Image.fromarray(ink, "CMYK").convert("RGB")))
    with pytest.raises(BadImage, match="save it with 8 bits"):
        read_image(write_tiff(tmp_path / "b.tif", ink.astype(np.uint16) << 4, photometric=5, t281=(4095,) * 4))


def png(array, colour_type, chunks=(), bits=16):
    """A PNG of big-endian samples, with chunks before its pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in array.astype(f">u{bits // 8}"))
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, colour_type, 0, 0, 0)
    middle = b"".join(chunk(*one) for one in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("colour_type", "bands"), [(0, 1), (2, 3), (6, 4)])
def test_pngs_of_16_bits(photo, colour_type, bands):
    wide = np.dstack([photo, photo[..., 0] | 1])[..., :bands].astype(np.uint16)
    expected = grey_rgb(photo[..., 0]) if bands == 1 else photo
    np.testing.assert_array_equal(quietly(png(wide * 257, colour_type)), expected)
    with pytest.warns(SamplesWarning, match="reach only"):
        np.testing.assert_array_equal(read_image(png(wide << 4, colour_type)), expected >> 4)
    with pytest.warns(SamplesWarning, match="taken for bytes"):
        np.testing.assert_array_equal(read_image(png(wide, colour_type)), expected)


def test_netpbm_declares_its_maximum(grey):
    dark = b"P5 90 60 4095\n" + (grey.astype(">u2") << 4).astype(">u2").tobytes()
    assert np.abs(quietly(dark)[..., 0].astype(int) - grey).max() <= 1
    floats = b"Pf 90 60 -1.0\n" + (grey[::-1] / 255).astype("<f4").tobytes()
    np.testing.assert_array_equal(quietly(floats), grey_rgb(grey))


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_pil_images_of_more_than_8_bits(grey, mode):
    values = {"I": grey.astype(np.int32), "F": grey.astype(np.float32) / 255, "I;16": grey.astype(np.uint16) * 257}[
        mode
    ]
    image = Image.fromarray(values)
    assert image.mode == mode
    np.testing.assert_array_equal(quietly(image), grey_rgb(grey))


@pytest.mark.parametrize(("values", "top"), [(np.int16, 128), (np.int32, 1), (np.float32, 1 / 255)])
def test_compressed_samples_of_the_other_byte_order(tmp_path, grey, values, top):
    """Pillow 13.0 swaps what libtiff has swapped already."""
    path = write_tiff(tmp_path / "a.tif", (grey.astype(np.float64) * top).astype(values), order=">", deflate=True)
    np.testing.assert_array_equal(quietly(path), grey_rgb(grey))


def test_palettes_of_bytes(tmp_path, grey):
    """Their values should have 16 bits; libtiff's tools know both."""
    for scale in (1, 257):
        colours = tuple(int(value) * scale for value in np.arange(256).tolist() * 3)
        path = write_tiff(tmp_path / "a.tif", grey, photometric=3, t320=colours)
        np.testing.assert_array_equal(read_image(path), grey_rgb(grey))


LAYOUTS = {
    "four bands": (lambda p: np.dstack([p, p[..., 0]]), {"photometric": 1, "extra": (0, 0, 0)}, r"4 bands of uint8 \(black is zero\)"),
    "thirteen bands": (lambda p: np.dstack([p] * 5)[..., :13], {"photometric": 1, "extra": (0,) * 12}, r"13 bands.*\[0, 1, 2\]"),
    "bands by themselves": (lambda p: p, {"photometric": 1, "planar": True}, r"band by band.*transpose\(1, 2, 0\)"),
    "five planes": (lambda p: np.dstack([p, p[..., :2]]), {"photometric": 2, "extra": (0, 1), "planar": True}, "5 bands"),
    "16 bits, five bands": (lambda p: np.dstack([p, p[..., :2]]).astype(np.uint16), {"photometric": 1}, "5 bands of uint16"),
    "float RGB": (lambda p: p.astype(np.float32) / 255, {"photometric": 2}, r"3 bands of float32 \(RGB\)"),
    "double": (lambda p: p[..., 0].astype(np.float64), {}, "1 band of float64.*np.stack"),
    "half": (lambda p: p[..., 0].astype(np.float16), {}, "1 band of float16"),
    "complex": (lambda p: p[..., 0].astype(np.complex64), {}, "1 band of undefined64"),
    "signed RGB": (lambda p: p.astype(np.int16), {"photometric": 2}, "3 bands of int16"),
    "64 bits": (lambda p: p[..., 0].astype(np.uint64), {}, "uint64"),
    "big-endian uint32": (lambda p: p[..., 0].astype(np.uint32), {"order": ">"}, "uint32"),
    "big-endian white is zero": (lambda p: p[..., 0].astype(np.uint16), {"order": ">", "photometric": 0}, "white is zero"),
    "raw of a camera": (lambda p: p[..., 0], {"photometric": 32803}, "colour filter.*raw converter"),
    "preview of a camera": (lambda p: p, {"photometric": 2, "t254": (1,), "t330": (8,)}, "raw file of a camera"),
    "a compression of others": (lambda p: p, {"photometric": 2, "t259": (34712,)}, "compression 34712"),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_are_refused_for_what_they_are(tmp_path, photo, case):
    make, options, words = LAYOUTS[case]
    with pytest.raises(BadImage, match=words) as caught:
        read_image(write_tiff(tmp_path / "a.tif", make(photo), **options))
    assert "no picture in a format" not in str(caught.value)


def test_extra_bands_of_colours_are_dropped(tmp_path, photo):
    six = np.dstack([photo, 255 - photo])
    np.testing.assert_array_equal(quietly(write_tiff(tmp_path / "a.tif", six, photometric=2, extra=(0, 0, 0))), photo)


@pytest.mark.parametrize("given", ["path", "image"])
def test_a_turned_tiff_of_12_bits(tmp_path, photo, given):
    """Pillow turns TIFFs by itself; the second pass for the lower bytes is turned likewise."""
    stored = np.ascontiguousarray(np.rot90(photo, 1)).astype(np.uint16) << 4
    path = write_tiff(tmp_path / "a.tif", stored, photometric=2, t274=(6,), t281=(4095,) * 3)
    if given == "path":
        np.testing.assert_array_equal(quietly(path), photo)
        return
    eight = write_tiff(tmp_path / "b.tif", (stored >> 4).astype(np.uint8), photometric=2, t274=(6,))
    with Image.open(eight) as image:
        np.testing.assert_array_equal(quietly(image), photo)
        np.testing.assert_array_equal(quietly(image), photo)


def test_warnings_may_be_errors(tmp_path, grey):
    path = write_tiff(tmp_path / "a.tif", grey.astype(np.uint16))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplesWarning)
        with pytest.raises(SamplesWarning, match=r"a\.tif"):
            read_image(path)


def zipped(size):
    return b"Comment\0\0" + zlib.compress(bytes(size))


EXTRAS = {
    "a profile of 1.5 MB": (b"iCCP", b"monitor\0\0" + zlib.compress(np.random.default_rng(0).bytes(1_500_000))),
    "a profile that unpacks to 3 MB": (b"iCCP", b"monitor\0\0" + zlib.compress(bytes(3_000_000))),
    "a profile of no known compression": (b"iCCP", b"x\0\5abc"),
    "a text that unpacks to 3 MB": (b"zTXt", zipped(3_000_000)),
    "an international text of 3 MB": (b"iTXt", b"XML\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
    "a text that is none": (b"iTXt", b"\xff\xfe\0\1\0\0\0\xff"),
    "a resolution cut short": (b"pHYs", b"x"),
    "an animation of no frames": (b"fcTL", bytes(3)),
}


@pytest.mark.parametrize("case", EXTRAS)
def test_what_lies_beside_the_pixels_of_a_png_does_not_matter(photo, case):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(np.rot90(photo, 1))
    np.testing.assert_array_equal(read_image(png(photo, 2, [EXTRAS[case]], bits=8)), photo)
    turned = png(stored, 2, [EXTRAS[case], (b"eXIf", exif.tobytes()[6:])], bits=8)
    np.testing.assert_array_equal(read_image(turned), photo)


def test_texts_that_are_too_many(photo):
    np.testing.assert_array_equal(read_image(png(photo, 2, [(b"zTXt", zipped(1_000_000))] * 70, bits=8)), photo)


def test_texts_behind_the_pixels_of_an_open_png(photo):
    whole = png(photo, 2, bits=8)
    text = png(photo, 2, [(b"zTXt", zipped(3_000_000))], bits=8)
    at, start = whole.index(b"IEND") - 4, text.index(b"zTXt") - 4
    content = whole[:at] + text[start : text.index(b"IDAT") - 4] + whole[at:]
    np.testing.assert_array_equal(read_image(content), photo)
    np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(content))), photo)


def test_a_damaged_checksum_beside_the_pixels(photo):
    content = bytearray(png(photo, 2, [(b"tEXt", b"Title\0cat")], bits=8))
    content[content.index(b"cat")] ^= 1
    np.testing.assert_array_equal(read_image(bytes(content)), photo)


def test_a_damaged_palette_does_matter(photo):
    """Without it the picture would be another."""
    buffer = io.BytesIO()
    Image.fromarray(photo).quantize(16).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[content.index(b"PLTE") + 9] ^= 1
    with pytest.raises(BadImage):
        read_image(bytes(content))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
def test_large_profiles_of_other_formats(photo, form):
    plain, laden = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo).save(plain, form)
    Image.fromarray(photo).save(laden, form, icc_profile=np.random.default_rng(0).bytes(1_500_000))
    np.testing.assert_array_equal(read_image(laden), read_image(plain))
