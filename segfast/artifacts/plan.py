"""Our `.engine` files: a plan as the compiler wrote it, and beside it a JSON sidecar that says what it is.

A plan is a program for one kind of GPU and one version of the compiler, and nothing in it says so
before it runs. The sidecar does, and everything here is checked before any deserialiser sees the plan.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from segfast import config as configs
from segfast import files, formats
from segfast.artifacts.golden import Probe
from segfast.artifacts.inspection import Nodes
from segfast.artifacts.onnx import Artifact
from segfast.errors import BadModel, BadOption, EngineMismatch
from segfast.machine.nvidia import KINDS, release

# What a sidecar says, by section.
_FIELDS = {
    "": ("sha256", "onnx", "version", "device", "driver", "options", "nodes", "probe", "verified", "model"),
    "onnx": ("name", "sha256"),
    "options": ("engine", "targets", "batch", "workspace", "level", "hardware", "version_compatible"),
    "nodes": ("attention", "half"),
    "probe": ("photo", "dtype", "shape", "values"),
}
_LARGEST_SIDECAR = 64 << 20

HARDWARE = ("none", "same", "ampere+")
LEVELS = range(0, 6)


@dataclass(frozen=True)
class Options:
    """What a plan was, or is to be, built for.

    Attributes:
        engine: `tensorrt` or `rtx`.
        targets: compute capabilities, such as `sm89`: of the GPU it was built on, or those asked of TensorRT-RTX.
        batch: smallest, best and largest number of windows in a call.
        workspace: most MiB of GPU memory a layer may use to compute; None is the compiler's choice.
        level: of optimisation, 0 (built fast) to 5 (runs fast).
        hardware: TensorRT only: the plan runs on GPUs of its own kind (`none`), of the same compute
            capability (`same`) or from Ampere on (`ampere+`).
        version_compatible: TensorRT only: later versions with the same major number run it.
    """

    engine: str
    targets: tuple[str, ...]
    batch: tuple[int, int, int] = (1, 1, 8)
    workspace: int | None = None
    level: int = 3
    hardware: str = "none"
    version_compatible: bool = False

    def check(self) -> Options:
        """Itself, if its values are possible.

        Raises:
            BadOption: a value is not.
        """
        whole = isinstance(self.batch, tuple) and len(self.batch) == 3 and all(_whole(n) for n in self.batch)
        if not whole or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2] <= 4096:
            raise BadOption(
                f"batch must be three rising numbers from 1 to 4096, smallest, best, largest; got {self.batch!r}"
            )
        if self.workspace is not None and not (_whole(self.workspace) and 1 <= self.workspace <= 1 << 24):
            raise BadOption(f"workspace must be a number of MiB from 1; got {self.workspace!r}")
        if not _whole(self.level) or self.level not in LEVELS:
            raise BadOption(f"level must be a whole number from 0 to 5; got {self.level!r}")
        if self.hardware not in HARDWARE:
            raise BadOption(f"hardware must be one of {', '.join(HARDWARE)}; got {self.hardware!r}")
        if self.engine == "rtx" and (self.hardware != "none" or self.version_compatible):
            raise BadOption("TensorRT-RTX has targets in place of hardware and version compatibility; name them all")
        return self


@dataclass(frozen=True)
class Plan:
    """What a sidecar says.

    Attributes:
        artifact: the model, as in the `.onnx` file; its path is the plan's.
        version: of the compiler.
        device, driver: where it was built; None without a GPU.
        digest: SHA-256 of the plan.
        onnx, onnx_digest: name and SHA-256 of the file it was built from.
        nodes: what an inspection looks for.
        probe: the `.onnx` file's answer for a photo.
        verified: the plan ran on a GPU, and its layers and its answer passed.
    """

    artifact: Artifact
    options: Options
    version: str
    device: str | None
    driver: str | None
    digest: str
    onnx: str
    onnx_digest: str
    nodes: Nodes
    probe: Probe
    verified: bool

    @property
    def path(self) -> Path:
        """Of the plan."""
        return self.artifact.path

    def read(self) -> bytes:
        """The plan itself, after its digest was found right.

        Raises:
            EngineMismatch: it is not the file that the sidecar speaks of.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise BadModel(f"{self.path} cannot be read ({error}); build it: {self.rebuild()}") from None
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise EngineMismatch(
                f"{self.path} is not the file that {sidecar(self.path).name} describes: it is damaged or was exchanged; "
                f"build it again: {self.rebuild()}"
            )
        return content

    def check_host(self, version: str, capability: str) -> None:
        """See that the plan was built for this version of the compiler and this GPU.

        Args:
            version: of the compiler that is installed.
            capability: of the GPU, such as `sm89`.

        Raises:
            EngineMismatch: it was not.
        """
        title = KINDS[self.options.engine].title
        if not self._runs_in(version):
            raise EngineMismatch(
                f"{self.path} was built by {title} {self.version}, here is {version}; build it again: "
                f"{self.rebuild(capability)}, or pip install {KINDS[self.options.engine].pip}=={self.version}"
            )
        if not self._runs_on(capability):
            raise EngineMismatch(
                f"{self.path} was built for {', '.join(self.options.targets)}, this GPU is {capability}; "
                f"build it again: {self.rebuild(capability)}"
            )

    def rebuild(self, capability: str | None = None) -> str:
        """The command that builds the plan again, for one more GPU if its compute capability is given."""
        options, extra = self.options, list[str]()
        if options.engine == "rtx":
            targets = [*options.targets]
            targets += [capability] if capability is not None and capability not in targets else []
            extra += ["--target", ",".join(targets)]
        for name, value, default in (
            ("--batch", ",".join(map(str, options.batch)), ",".join(map(str, Options.batch))),
            ("--workspace", options.workspace, None),
            ("--level", options.level, Options.level),
            ("--hardware", options.hardware, Options.hardware),
        ):
            extra += [name, str(value)] if value != default else []
        extra += ["--version-compatible"] if options.version_compatible else []
        return _command(self.path.with_name(self.onnx), options.engine, *extra)

    def _runs_in(self, version: str) -> bool:
        if self.options.version_compatible:
            built, here = release(self.version), release(version)
            return built[0] == here[0] and built <= here
        return version == self.version

    def _runs_on(self, capability: str) -> bool:
        if self.options.hardware == "ampere+":
            return _number(capability) >= 80
        return capability in self.options.targets


def sidecar(path: Path) -> Path:
    """Where the sidecar of a plan is."""
    return path.with_name(path.name + ".json")


def read_plan(path: Path, trusted: bool = False) -> Plan | None:
    """What the sidecar of an engine file says; None without one, where the user vouches for the file.

    Raises:
        BadModel: the file is missing or has no sidecar, or the sidecar is damaged or of a newer format.
    """
    if not path.is_file():
        raise BadModel(f"there is no file {path}; check the path, or build it: {_guess(path)}")
    try:
        with open(sidecar(path), "rb") as file:
            text = file.read(_LARGEST_SIDECAR).decode()
    except FileNotFoundError:
        if trusted:
            return None
        raise BadModel(
            f"{path} has no {sidecar(path).name} beside it: copy that too, or build both: {_guess(path)}. "
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
    with files.publish(sidecar(path)) as text, files.publish(path) as temporary:

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
    with files.publish(sidecar(plan.path)) as text:
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
        "options": asdict(plan.options),
        "nodes": asdict(plan.nodes),
        "probe": plan.probe.to_json(),
        "verified": plan.verified,
        "model": model,
    }


def _parse(path: Path, text: str) -> Plan:
    """The Plan in a sidecar's text."""
    late, source = formats.sidecar(), str(sidecar(path))
    try:
        values = json.loads(text)
        version, seal = values["format"], values.pop("seal")
        newer = _whole(version) and version > formats.newest(late)
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
    late, source = formats.sidecar(), str(sidecar(path))
    try:
        formats.check_version(version, late, source)
        formats.check_fields(values, _FIELDS, late, source)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _plan(path: Path, values: Mapping[str, Any]) -> Plan:
    """The Plan in a sidecar's values."""
    config, more = configs.from_json(json.dumps(values["model"]), str(sidecar(path)))
    artifact = Artifact(path, config, (more["size"][0], more["size"][1]), more["precision"], more["output"])
    given = values["options"]
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
        probe=Probe.from_json(artifact.output, values["probe"]),
        verified=values["verified"] is True,
    )


def _damaged(path: Path, error: Exception) -> BadModel:
    return BadModel(f"{sidecar(path)} is damaged ({error}); build both files again: {_guess(path)}")


def _guess(path: Path) -> str:
    """The command that would have built an engine file of this name."""
    stem, engine = (path.stem.removesuffix("-rtx"), "rtx") if path.stem.endswith("-rtx") else (path.stem, "tensorrt")
    return _command(path.with_name(f"{stem}.onnx"), engine, *(["--target", "sm89"] if engine == "rtx" else []))


def _command(onnx: Path, engine: str, *extra: str) -> str:
    words = ["python", "-m", "segfast.export", "--onnx", str(onnx), "--engine", engine, *extra]
    if onnx.parent != Path("."):
        words += ["--out", str(onnx.parent)]
    return shlex.join(words)


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(values).encode()).hexdigest()


def _number(capability: str) -> int:
    return int(capability.removeprefix("sm"))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
