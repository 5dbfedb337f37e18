"""One rule for the versions of our files: what an older reader must not overlook raises the number, nothing else does.

A file has format 1, the first, unless it sets a field whose neglect would change what the model computes; then it has
the format that brought the field. A field that has its neutral value is not written, so files of plain models stay
what they were, byte for byte. A reader refuses what it does not know, save the names that the file itself lists under
`ignorable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from segfast.errors import BadModel
from segfast.values import is_whole

IGNORABLE = "ignorable"
NEWER = "open it with a newer segfast, or have it written again by one of this age"


class Late(NamedTuple):
    """A field that came after format 1.

    Attributes:
        since: the format that brought it.
        neutral: the value with which a model is what it is without the field.
        first: values that format 1 has already; they are written as ever.
    """

    since: int
    neutral: object
    first: tuple[object, ...] = ()

    def plain(self, value: object) -> bool:
        """Whether format 1 says enough of this value."""
        return value == self.neutral or value in self.first


# Every field that came after format 1 and must not be overlooked, by its dotted name. Of the metadata in `.safetensors`
# and `.onnx` files (`protocol.window` would be one of its names), and of the sidecar of `.engine` files.
METADATA: Mapping[str, Late] = MappingProxyType({
    "protocol.fit": Late(2, None),
    "layer_scale": Late(2, False),
    "registers": Late(2, 0),
    "class_token": Late(2, True),
    "patch_positions": Late(2, False),
    "position_antialias": Late(2, False),
    "rope": Late(2, False),
    "rope_temperature": Late(2, 100.0),
    "qkv_bias": Late(2, True),
    "mlp": Late(2, "gelu"),
    "hidden": Late(2, 0),
    "merge": Late(2, None),
    "precision": Late(2, None, ("fp16", "fp32")),
})  # fmt: skip
SIDECAR: Mapping[str, Late] = MappingProxyType({})


def sidecar() -> dict[str, Late]:
    """The late fields of a sidecar: its own, and those of the model it describes."""
    return {**SIDECAR, **{f"model.{name}": field for name, field in METADATA.items()}}


def newest(late: Mapping[str, Late]) -> int:
    """The newest format that is read here."""
    return max((field.since for field in late.values()), default=1)


def stamped(values: Mapping[str, object], late: Mapping[str, Late]) -> dict[str, object]:
    """The values as they are written: the lowest `format` that says enough comes first, neutral late fields are left out."""
    version, plain = 1, _copied(values)
    for name, field in late.items():
        section, key = _place(plain, name)
        if section.get(key, field.neutral) == field.neutral:
            section.pop(key, None)
        elif not field.plain(section[key]):
            version = max(version, field.since)
    return {"format": version, **plain}


def check_version(version: object, late: Mapping[str, Late], source: str) -> None:
    """See that a file's format is one that is read here.

    Raises:
        BadModel: it is newer.
        ValueError: it is no format at all.
    """
    if not is_whole(version) or version < 1:
        raise ValueError(f"format {version!r}")
    if version > newest(late):
        raise newer(version, late, source)


def newer(version: int, late: Mapping[str, Late], source: str) -> BadModel:
    """The error for a format that came later."""
    return BadModel(f"{source} has format {version}; this segfast reads up to {newest(late)}: {NEWER}")


def check_fields(
    values: Mapping[str, Any], known: Mapping[str, Iterable[str]], late: Mapping[str, Late], source: str
) -> None:
    """See that nothing in a file goes unread, and that its format says what it holds.

    Args:
        values: the file's object, of a format that is read here.
        known: names that may occur, by the section they are in; the object itself is the section "".

    Raises:
        BadModel: there is a field that is neither known nor listed as ignorable, or one of a later format.
    """
    skipped = set(map(str, values.get(IGNORABLE, ())))
    found = [
        f"{section}.{name}" if section else name
        for section, names in known.items()
        for name in _section(values, section)
        if name not in names and name not in ("format", IGNORABLE)
    ]
    unknown = [name for name in found if name not in skipped]
    if unknown:
        raise BadModel(
            f"{source} has {', '.join(unknown[:5])}, which this segfast does not know and may not ignore: {NEWER}"
        )
    for name, field in late.items():
        section, key = _place(values, name)
        if not field.plain(section.get(key, field.neutral)) and values["format"] < field.since:
            raise BadModel(
                f"{source} sets {name} but has format {values['format']}, not {field.since}; export or save it again"
            )


def without_ignored(values: Mapping[str, object], known: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The values without what `check_fields` has let pass unread."""
    plain = _copied(values)
    plain.pop(IGNORABLE, None)
    for section, names in known.items():
        part = _section(plain, section)
        for name in [name for name in part if name not in names and name != "format"]:
            del part[name]
    return plain


def _section(values: Mapping[str, object], name: str) -> Any:
    """The object at a dotted name; the whole for no name."""
    part: Any = values
    for key in name.split(".") if name else ():
        part = part[key]
    return part


def _place(values: Mapping[str, object], name: str) -> tuple[Any, str]:
    """The section that a dotted name lies in, and the name there."""
    section, _, key = name.rpartition(".")
    return _section(values, section), key


def _copied(values: Mapping[str, object]) -> dict[str, Any]:
    """A copy whose sections may be changed."""
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}
