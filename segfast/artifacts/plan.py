"""A plan: what NVIDIA's compilers wrote for one kind of GPU and one version of theirs, and what it was built for."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from segfast.artifacts.golden import Golden
from segfast.artifacts.onnx import Artifact
from segfast.dependencies.tensorrt import COMPILERS, release
from segfast.errors import BadModel, BadOption, EngineMismatch
from segfast.values import is_whole

HARDWARE = ("none", "same", "ampere+")
LEVELS = range(0, 6)


@dataclass(frozen=True)
class Options:
    """What a plan was, or is to be, built for.

    Attributes:
        compiler: `tensorrt` or `rtx`.
        targets: compute capabilities, such as `sm89`: of the GPU it was built on, or those asked of TensorRT-RTX.
        batch: smallest, best and largest number of windows in a call.
        workspace: most MiB of GPU memory a layer may use to compute; None is the compiler's choice.
        level: of optimisation, 0 (built fast) to 5 (runs fast).
        hardware: TensorRT only: the plan runs on GPUs of its own kind (`none`), of the same compute
            capability (`same`) or from Ampere on (`ampere+`).
        version_compatible: TensorRT only: later versions with the same major number run it.
    """

    compiler: str
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
        whole = isinstance(self.batch, tuple) and len(self.batch) == 3 and all(is_whole(n) for n in self.batch)
        if not whole or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2] <= 4096:
            raise BadOption(
                f"batch must be three rising numbers from 1 to 4096, smallest, best, largest; got {self.batch!r}"
            )
        if self.workspace is not None and not (is_whole(self.workspace) and 1 <= self.workspace <= 1 << 24):
            raise BadOption(f"workspace must be a number of MiB from 1; got {self.workspace!r}")
        if not is_whole(self.level) or self.level not in LEVELS:
            raise BadOption(f"level must be a whole number from 0 to 5; got {self.level!r}")
        if self.hardware not in HARDWARE:
            raise BadOption(f"hardware must be one of {', '.join(HARDWARE)}; got {self.hardware!r}")
        if self.compiler == "rtx" and (self.hardware != "none" or self.version_compatible):
            raise BadOption("TensorRT-RTX has targets in place of hardware and version compatibility; name them all")
        return self


@dataclass(frozen=True)
class Nodes:
    """ONNX nodes of the network that was built, by what must become of them.

    Attributes:
        attention: every softmax, in order: one per attention.
        half: products and convolutions that compute in half precision.
    """

    attention: tuple[str, ...]
    half: tuple[str, ...]


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
        golden: the `.onnx` file's answer for a photo.
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
    golden: Golden
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
                f"{self.path} is not the file that {sidecar_path(self.path).name} describes: it is damaged or was exchanged; "
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
        title = COMPILERS[self.options.compiler].title
        if not self._runs_in(version):
            raise EngineMismatch(
                f"{self.path} was built by {title} {self.version}, here is {version}; build it again: "
                f"{self.rebuild(capability)}, or pip install {COMPILERS[self.options.compiler].pip}=={self.version}"
            )
        if not self._runs_on(capability):
            raise EngineMismatch(
                f"{self.path} was built for {', '.join(self.options.targets)}, this GPU is {capability}; "
                f"build it again: {self.rebuild(capability)}"
            )

    def rebuild(self, capability: str | None = None) -> str:
        """The command that builds the plan again, for one more GPU if its compute capability is given."""
        options, extra = self.options, list[str]()
        if options.compiler == "rtx":
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
        return build_command(self.path.with_name(self.onnx), options.compiler, *extra)

    def _runs_in(self, version: str) -> bool:
        if self.options.version_compatible:
            built, here = release(self.version), release(version)
            return built[0] == here[0] and built <= here
        return version == self.version

    def _runs_on(self, capability: str) -> bool:
        if self.options.hardware == "ampere+":
            return _number(capability) >= 80
        return capability in self.options.targets


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of a plan is."""
    return path.with_name(path.name + ".json")


def build_command(onnx: Path, compiler: str, *extra: str) -> str:
    """The command that builds a plan of an `.onnx` file."""
    words = ["python", "-m", "segfast.export", "--onnx", str(onnx), "--engine", compiler, *extra]
    if onnx.parent != Path("."):
        words += ["--out", str(onnx.parent)]
    return shlex.join(words)


def _number(capability: str) -> int:
    return int(capability.removeprefix("sm"))
