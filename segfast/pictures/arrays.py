"""Arrays and tensors as images: what is taken, and how anything else becomes that."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segfast.errors import BadImage

Pixels = NDArray[np.uint8]


def is_array(thing: Any) -> bool:
    """Whether it is an array or tensor of some library."""
    return hasattr(thing, "shape") and hasattr(thing, "dtype")


def check_array(image: Any) -> Pixels:
    """A copy of an image [H, W, 3], uint8, on the host: the caller may reuse the buffer.

    Raises:
        BadImage: it is of another shape or dtype; the message has the expression that mends it.
    """
    found = _Found.of(image)
    if found.dtype == "uint8" and len(found.shape) == 3 and found.shape[2] == 3:
        if 0 in found.shape:
            raise BadImage(f"the image has no pixels ({list(found.shape)}); give it at least one")
        return _to_host(image)
    shape = list(found.shape)
    if found.dtype == "uint8":
        raise BadImage(f"the image must have the shape [H, W, 3], not {shape}; {_shape_remedy(found)}")
    told = "uint8 RGB with values 0 … 255" if len(shape) == 3 and shape[2] == 3 else "uint8 RGB [H, W, 3]"
    got = found.dtype if told.endswith("255") else f"{found.dtype} {shape}"
    raise BadImage(
        f"the image must be {told}, not {got} (no normalisation: the model does that); {_dtype_remedy(image, found)}"
    )


def check_windows(windows: Any, size: tuple[int, int]) -> Pixels:
    """A copy of windows [n, H, W, 3], uint8, of that size, on the host.

    Raises:
        BadImage: they are of another shape or dtype, or none.
    """
    found, wanted = _Found.of(windows), (*size, 3)
    if found.dtype == "uint8" and len(found.shape) == 4 and found.shape[1:] == wanted and found.shape[0]:
        return _to_host(windows)
    if found.dtype != "uint8":
        remedy = _dtype_remedy(windows, found, "windows")
    elif found.shape == wanted:
        remedy = "put the one window into a batch: windows[None]"
    elif len(found.shape) == 4 and found.shape[0] and found.shape[3] != 3:
        remedy = f"pass {_as_rgb('windows', found.shape, found.library, lead=1)[0]}"
    else:
        remedy = "cut at least one window of that size (segment takes pictures of any size)"
    raise BadImage(f"windows must be uint8 {['n', *wanted]}; got {found.dtype} {list(found.shape)}; {remedy}")


class _Found(NamedTuple):
    """What an array is: the name of its dtype, its shape, and whose it is, `np` or `torch`."""

    dtype: str
    shape: tuple[int, ...]
    library: str

    @classmethod
    def of(cls, array: Any) -> _Found:
        try:
            shape = tuple(int(side) for side in array.shape)
        except (TypeError, ValueError):
            raise BadImage(f"the shape {array.shape} is not known; pass a uint8 array [H, W, 3]") from None
        text = str(array.dtype)
        name = getattr(array.dtype, "name", None) or text.removeprefix("torch.")
        return cls(str(name), shape, "torch" if text.startswith("torch.") else "np")


def _to_host(array: Any) -> Pixels:
    """A copy as NumPy's array."""
    try:
        if str(array.dtype).startswith("torch."):
            array = array.detach().cpu().numpy()
        return np.array(array, np.uint8)
    except MemoryError:
        raise BadImage("the image does not fit in memory; make it smaller") from None
    except Exception as error:  # of whatever library it comes from
        raise BadImage(
            f"{type(array).__name__} cannot be copied to the host ({error}); pass a NumPy array, "
            "such as cupy.asnumpy(image) or image.cpu() give"
        ) from None


def _shape_remedy(found: _Found) -> str:
    shape = found.shape
    if len(shape) == 4:
        rgb = _as_rgb("images", shape, found.library, lead=1)[0]
        several = f"pass {rgb}[0], or segment_many({rgb}) for every one of them"
        return f"one RGB image, without a batch axis, is wanted: {several}"
    if len(shape) == 1:
        return "if it holds an encoded picture, pass image.tobytes(); if it holds pixels, image.reshape(H, W, 3)"
    if len(shape) not in (2, 3):
        return "one RGB image is wanted"
    expression, words = _as_rgb("image", shape, found.library)
    return f"{words}: {expression}"


def _as_rgb(name: str, shape: tuple[int, ...], library: str, lead: int = 0) -> tuple[str, str]:
    """(an expression that makes an image RGB with channels last, what it does in words), behind `lead` batch axes."""
    own = shape[lead:]
    if len(own) == 2:
        return f"{library}.stack([{name}] * 3, -1)", "repeat grey three times"
    if len(own) != 3 or own[2] == 3:
        return name, "pass it"
    first = own[0] == 3 or own[0] <= 4 < own[2]
    if own[2] in (1, 2) and not first:
        return f"{name}[..., [0, 0, 0]]", "repeat grey three times"
    if own[2] == 4 and not first:
        return f"{name}[..., :3]", "leave out the fourth channel"
    if first:
        axes = ", ".join(map(str, (*range(lead), lead + 1, lead + 2, lead)))
        permuted = f"{name}.{'permute' if library == 'torch' else 'transpose'}({axes})"
        return _as_rgb(permuted, (*shape[:lead], own[1], own[2], own[0]), library, lead)[0], f"permute it with ({axes})"
    return f"{name}[..., [0, 1, 2]]", "choose the three channels that are red, green and blue"


def _dtype_remedy(image: Any, found: _Found, name: str = "image") -> str:
    """How an array of another dtype becomes bytes, by its dtype and the values it has."""
    lead = int(len(found.shape) == 4)
    rgb = _as_rgb(name, found.shape, found.library, lead)[0] if len(found.shape) in (2, 3, 4) else name
    cast = ".to(torch.uint8)" if found.library == "torch" else ".astype('uint8')"
    lowest, highest = _range_of(image, found)
    if found.dtype == "bool":
        return f"pass {rgb}{cast} * 255"
    if found.dtype.startswith(("float", "bfloat")):
        return _float_remedy(rgb, cast, lowest, highest)
    if not found.dtype.startswith(("int", "uint")):
        return f"convert it to numbers from 0 to 255, and those with {cast[1:]}"
    if lowest < 0:
        return f"its values go from {lowest:g} to {highest:g}: scale them to 0 … 255, then {cast[1:]}"
    if highest <= 255:
        return f"its values are bytes already: pass {rgb}{cast}"
    bits = 12 if highest < 4096 else 16 if highest < 65536 else int(highest).bit_length()
    wide = f"{rgb}.int()" if found.library == "torch" and found.dtype == "uint16" else rgb
    return f"if its values have {bits} bits, pass ({wide} >> {bits - 8}){cast}"


def _float_remedy(rgb: str, cast: str, lowest: float, highest: float) -> str:
    if lowest < 0:
        return f"undo the normalisation (values from {lowest:.3g} to {highest:.3g}), scale to 0 … 255, then {cast[1:]}"
    if highest > 255:
        return f"its values go up to {highest:g}: scale them to 0 … 255, then {cast[1:]}"
    scaled = f"{rgb}.round()" if highest > 1 else f"({rgb} * 255).round()"
    missing = "" if lowest == lowest else "replace what is not a number, then "
    return f"{missing}convert it, for example {scaled}.clip(0, 255){cast}"


def _range_of(image: Any, found: _Found) -> tuple[float, float]:
    """(least, largest) of its values; zeros where that cannot be told."""
    if found.dtype.startswith("complex"):
        return 0.0, 0.0
    try:
        values = image.detach().double() if found.library == "torch" else image
        return float(values.min()), float(values.max())
    except Exception:  # no values, none in reach, or no numbers
        return 0.0, 0.0
