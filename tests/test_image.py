import io
import os
import pickle
import signal
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from segfast import image as images
from segfast.errors import BadImage
from segfast.image import read_image
from segfast.pictures import decoding
from segfast.pictures.samples import SamplesWarning


def saved(tmp_path, picture, name, **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.fixture
def rgb(photo):
    return Image.fromarray(photo)


def test_paths_pictures_arrays_and_tensors_agree(tmp_path, photo, rgb):
    path = saved(tmp_path, rgb, "a.png")
    for given in (path, str(path), rgb, photo, torch.from_numpy(photo.copy()), photo[::1]):
        np.testing.assert_array_equal(read_image(given), photo)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm", "tga", "jp2"])
def test_lossless_formats(tmp_path, photo, rgb, suffix):
    path = saved(tmp_path, rgb, f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(read_image(path), photo)


def test_the_content_decides_not_the_name(tmp_path, photo, rgb):
    path = saved(tmp_path, rgb, "a.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(path), photo)


def test_grey_palette_and_bilevel(tmp_path, rgb):
    grey = rgb.convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, 2)
    np.testing.assert_array_equal(read_image(saved(tmp_path, grey, "l.png")), expected)
    palette = rgb.convert("P")
    np.testing.assert_array_equal(read_image(saved(tmp_path, palette, "p.png")), np.asarray(palette.convert("RGB")))
    bilevel = grey.convert("1")
    assert set(np.unique(read_image(saved(tmp_path, bilevel, "b.png")))) == {0, 255}


def test_transparency_is_dropped_as_the_original_does(tmp_path, photo, rgb):
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.arange(60 * 90, dtype=np.uint8).reshape(60, 90)))
    np.testing.assert_array_equal(read_image(saved(tmp_path, rgba, "a.png")), photo)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_keeps_its_upper_byte(tmp_path, suffix):
    values = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    read = read_image(saved(tmp_path, Image.fromarray(values), f"a.{suffix}"))
    np.testing.assert_array_equal(read, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2))


def test_float_tiffs_are_bytes(tmp_path):
    values = np.array([[0, 1.5, 255], [300, -4, np.nan]], np.float32)
    with pytest.warns(SamplesWarning):
        read = read_image(saved(tmp_path, Image.fromarray(values), "a.tiff"))
    np.testing.assert_array_equal(read[..., 0], [[0, 1, 255], [255, 0, 0]])


def test_cmyk(tmp_path, rgb):
    path = saved(tmp_path, rgb.convert("CMYK"), "a.jpg", quality=95)
    assert np.abs(read_image(path).astype(int) - np.asarray(rgb)).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, photo, orientation):
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(photo)
    stored = stored.transpose(back[orientation]) if orientation in back else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, stored, "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), photo)


def test_odd_exif_tags_do_not_matter(tmp_path, photo):
    """An orientation beside a width that is a word, which Pillow cannot write back."""
    entries = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0") + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + bytes(4)
    path = saved(tmp_path, Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90), "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), photo)


def test_animations_give_their_first_frame(tmp_path, photo, rgb):
    other = Image.fromarray(255 - photo)
    path = saved(tmp_path, rgb.convert("P"), "a.gif", save_all=True, append_images=[other.convert("P")])
    assert (
        np.abs(read_image(path).astype(int) - photo).mean()
        < np.abs(read_image(path).astype(int) - (255 - photo)).mean()
    )


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (8193, 8192)), "bomb.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="64 megapixels"):
        read_image(path)


def test_the_largest_bombs_are_refused_too(tmp_path):
    path = saved(tmp_path, Image.new("1", (20000, 20000)), "bomb.png")
    with pytest.raises(BadImage, match="64 megapixels"):
        read_image(path)


def test_the_limit_itself_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 60 * 90)
    assert read_image(saved(tmp_path, Image.new("L", (90, 60)), "a.png")).shape == (60, 90, 3)


def test_no_decoder_that_runs_programs(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(BadImage, match="no picture in a format that is read"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated_files(tmp_path, rgb, form, share):
    buffer = io.BytesIO()
    rgb.save(buffer, form)
    (tmp_path / "a").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(BadImage, match=r"copy or download it again|convert it"):
        read_image(tmp_path / "a")


def fuzzed_files(rgb):
    """Five small files of the formats most in use."""
    files = []
    for form, options in (("PNG", {}), ("JPEG", {"icc_profile": bytes(200)}), ("WEBP", {}), ("TIFF", {}), ("GIF", {})):
        buffer = io.BytesIO()
        rgb.save(buffer, form, **options)
        files.append(buffer.getvalue())
    return files


@pytest.mark.filterwarnings("ignore")
def test_2000_mutations_give_a_picture_or_a_typed_error(tmp_path, rgb):
    """Bytes changed anywhere, headers more often: nothing else may come out, and nothing may hang."""
    random, outcomes, slowest = np.random.default_rng(0), {"picture": 0, "refused": 0}, 0.0
    for content in fuzzed_files(rgb.resize((45, 30))):
        for _ in range(400):
            mutated = bytearray(content)
            for at in (*random.integers(0, len(content), 3), *random.integers(0, min(64, len(content)), 2)):
                mutated[at] = random.integers(256)
            (tmp_path / "a").write_bytes(mutated)
            start = time.monotonic()
            try:
                pixels = read_image(tmp_path / "a")
                assert pixels.dtype == np.uint8
                assert pixels.ndim == 3
                outcomes["picture"] += 1
            except BadImage:
                outcomes["refused"] += 1
            slowest = max(slowest, time.monotonic() - start)
    assert min(outcomes.values()) > 100
    assert slowest < 2


def test_corrupt_profiles_do_not_matter(tmp_path, photo, rgb):
    path = saved(tmp_path, rgb, "a.png", icc_profile=b"no profile at all", exif=b"Exif\x00\x00garbage")
    np.testing.assert_array_equal(read_image(path), photo)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "GIF"])
def test_one_image_for_many_threads(tmp_path, rgb, form):
    """Pillow reads when it is first asked to, which is for one thread at a time."""
    large = rgb.resize((900, 600)).convert("P" if form == "GIF" else "RGB")
    path = saved(tmp_path, large, "a", format=form)
    wanted = read_image(path)
    for _ in range(8):
        shared, start = Image.open(path), threading.Barrier(8)

        def read(_, shared=shared, start=start):
            start.wait()
            return read_image(shared)

        with ThreadPoolExecutor(8) as pool:
            assert all((pixels == wanted).all() for pixels in pool.map(read, range(8)))


def test_one_file_for_many_threads(photo, rgb):
    buffer = io.BytesIO()
    rgb.save(buffer, "PNG")
    with ThreadPoolExecutor(8) as pool:
        assert all((pixels == photo).all() for pixels in pool.map(read_image, [buffer] * 64))


@pytest.mark.parametrize("closing", ["with", "close", "file", "verify"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM"])
def test_closed_images_are_said_to_be_closed(tmp_path, rgb, form, closing):
    path = saved(tmp_path, rgb, "a", format=form)
    with path.open("rb") as file:
        image = Image.open(file if closing == "file" else path)
        if closing == "with":
            with image:
                pass
        elif closing != "file":
            getattr(image, closing)()
    with pytest.raises(BadImage, match=r"was closed before its pixels were read.*with block.*path"):
        read_image(image)


def test_an_image_that_was_loaded_before_it_was_closed(tmp_path, photo, rgb):
    with Image.open(saved(tmp_path, rgb, "a.png")) as image:
        image.load()
    np.testing.assert_array_equal(read_image(image), photo)


HANDLED = {
    "opened": (lambda image: image, True),
    "loaded": (lambda image: image.load() and image, True),
    "thumbnail": (lambda image: image.thumbnail((45, 45)) or image, True),
    "pickled": (lambda image: pickle.loads(pickle.dumps(image)), True),
    "transposed in place": (lambda image: ImageOps.exif_transpose(image, in_place=True) or image, False),
    "transposed": (ImageOps.exif_transpose, False),
    "turned": (lambda image: image.rotate(270, expand=True), False),
    "cropped": (lambda image: image.crop((0, 0, 50, 40)), False),
    "resized": (lambda image: image.resize((50, 40)), False),
    "converted": (lambda image: image.convert("RGB"), False),
    "copied": (lambda image: image.copy(), False),
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("case", HANDLED)
def test_only_what_was_opened_is_turned(tmp_path, rgb, form, case):
    """Images that are made from a file's keep its EXIF block, but show what their maker sees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    handle, turned = HANDLED[case]
    with Image.open(saved(tmp_path, rgb, "a", format=form, exif=exif)) as image:
        given = handle(image)
        seen = np.asarray(given.convert("RGB"))
        turns = 3 if turned and form != "TIFF" else 0  # Pillow turns TIFFs when they are loaded
        np.testing.assert_array_equal(read_image(given), np.rot90(seen, turns))


def test_frames_are_taken_where_an_image_stands(tmp_path, rgb):
    second = Image.fromarray(255 - np.asarray(rgb))
    path = saved(tmp_path, rgb, "a.tiff", save_all=True, append_images=[second])
    with Image.open(path) as image:
        image.seek(1)
        np.testing.assert_array_equal(read_image(image), np.asarray(second))
        image.seek(0)
        np.testing.assert_array_equal(read_image(image), np.asarray(rgb))


MODES = ["1", "L", "P", "LA", "PA", "La", "RGBa", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]


@pytest.mark.parametrize("mode", MODES)
def test_any_mode_of_bytes(rgb, mode):
    steps = {"La": ["LA", "La"], "RGBa": ["RGBA", "RGBa"], "PA": ["P", "PA"]}.get(mode, [mode])
    image = rgb
    for step in steps:
        image = Image.merge("LAB", rgb.split()) if step == "LAB" else image.convert(step)
    back = image.convert("LA") if mode == "La" else image
    np.testing.assert_array_equal(read_image(image), np.asarray(back.convert("RGB")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # other threads of the tests are idle
def test_a_forked_child_waits_for_no_thread(photo, rgb):
    """Locks that a thread of the parent holds are held by nobody in the child."""
    with ExitStack() as held:
        for lock in images._LOCKS:
            held.enter_context(lock)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                os._exit(0 if (read_image(rgb) == photo).all() else 1)
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
