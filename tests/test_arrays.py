"""What is given for an image: taken, or refused with advice that fits: the advice is followed here."""

import io
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_model
from PIL import Image

import segfast
from segfast.errors import BadImage, BadOption
from segfast.image import read_image

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
PHOTO[0, 0], PHOTO[0, 1] = 0, 255
GREY = PHOTO[..., 0]
CHW = np.ascontiguousarray(PHOTO.transpose(2, 0, 1))
SCALED = PHOTO.astype(np.float32) / 255


def refusal(image):
    with pytest.raises(BadImage) as caught:
        read_image(image)
    return str(caught.value)


# What is given, and what following the advice gives: the photo, or grey.
ARRAYS = {
    "uint16": (PHOTO.astype(np.uint16) * 257, PHOTO),
    "uint16 of 12 bits": (PHOTO.astype(np.uint16) << 4, PHOTO),
    "uint16 of bytes": (PHOTO.astype(np.uint16), PHOTO),
    "int64": (PHOTO.astype(np.int64), PHOTO),
    "int32 of 16 bits": (PHOTO.astype(np.int32) * 257, PHOTO),
    "floats of 0 … 1": (SCALED, PHOTO),
    "floats of 0 … 255": (PHOTO.astype(np.float64), PHOTO),
    "half floats": (SCALED.astype(np.float16), PHOTO),
    "bool": (PHOTO > 127, (PHOTO > 127) * np.uint8(255)),
    "grey [H, W]": (GREY, "grey"),
    "grey [H, W, 1]": (GREY[..., None], "grey"),
    "grey [1, H, W]": (GREY[None], "grey"),
    "grey floats": (SCALED[..., 0], "grey"),
    "grey and alpha": (np.dstack([GREY, GREY]), "grey"),
    "RGBA": (np.dstack([PHOTO, GREY]), PHOTO),
    "six bands": (np.dstack([PHOTO, PHOTO]), PHOTO),
    "CHW": (CHW, PHOTO),
    "CHW of four": (np.concatenate([CHW, CHW[:1]]), PHOTO),
    "CHW floats": (CHW.astype(np.float32) / 255, PHOTO),
    "CHW of width 4": (np.ascontiguousarray(CHW[..., :4]), PHOTO[:, :4]),
    "batch of one": (PHOTO[None], PHOTO),
    "batch of CHW": (CHW[None], PHOTO),
}


@pytest.mark.parametrize("library", ["np", "torch"])
@pytest.mark.parametrize("case", ARRAYS)
def test_the_advice_for_an_array_gives_the_picture(case, library):
    given, wanted = ARRAYS[case]
    image = torch.from_numpy(given.copy()) if library == "torch" else given
    message = refusal(image)
    followed = eval(expression(message), {"np": np, "torch": torch, "image": image, "images": image})
    expected = np.repeat(GREY[..., None], 3, 2) if isinstance(wanted, str) else wanted
    np.testing.assert_array_equal(read_image(followed), expected)


def expression(message):
    """The Python in an error's advice."""
    advice = message.rsplit("; ", 1)[1]
    return re.search(r"(?:pass |for example |[a-z)]: )(\(*(?:images?|np|torch)\b.*?)(?:, or segment_many.*)?$", advice)[
        1
    ]


def test_a_batch_is_for_segment_many():
    message = refusal(torch.from_numpy(np.stack([CHW, CHW])))
    assert "segment_many(images.permute(0, 2, 3, 1))" in message
    assert "without a batch axis" in message


ODD = {
    "normalised": ((SCALED - 0.5) / 0.2, "undo the normalisation"),
    "normalised tensor": (torch.from_numpy((SCALED - 0.5) / 0.2).permute(2, 0, 1), "undo the normalisation"),
    "floats of 16 bits": (PHOTO.astype(np.float32) * 257, "its values go up to 65535"),
    "negative": (PHOTO.astype(np.int16) - 128, "from -128 to 127"),
    "no numbers": (np.full((4, 4, 3), np.nan), "replace what is not a number"),
    "words": (np.array(["a", "b"]), "convert it to numbers"),
    "complex": (PHOTO.astype(np.complex64), "convert it to numbers"),
    "complex tensor": (torch.zeros(4, 4, 3, dtype=torch.complex64), "convert it to numbers"),
    "an encoded picture": (np.zeros(500, np.uint8), r"image\.tobytes\(\)"),
    "one number": (np.uint8(3), "one RGB image is wanted"),
    "five axes": (PHOTO[None, None], "one RGB image is wanted"),
    "a tensor without values": (torch.zeros(4, 4, 3, dtype=torch.uint8, device="meta"), "cannot be copied to the host"),
    "gradients": (torch.rand(3, 4, 4, requires_grad=True), r"\(image\.permute\(1, 2, 0\) \* 255\)"),
    "none": (None, "OpenCV gives it"),
    "list of arrays": ([PHOTO, PHOTO], "segment_many"),
    "lists of numbers": (PHOTO[:2, :2].tolist(), r"np\.array\(image, np\.uint8\)"),
    "dictionary": ({"image": PHOTO}, "one of its values"),
    "object": (object(), "pass a path, a PIL image or a uint8 array"),
    "address": ("https://example.org/a.jpg", "download it"),
    "data in an address": ("data:image/png;base64," + "A" * 9999, "b64decode"),
    "base64": ("A" * 9999, "cannot be opened .*too long|no file"),
    "pattern": ("photos/*.jpg", "glob"),
    "home": ("~/a.jpg", "expanduser"),
    "nothing": ("", "no file"),
    "no bytes": (b"", "is empty"),
    "bytes of no picture": (b"hello " * 99, r"np\.frombuffer"),
    "text file": (io.StringIO("hello"), "open it in binary"),
    "empty file": (io.BytesIO(), "is empty"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_image_is_told_so(case):
    given, words = ODD[case]
    message = refusal(given)
    assert re.search(words, message)
    assert len(message) < 700


class Unwilling:
    """Like an array of a GPU library, which wants its own way to the host."""

    shape, dtype = (4, 4, 3), np.dtype(np.uint8)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("use .get()")


def test_arrays_that_will_not_be_copied():
    assert "use .get()" in refusal(Unwilling())


FOREIGN = {
    "NumPy": (b"\x93NUMPY\x01\x00", "np.load"),
    "HEIC": (b"\0\0\0\x18ftypheic", "pillow-heif"),
    "video": (b"\0\0\0\x18ftypisom", "pass its frames"),
    "FITS": (b"SIMPLE  =                    T", "a FITS file"),
    "OpenEXR": (b"\x76\x2f\x31\x01\2\0\0\0", "tone-map"),
    "JPEG XL": (b"\xff\x0a\xfa\x1f", "JPEG XL"),
    "PDF": (b"%PDF-1.7\n", "render its pages"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "render it"),
    "web page": (b"<!DOCTYPE html><html>", "download the picture itself"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "zip": (b"PK\x03\x04", "unpack it"),
    "DDS": (b"DDS |\0\0\0", "DirectDraw"),
    "TIFF without tags": (b"II*\0\x08\0\0\0\xff\xff", "copy or download it again"),
    "TIFF cut short": (b"II*\0", "copy or download it again"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_other_files_are_named(tmp_path, case):
    content, words = FOREIGN[case]
    path = tmp_path / "a.jpg"
    path.write_bytes(content + bytes(200) if case != "TIFF cut short" else content)
    assert words in refusal(path)


def encoded():
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "PNG")
    return buffer


def spooled(content):
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115 (the test closes it)
    file.write(content)
    return file


class Stream(io.RawIOBase):
    """Bytes that come once, as from a network."""

    def __init__(self, content):
        self._rest = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._rest.readinto(buffer)


class Reader:
    """The least of a file."""

    def __init__(self, content):
        self._content = content

    def read(self):
        return self._content


ENCODED = {
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "BytesIO at its end": lambda path: encoded(),
    "file": lambda path: path.open("rb"),
    "spooled": lambda path: spooled(path.read_bytes()),
    "stream": lambda path: Stream(path.read_bytes()),
    "reader": lambda path: Reader(path.read_bytes()),
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "path of bytes": lambda path: bytes(path),
    "path of str": str,
    "memoryview of pixels": lambda path: memoryview(PHOTO),
}


@pytest.mark.parametrize("case", ENCODED)
def test_files_that_are_open_and_bytes(tmp_path, case):
    path = tmp_path / "a.png"
    path.write_bytes(encoded().getvalue())
    given = ENCODED[case](path)
    np.testing.assert_array_equal(read_image(given), PHOTO)
    if hasattr(given, "close"):
        given.close()


def test_files_that_are_closed(tmp_path):
    closed = io.BytesIO(encoded().getvalue())
    closed.close()
    assert "is closed" in refusal(closed)
    with tempfile.NamedTemporaryFile("w+", dir=tmp_path) as text:
        assert "open it in binary" in refusal(text)


@pytest.fixture(scope="module")
def engine():
    return segfast.Engine(tiny_model(), device="cpu")


WINDOWS = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
GIVEN = {
    "list": list(WINDOWS),
    "tuple": tuple(WINDOWS),
    "tensor": torch.from_numpy(WINDOWS.copy()),
    "list of tensors": list(torch.from_numpy(WINDOWS.copy())),
    "list of PIL images": [Image.fromarray(window) for window in WINDOWS],
    "not contiguous": np.ascontiguousarray(WINDOWS[:, :, ::-1])[:, :, ::-1],
}


@pytest.mark.parametrize("case", GIVEN)
def test_windows_of_any_kind(engine, case):
    np.testing.assert_array_equal(engine.run(GIVEN[case]), engine.run(WINDOWS))


NO_WINDOWS = {
    "one": (WINDOWS[0], r"windows\[None\]"),
    "CHW": (WINDOWS.transpose(0, 3, 1, 2), r"windows\.transpose\(0, 2, 3, 1\)"),
    "CHW tensor": (torch.from_numpy(WINDOWS.copy()).permute(0, 3, 1, 2), r"windows\.permute\(0, 2, 3, 1\)"),
    "RGBA": (np.concatenate([WINDOWS, WINDOWS[..., :1]], -1), r"windows\[\.\.\., :3\]"),
    "floats": (WINDOWS / 255, r"\(windows \* 255\)"),
    "int64": (WINDOWS.astype(np.int64), r"windows\.astype\('uint8'\)"),
    "another size": (WINDOWS[:, :60], "cut at least one"),
    "none": (WINDOWS[:0], "at least one"),
    "no list": ([], "empty list"),
    "list of another size": ([WINDOWS[0], WINDOWS[0, :60]], "window 1 of the list has 60×64"),
    "list of floats": ([WINDOWS[0] / 255], r"\(image \* 255\)"),
    "PIL image": (Image.fromarray(WINDOWS[0]), "a list of images; got Image"),
    "nothing": (None, "got NoneType"),
}


@pytest.mark.parametrize("case", NO_WINDOWS)
def test_windows_that_are_refused(engine, case):
    given, words = NO_WINDOWS[case]
    with pytest.raises(BadImage, match=words):
        engine.run(given)


ONE = {
    "folder": ("photos", r"sorted\(Path\('photos'\)\.glob"),
    "folder as path": (Path("photos"), "photos is a folder"),
    "file": ("photos/a.png", r"\['photos/a\.png'\]"),
    "pattern": ("photos/*.png", r"glob\.glob\('photos/\*\.png'\)"),
    "array": (PHOTO, r"ndarray \[48, 64, 3\] is one; pass a list"),
    "grey": (GREY, "pass a list"),
    "tensor": (torch.from_numpy(CHW), "Tensor .* pass a list"),
    "PIL image": (Image.fromarray(PHOTO), "pass a list"),
    "bytes": (b"123", "pass a list"),
    "open file": (io.BytesIO(), "pass a list"),
    "dictionary": ({"a": PHOTO}, r"list\(images\.values\(\)\)"),
    "none": (None, "NoneType is no list"),
    "number": (5, "int is no list"),
}


@pytest.mark.parametrize("case", ONE)
def test_one_image_is_no_list(engine, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(encoded().getvalue())
    given, words = ONE[case]
    with pytest.raises(BadOption, match=words):  # before the first answer is asked for
        engine.segment_many(given)


class Old:
    """A sequence of the old kind, as datasets are."""

    def __getitem__(self, index):
        if index:
            raise IndexError
        return PHOTO


MANY = {
    "batch": PHOTO[None],
    "generator": (image for image in [PHOTO]),
    "paths": np.array(["a.png"]),
    "old": Old(),
    "set": {"a.png"},
}


@pytest.mark.parametrize("case", MANY)
def test_anything_that_gives_images_is_a_list(engine, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(encoded().getvalue())
    (answer,) = engine.segment_many(MANY[case])
    np.testing.assert_array_equal(answer.image, PHOTO)


def test_numbers_of_numpy_are_numbers(engine):
    wanted = engine.segment(PHOTO, stride=32, fit=(100, 64)).labels
    for fit in ((np.int64(100), np.uint8(64)), [100, 64], np.array([100, 64])):
        np.testing.assert_array_equal(engine.segment(PHOTO, stride=np.uint8(32), fit=fit).labels, wanted)
    segfast.Engine(tiny_model(), device="cpu", threads=np.int64(1))
    with pytest.raises(BadOption, match=r"\(100, 100\)"):
        engine.segment(PHOTO, fit=100)
