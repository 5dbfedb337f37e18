"""How files were read before any field came after format 1: what must keep working, and what must refuse newer files.

A copy of that reader's decisions, which is never changed: it drops names that it does not know.
"""

import hashlib
import json

FORMAT = 1
PROTOCOL = ("mean", "std", "window", "stride", "small_windows", "crop_padding")
CONFIG = (
    "name",
    "patch",
    "width",
    "depth",
    "heads",
    "decoder",
    "num_classes",
    "image_size",
    "protocol",
    "classes",
    "palette",
    "decoder_depth",
    "distilled",
    "encoder_eps",
    "decoder_eps",
    "position_mode",
    "encoder_dropout",
    "decoder_dropout",
    "drop_path",
    "provenance",
)


class Refused(Exception):
    """A file of a newer format, or a damaged one."""


def from_json(text):
    """(the Config's fields, the other entries) of metadata."""
    values = json.loads(text)
    version = values.pop("format")
    if version > FORMAT:
        raise Refused(f"format {version}")
    more = {key: values.pop(key) for key in list(values) if key not in CONFIG}
    if set(values["protocol"]) - set(PROTOCOL):
        raise Refused("damaged")  # a dataclass takes no other names
    return values, more


def read_sidecar(text):
    """The values of an engine's sidecar, of which it looks at those that it knows."""
    values = json.loads(text)
    if values["format"] > FORMAT:
        raise Refused(f"format {values['format']}")
    seal = values.pop("seal")
    if hashlib.sha256((json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()).hexdigest() != seal:
        raise Refused("damaged")
    from_json(json.dumps(values["model"]))
    return values
