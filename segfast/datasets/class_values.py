"""Class lists in YAML and JSON: Ultralytics', COCO's, and plain ones."""

from __future__ import annotations

import json
from pathlib import Path

from segfast.datasets.class_entry import Entry, colour_of
from segfast.dependencies.imports import load
from segfast.errors import BadData


def from_yaml(text: str, path: Path) -> list[Entry]:
    """What a YAML file lists.

    Raises:
        BadData: it is not YAML, or an item is not a class.
        MissingRuntime: PyYAML is not installed.
    """
    yaml = load("yaml", "PyYAML", "pyyaml")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadData(f"{path} is no YAML ({str(error).splitlines()[0]}); mend it") from None
    return _from_values(values, path)


def from_json(text: str, path: Path) -> list[Entry]:
    """What a JSON file lists.

    Raises:
        BadData: it is not JSON, or an item is not a class.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path} is no JSON ({error}); mend it") from None
    return _from_values(values, path)


def _from_values(values: object, path: Path) -> list[Entry]:
    """Ultralytics' `names`, a list or a table by index; COCO's `categories`; or a plain list of names."""
    if isinstance(values, dict):
        values = next((values[key] for key in ("names", "categories", "classes", "labels") if key in values), values)
    if isinstance(values, dict):
        values = [{"id": key, "name": name} for key, name in values.items()]
    entries = []
    for item in values if isinstance(values, list) else ():
        try:
            entries.append(_from_value(item))
        except (KeyError, TypeError, ValueError):
            raise BadData(f"{path}: {item!r} is no class; give it an id and a name") from None
    return entries


def _from_value(item: object) -> Entry:
    if isinstance(item, dict):
        colour = item.get("color", item.get("colour"))
        parts = colour_of(" ".join(map(str, colour)) if isinstance(colour, list) else str(colour or ""))
        return Entry(str(item["name"]), int(item["id"]) if "id" in item else None, parts)
    if isinstance(item, (str, int)) and str(item).strip():
        return Entry(str(item).strip())
    raise TypeError(item)
