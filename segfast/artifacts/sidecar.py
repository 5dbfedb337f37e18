"""The sidecar of an `.engine` file: JSON beside the plan that says what it is.

A plan is a program for one kind of GPU and one version of the compiler, and nothing in it says so
before it runs. The sidecar does, and everything here is checked before any deserialiser sees the plan.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segfast import config as configs
from segfast import files, formats
from segfast.artifacts.golden import Golden
from segfast.artifacts.onnx import Artifact
from segfast.artifacts.plan import Nodes, Options, Plan, build_command, sidecar_path
from segfast.errors import BadModel
from segfast.values import is_whole

# What a sidecar says, by section.
_FIELDS = {
    "": ("sha256", "onnx", "version", "device", "driver", "options", "nodes", "probe", "verified", "model"),
    "onnx": ("name", "sha256"),
    "options": ("engine", "targets", "batch", "workspace", "level", "hardware", "version_compatible"),
    "nodes": ("attention", "half"),
    "probe": ("photo", "dtype", "shape", "values"),
}
_LARGEST_SIDECAR = 64 << 20


def read_plan(path: Path, trusted: bool = False) -> Plan | None:
    """What the sidecar of an engine file says; None without one, where the user vouches for the file.

    Raises:
        BadModel: the file is missing or has no sidecar, or the sidecar is damaged or of a newer format.
    """
    if not path.is_file():
        raise BadModel(f"there is no file {path}; check the path, or build it: {_guess(path)}")
    try:
        with open(sidecar_path(path), "rb") as file:
            text = file.read(_LARGEST_SIDECAR).decode()
    except FileNotFoundError:
        if trusted:
            return None
        raise BadModel(
            f"{path} has no {sidecar_path(path).name} beside it: copy that too, or build both: {_guess(path)}. "
            "An engine file is a program: open one from elsewhere with trusted=True only if you vouch for it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None
    return _parse(path, text)


@contextmanager
def publish(path: Path) -> Iterator[Callable[[Plan, bytes | memoryview], None]]:
    """What writes an engine's two files, which become visible when the block ends without an error.

    Raises:
        CannotWrite: the destination is full, read-only or missing: said when the block begins, as far as it can be.
    """
    with files.publish(sidecar_path(path)) as text, files.publish(path) as temporary:

        def write(plan: Plan, content: bytes | memoryview) -> None:
            temporary.write_bytes(content)
            text.write_text(to_text(plan), encoding="utf-8", newline="\n")

        yield write


def mark(plan: Plan) -> None:
    """Publish the sidecar of a plan with `verified` in it, unless another plan has taken its place meanwhile.

    Raises:
        BadModel: the plan or its sidecar is gone or damaged.
        CannotWrite: the destination is full or read-only.
    """
    current = read_plan(plan.path)
    if current is None or current.digest != plan.digest:
        return
    with files.publish(sidecar_path(plan.path)) as text:
        text.write_text(to_text(replace(plan, verified=True)), encoding="utf-8", newline="\n")


def to_text(plan: Plan) -> str:
    """The sidecar's text, sealed with the SHA-256 of everything else in it."""
    artifact = plan.artifact
    more = {"size": artifact.size, "precision": artifact.precision, "output": artifact.output}
    model = json.loads(artifact.config.to_json(**more))
    values = formats.stamped(_values(plan, model), formats.sidecar())
    return _dump({**values, "seal": _seal(values)})


def _values(plan: Plan, model: dict[str, Any]) -> dict[str, Any]:
    return {
        "sha256": plan.digest,
        "onnx": {"name": plan.onnx, "sha256": plan.onnx_digest},
        "version": plan.version,
        "device": plan.device,
        "driver": plan.driver,
        "options": _renamed(asdict(plan.options), "compiler", "engine"),
        "nodes": asdict(plan.nodes),
        "probe": plan.golden.to_json(),
        "verified": plan.verified,
        "model": model,
    }


def _parse(path: Path, text: str) -> Plan:
    """The Plan in a sidecar's text."""
    late, source = formats.sidecar(), str(sidecar_path(path))
    try:
        values = json.loads(text)
        version, seal = values["format"], values.pop("seal")
        newer = is_whole(version) and version > formats.newest(late)
        if not newer and (seal != _seal(values) or text != _dump({**values, "seal": seal})):
            raise ValueError("its seal is broken")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    if newer:
        raise formats.newer(version, late, source)
    _check_format(path, version, values)
    try:
        return _plan(path, formats.without_ignored(values, _FIELDS))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, zlib.error, BadModel) as error:
        raise _damaged(path, error) from None


def _check_format(path: Path, version: int, values: Mapping[str, Any]) -> None:
    """See that a whole sidecar sets nothing that its format does not have, or that only a newer segfast knows."""
    late, source = formats.sidecar(), str(sidecar_path(path))
    try:
        formats.check_version(version, late, source)
        formats.check_fields(values, _FIELDS, late, source)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _plan(path: Path, values: Mapping[str, Any]) -> Plan:
    """The Plan in a sidecar's values."""
    config, more = configs.from_json(json.dumps(values["model"]), str(sidecar_path(path)))
    artifact = Artifact(path, config, (more["size"][0], more["size"][1]), more["precision"], more["output"])
    given = _renamed(values["options"], "engine", "compiler")
    batch = given["batch"][0], given["batch"][1], given["batch"][2]
    options = Options(**(given | {"batch": batch, "targets": tuple(given["targets"])})).check()
    nodes = Nodes(tuple(values["nodes"]["attention"]), tuple(values["nodes"]["half"]))
    return Plan(
        artifact=artifact,
        options=options,
        version=str(values["version"]),
        device=values["device"],
        driver=values["driver"],
        digest=values["sha256"],
        onnx=Path(values["onnx"]["name"]).name,
        onnx_digest=values["onnx"]["sha256"],
        nodes=nodes,
        golden=Golden.from_json(artifact.output, values["probe"]),
        verified=values["verified"] is True,
    )


def _renamed(values: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """A table with another name for a key, in its place: what we call the compiler is the file's `engine`."""
    return {new if key == old else key: value for key, value in values.items()}


def _damaged(path: Path, error: Exception) -> BadModel:
    return BadModel(f"{sidecar_path(path)} is damaged ({error}); build both files again: {_guess(path)}")


def _guess(path: Path) -> str:
    """The command that would have built an engine file of this name."""
    stem, compiler = (path.stem.removesuffix("-rtx"), "rtx") if path.stem.endswith("-rtx") else (path.stem, "tensorrt")
    return build_command(path.with_name(f"{stem}.onnx"), compiler, *(["--target", "sm89"] if compiler == "rtx" else []))


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(values).encode()).hexdigest()
