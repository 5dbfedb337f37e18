"""Arrays and tensors as images: those that are accepted, and the expression that converts any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from segfast.errors import BadImage

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]


class Array(Protocol):
    """An array or tensor of any library."""

    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def dtype(self) -> object: ...  # noqa: D102


def is_array(thing: object) -> TypeGuard[Array]:
    """Whether it is an array or tensor of some library."""
    return hasattr(thing, "shape") and hasattr(thing, "dtype")


def check_array(image: Array) -> Pixels:
    """A copy of an image [H, W, 3], uint8, on the host: the caller may reuse the buffer.

    Raises:
        BadImage: its shape or dtype is another; the message has the expression that converts it.
    """
    found = _Form.of(image)
    if found.dtype == "uint8" and len(found.shape) == 3 and found.shape[2] == 3:
        if 0 in found.shape:
            raise BadImage(f"the image has no pixels ({list(found.shape)}); give it at least one")
        return _to_host(image)
    shape = list(found.shape)
    if found.dtype == "uint8":
        raise BadImage(f"the image must have the shape [H, W, 3], not {shape}; {_shape_remedy(found)}")
    if len(shape) == 3 and shape[2] == 3:
        wanted, got = "uint8 RGB with values 0 … 255", found.dtype
    else:
        wanted, got = "uint8 RGB [H, W, 3]", f"{found.dtype} {shape}"
    raise BadImage(
        f"the image must be {wanted}, not {got} (no normalisation: the model does that); {_dtype_remedy(image, found)}"
    )


def check_windows(windows: Array, size: tuple[int, int]) -> Pixels:
    """A copy of windows [n, H, W, 3], uint8, of that size, on the host.

    Raises:
        BadImage: there are none, or their shape or dtype is another.
    """
    found, wanted = _Form.of(windows), (*size, 3)
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


class _Form(NamedTuple):
    """An array's dtype, shape and library, `np` or `torch`."""

    dtype: str
    shape: tuple[int, ...]
    library: str

    @classmethod
    def of(cls, array: Array) -> _Form:
        try:
            shape = tuple(int(side) for side in array.shape)
        except (TypeError, ValueError):
            raise BadImage(f"the shape {array.shape} is not known; pass a uint8 array [H, W, 3]") from None
        text = str(array.dtype)
        name = getattr(array.dtype, "name", None) or text.removeprefix("torch.")
        return cls(str(name), shape, "torch" if text.startswith("torch.") else "np")


def _to_host(array: Array) -> Pixels:
    """A copy as a NumPy array."""
    try:
        if str(array.dtype).startswith("torch."):
            array = cast("Tensor", array).detach().cpu().numpy()
        return np.array(array, np.uint8)
    except MemoryError:
        raise BadImage("the image does not fit in memory; make it smaller") from None
    except Exception as error:  # each library raises its own
        raise BadImage(
            f"{type(array).__name__} cannot be copied to the host ({error}); pass a NumPy array, "
            "such as cupy.asnumpy(image) or image.cpu() give"
        ) from None


def _shape_remedy(found: _Form) -> str:
    shape = found.shape
    if len(shape) == 4:
        rgb = _as_rgb("images", shape, found.library, lead=1)[0]
        return f"one RGB image, without a batch axis, is wanted: pass {rgb}[0], or segment_many({rgb}) for all of them"
    if len(shape) == 1:
        return "if it holds an encoded picture, pass image.tobytes(); if it holds pixels, image.reshape(H, W, 3)"
    if len(shape) not in (2, 3):
        return "one RGB image is wanted"
    expression, words = _as_rgb("image", shape, found.library)
    return f"{words}: {expression}"


def _as_rgb(name: str, shape: tuple[int, ...], library: str, lead: int = 0) -> tuple[str, str]:
    """(an expression that makes an image RGB with channels last, what it does in words), after `lead` batch axes."""
    own = shape[lead:]
    if len(own) == 2:
        return f"{library}.stack([{name}] * 3, -1)", "repeat grey three times"
    if len(own) != 3 or own[2] == 3:
        return name, "pass it"
    if own[0] == 3 or own[0] <= 4 < own[2]:  # channels first
        axes = ", ".join(map(str, (*range(lead), lead + 1, lead + 2, lead)))
        permuted = f"{name}.{'permute' if library == 'torch' else 'transpose'}({axes})"
        return _as_rgb(permuted, (*shape[:lead], own[1], own[2], own[0]), library, lead)[0], f"permute it with ({axes})"
    if own[2] in (1, 2):
        return f"{name}[..., [0, 0, 0]]", "repeat grey three times"
    if own[2] == 4:
        return f"{name}[..., :3]", "leave out the fourth channel"
    return f"{name}[..., [0, 1, 2]]", "choose the three channels that are red, green and blue"


def _dtype_remedy(image: Array, found: _Form, name: str = "image") -> str:
    """How to convert an array of another dtype to bytes, by its dtype and its values."""
    lead = int(len(found.shape) == 4)
    rgb = _as_rgb(name, found.shape, found.library, lead)[0] if len(found.shape) in (2, 3, 4) else name
    to_uint8 = ".to(torch.uint8)" if found.library == "torch" else ".astype('uint8')"
    lowest, highest = _range_of(image, found)
    if found.dtype == "bool":
        return f"pass {rgb}{to_uint8} * 255"
    if found.dtype.startswith(("float", "bfloat")):
        return _float_remedy(rgb, to_uint8, lowest, highest)
    if not found.dtype.startswith(("int", "uint")):
        return f"convert it to numbers from 0 to 255, and those with {to_uint8[1:]}"
    if lowest < 0:
        return f"its values go from {lowest:g} to {highest:g}: scale them to 0 … 255, then {to_uint8[1:]}"
    if highest <= 255:
        return f"its values are bytes already: pass {rgb}{to_uint8}"
    bits = 12 if highest < 4096 else 16 if highest < 65536 else int(highest).bit_length()
    wide = f"{rgb}.int()" if found.library == "torch" and found.dtype == "uint16" else rgb
    return f"if its values have {bits} bits, pass ({wide} >> {bits - 8}){to_uint8}"


def _float_remedy(rgb: str, to_uint8: str, lowest: float, highest: float) -> str:
    if lowest < 0:
        return (
            f"undo the normalisation (values from {lowest:.3g} to {highest:.3g}), scale to 0 … 255, then {to_uint8[1:]}"
        )
    if highest > 255:
        return f"its values go up to {highest:g}: scale them to 0 … 255, then {to_uint8[1:]}"
    scaled = f"{rgb}.round()" if highest > 1 else f"({rgb} * 255).round()"
    missing = "" if lowest == lowest else "replace what is not a number, then "
    return f"{missing}convert it, for example {scaled}.clip(0, 255){to_uint8}"


def _range_of(image: Array, found: _Form) -> tuple[float, float]:
    """(least, largest) of its values; zeros if they are unknown."""
    if found.dtype.startswith("complex"):
        return 0.0, 0.0
    try:
        values = cast("Tensor", image)  # or an array of NumPy's kind, which has min and max as well
        if found.library == "torch":
            values = values.detach().double()
        return float(values.min()), float(values.max())
    except Exception:  # no values, none on this machine, or no numbers
        return 0.0, 0.0
