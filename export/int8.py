"""Post-training quantisation: smoothed, judged, and where int8 costs too much taken back to higher precision."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from segfast import files
from segfast.config import METADATA_KEY
from segfast.engine import Engine
from segfast.errors import ExportFailed
from segfast.export.calibration import Calibration, Seen, evenly, see
from segfast.export.int8_graph import Range, groups, linears, quantise
from segfast.export.int8_loss import Disagreement, Error, Loss, Points
from segfast.export.int8_ranges import passes, ranges
from segfast.export.tracing import clean
from segfast.model import Segmenter
from segfast.progress import bar
from segfast.runtimes.openvino_cache import passing

# Strengths of SmoothQuant that are tried; None is none.
ALPHAS: tuple[float | None, ...] = (0.5, 0.75, 0.95)
# By so many windows candidates are compared.
COMPARED = 4
# Where more than this share of the groups would have to go back, int8 gains nothing and the export is refused.
BACK = 0.5
# Points by which runtimes may differ in what they lose: they round differently what is not int8.
APART = 1.0


@dataclass(frozen=True)
class Quantised:
    """How a model became int8.

    Attributes:
        alpha: the strength of SmoothQuant that erred least.
        linears, all: how many Linears are int8, of how many that could be.
        lost: points, in the default runtime.
        words: what `lost` is of.
        max_loss: points that it might lose.
        back: groups of Linears that stayed in higher precision, the worst first.
        notes: what else is to be known, for people.
    """

    alpha: float | None
    linears: int
    all: int
    lost: float
    words: str
    max_loss: float
    back: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        smooth = "not smoothed" if self.alpha is None else f"SmoothQuant {self.alpha:g}"
        lines = [
            f"int8: {self.linears} of {self.all} Linears, {smooth}",
            f"lost {self.lost:.2f} points {self.words}; {self.max_loss:g} are allowed",
        ]
        if self.back:
            lines.append(f"in higher precision, where int8 costs most: {', '.join(self.back)}")
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class Traced:
    """A network of fp32 in a file, and its Linears.

    Attributes:
        nodes: names of the MatMul nodes, by names of the Linears.
    """

    path: Path
    nodes: Mapping[str, str]

    def write(self, path: Path, found: Mapping[str, Range], metadata: str) -> None:
        """The same network with Linears in int8."""
        model = ir.load(self.path)
        quantise(model, self.nodes, found)
        model.metadata_props[METADATA_KEY] = metadata
        ir.save(model, path)


def traced(program: ir.Model, model: Segmenter, metadata: str, path: Path) -> Traced:
    """Write what the exporter gave for a model in fp32; its notes go."""
    nodes = linears(program.graph, model)
    clean(program, metadata)
    ir.save(program, path)
    return Traced(path, nodes)


class Quantiser:
    """One model on its way to int8.

    Args:
        network: it in fp32, giving logits.
        metadata: of an int8 file.
        calibration: checked.
        out: the folder that is written to.
    """

    def __init__(self, network: Traced, metadata: str, calibration: Calibration, out: Path):
        self._network, self._metadata, self._calibration = network, metadata, calibration
        self._reference = Engine(network.path, device="cpu", runtime="openvino")
        self._seen: Seen = see(calibration, self._reference, out)
        compared = self._seen.fitted[evenly(len(self._seen.fitted), COMPARED)]
        self._error = Error(compared, self._reference.run(compared))
        self._agreement = Disagreement(self._reference, self._seen.held)
        self._groups = groups(network.nodes)

    def run(self) -> tuple[dict[str, Range], Quantised]:
        """The ranges of the Linears that become int8, and how it went.

        Raises:
            BadModel, BadData: as `Points`.
            ExportFailed: int8 loses more than is allowed whatever goes back, or nothing could become int8.
        """
        data, most = self._calibration.data, self._calibration.max_loss
        loss: Loss = self._agreement if data is None else Points(self._reference, data, most)
        alpha, found = self._fitted()
        lost = self._measured(found, loss)
        back: tuple[str, ...] = ()
        if lost > most and not self._reference.config.random_weights:
            lost, back = self._taken_back(found, loss, lost)
        kept = self._without(found, back)
        told = Quantised(
            alpha,
            len(kept),
            len(self._network.nodes),
            lost,
            loss.words,
            most,
            back,
            (*self._seen.notes, *self._remarks()),
        )
        return kept, told

    def check_onnx_runtime(self, found: Mapping[str, Range]) -> None:
        """See that the network says in ONNX Runtime what it says in OpenVINO, in which it was judged.

        Raises:
            ExportFailed: it disagrees with fp32 more there.
        """
        with passing_file() as path:
            self._network.write(path, found, self._metadata)
            apart = self._agreement.of(path, "onnxruntime") - self._agreement.of(path)
        if apart > max(APART, self._calibration.max_loss) and not self._reference.config.random_weights:
            raise ExportFailed(
                f"in ONNX Runtime the int8 file loses {apart:.2f} points more than in OpenVINO {self._agreement.words}; nothing "
                "was written. Export with --fp16, or upgrade onnxruntime"
            )

    def _remarks(self) -> list[str]:
        random = self._reference.config.random_weights
        return ["random weights: the loss is told and refuses nothing"] if random else []

    def _fitted(self) -> tuple[float | None, dict[str, Range]]:
        """The strength of smoothing that errs least, and its ranges.

        Raises:
            ExportFailed: there are none.
        """
        windows = self._seen.fitted
        best: tuple[float, float | None, dict[str, Range]] | None = None
        with bar(desc="calibrate", total=len(windows) * sum(map(passes, ALPHAS)), unit="window") as shown:
            for alpha in ALPHAS:
                found = ranges(self._network.path, self._network.nodes, windows, alpha, shown.update)
                error = self._measured(found, self._error)
                if best is None or error < best[0]:
                    best = error, alpha, found
        assert best is not None
        if not best[2]:
            raise ExportFailed("NNCF finds no Linear that could be int8; nothing was written. Export with --fp16")
        return best[1:]

    def _taken_back(self, found: dict[str, Range], loss: Loss, lost: float) -> tuple[float, tuple[str, ...]]:
        """As few groups as hold the loss, the worst first; what is lost without them."""
        worst = self._ranked(found)
        limit, tried = int(BACK * len(worst)), {0: lost}

        def holds(count: int) -> bool:
            if count not in tried:
                tried[count] = self._measured(self._without(found, worst[:count]), loss)
            return tried[count] <= self._calibration.max_loss

        count = fewest(holds, limit)
        if count is None:
            raise ExportFailed(
                f"int8 loses {lost:.2f} points {loss.words}, and {min(tried.values()):.2f} with the worst {limit} of "
                f"{len(worst)} groups in higher precision ({', '.join(worst[:limit])}); {self._calibration.max_loss:g} are "
                "allowed, and nothing was written. Calibrate with more pictures like those to come, allow more with "
                "--max-loss, or export with --fp16"
            )
        return tried[count], tuple(worst[:count])

    def _ranked(self, found: dict[str, Range]) -> list[str]:
        """The groups by how much each alone errs in int8, the worst first."""
        errors = {}
        for group, names in bar(self._groups.items(), "rank layers", unit="group"):
            alone = {name: found[name] for name in names if name in found}
            errors[group] = self._measured(alone, self._error)
        return sorted(errors, key=lambda group: -errors[group])

    def _without(self, found: Mapping[str, Range], back: Collection[str]) -> dict[str, Range]:
        kept = {name for group, names in self._groups.items() if group not in back for name in names}
        return {name: range_ for name, range_ in found.items() if name in kept}

    def _measured(self, found: Mapping[str, Range], measure: Loss | Error) -> float:
        with passing_file() as path:
            self._network.write(path, found, self._metadata)
            return measure.of(path)


def fewest(holds: Callable[[int], bool], limit: int) -> int | None:
    """The smallest count from 1 to `limit` that holds, if those after one that holds do; None if none does.

    It doubles, then halves: a measurement may take minutes.
    """
    low, high = 0, 1
    while high < limit and not holds(high):
        low, high = high, 2 * high
    high = min(high, limit)
    if limit < 1 or not holds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@contextmanager
def passing_file() -> Iterator[Path]:
    """A path for an `.onnx` file that goes at the end of the block, and of which nothing is kept."""
    with scratch() as folder:
        yield folder / "network.onnx"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes at the end of the block; nothing is kept of the networks in it.

    Raises:
        CannotWrite: it is full, or there is no folder for such folders.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="segfast-int8-") as name, passing(Path(name)):
            yield Path(name)
    except OSError as error:
        raise files.cannot_write(Path(str(error.filename or tempfile.tempdir)), error) from error
