"""The tables of a run, a function for each: lines of Markdown, none where the run lacks the section."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.report.markdown import Table, duration, number, percent, ratio
from benchmarks.report.results import Column, Results, Target, Timed

STAGES = ("decode", "resize", "network", "merge")
# What README.md shows of the models.
SHORT = ("seg-ti-mask-16", "seg-s-32", "seg-s-mask-16", "seg-b-32", "seg-b-mask-16", "seg-b-8", "seg-l-mask-16")


def name(row: Timed, rows: Iterable[Timed]) -> str:
    """A model, with its size and batch where they tell two rows of it apart."""
    twins = [other for other in rows if other.model == row.model]
    size = f", {row.size}²" if len({twin.size for twin in twins}) > 1 else ""
    return f"{row.model}{size}{f', batch {row.batch}' if row.batch > 1 or len({t.batch for t in twins}) > 1 else ''}"


def titles(rows: Iterable[Timed], wanted: Callable[[Column], bool]) -> dict[str, str]:
    """Name → title of the columns that any row has and that are wanted, in one order."""
    found = {column for row in rows for column in row.columns.values() if wanted(column)}
    return {column.name: column.title for column in sorted(found, key=lambda column: column.place)}


def speed(column: Column | None, table: Table) -> str:
    """Images per second; the letter of a reason where it was skipped; empty where nobody asked."""
    if column is None:
        return ""
    return table.lacks(column.skipped) if column.skipped else number(column.images_per_second)


def peers(results: Results) -> list[str]:
    """Images per second of the paper, and here of what one would use otherwise."""
    columns = titles(results.models, lambda column: not column.ours)
    table = Table("images/s", "paper, V100", "paper, mIoU", *columns.values())
    for row in results.models:
        paper = " / ".join(f"{value:,g}" for value in row.paper_speeds)
        miou = "" if row.paper_miou is None else f"{row.paper_miou:.2f}"
        table.add(name(row, results.models), paper, miou, *(speed(row.columns.get(c), table) for c in columns))
    return table.lines()


def ours(results: Results) -> list[str]:
    """Images per second of segfast, in each runtime and precision."""
    columns = titles(results.models, lambda column: column.ours)
    table = Table("images/s", *(title.removeprefix("segfast ") for title in columns.values()))
    for row in results.models:
        table.add(name(row, results.models), *(speed(row.columns.get(c), table) for c in columns))
    return table.lines()


def gains(results: Results) -> list[str]:
    """How much faster the fastest of segfast is, and how close to the limit."""
    precisions = sorted(
        {column.precision for row in results.models for column in row.columns.values() if column.ours}, reverse=True
    )
    to_stock = [f"to stock, {precision}" for precision in precisions]
    table = Table("segfast", "fastest", "images/s", "to eager", *to_stock, "of the peak", texts=2)
    for row in results.models:
        best = row.best
        table.add(
            name(row, results.models),
            f"{best.runtime} {best.precision}" if best else "–",
            number(best.images_per_second if best else None),
            ratio(over(row.eager, best)),
            *(ratio(over(row.best_of(p, stock=True), row.best_of(p, stock=False))) for p in precisions),
            percent(row.share_of_peak),
        )
    return table.lines()


def summary(results: Results, models: Sequence[str] = SHORT) -> list[str]:
    """A few models in short, as README.md shows them: eager, the fastest stock deployment, the fastest of segfast."""
    table = Table("images/s", "eager fp32", "fastest stock", "segfast", "to eager", "to stock", "of the matrix peak")
    for row in (row for model in models for row in results.models if row.model == model):
        stocks = [column for column in row.columns.values() if column.stock and column.seconds]
        stock = min(stocks, key=lambda column: column.seconds or 0.0, default=None)
        speeds = (number(column.images_per_second if column else None) for column in (row.eager, stock, row.best))
        ratios = ratio(over(row.eager, row.best)), ratio(over(stock, row.best))
        table.add(name(row, [row]), *speeds, *ratios, percent(row.share_of_peak))
    return table.lines()


def over(theirs: Column | None, ours: Column | None) -> float | None:
    """How many times as fast one column is as another."""
    return theirs.seconds / ours.seconds if theirs and ours and theirs.seconds and ours.seconds else None


def agreement(results: Results) -> list[str]:
    """Labels equal to those of the fp32 reference: every column of less precision, the least of those in fp32."""
    rows = [row for row in results.models if any(c.agreement is not None for c in row.columns.values())]
    halves = titles(rows, lambda column: column.precision != "fp32" and column.agreement is not None)
    table = Table("% of the labels", "fp32, the least", *halves.values())
    for row in rows:
        exact = [c.agreement for c in row.columns.values() if c.precision == "fp32" and c.agreement is not None]
        cells = [_labels(row.columns[c].agreement) if c in row.columns else "" for c in halves]
        table.add(name(row, results.models), _labels(min(exact, default=None)), *cells)
    return table.lines()


def _labels(share: float | None) -> str:
    """A share in percent that reads 100 only where it is all."""
    return "" if share is None else "100" if share == 1 else f"{min(100 * share, 99.99):.2f}"


def targets(results: Results) -> list[str]:
    """What was wanted and what came of it, the missed ones first; beneath, what is known of those."""
    table = Table("target of", "what", "met", "wanted", "got", texts=3)
    for target in results.targets:
        table.add(target.row, target.what, "met" if target.met else "**missed**", f"{target.wanted:g}", _got(target))
    notes = [f"- {t.row}, {t.what}: {' '.join(t.note.split())}" for t in results.targets if t.note and not t.met]
    return [*table.lines(), *notes, *([""] if notes else [])]


def _got(target: Target) -> str:
    """With as many digits as tell a near miss from a hit."""
    rounded = number(target.got)
    near = target.got is not None and not target.met and rounded == number(target.wanted)
    return f"{target.got:.4g}" if near else rounded


def scaling(results: Results) -> list[str]:
    """Images per second by size and patch."""
    columns = titles(results.scaling, lambda column: True)
    table = Table("images/s", "patch", "size", "tokens", *columns.values(), kept=4)
    for row in results.scaling:
        table.add(*_shape(row), *(speed(row.columns.get(c), table) for c in columns))
    return table.lines()


def memory(results: Results) -> list[str]:
    """Peak memory by size and patch."""
    return _by_shape(results, "MB", lambda column: number(column.peak_bytes and column.peak_bytes / 1e6))


def attention(results: Results) -> list[str]:
    """Attention's share of the time by size and patch."""
    return _by_shape(results, "of the time", lambda column: percent(column.attention))


def _by_shape(results: Results, unit: str, cell: Callable[[Column], str]) -> list[str]:
    """What the columns of the scaling say, for those that say it anywhere."""
    columns = titles(results.scaling, lambda column: bool(cell(column)))
    table = Table(unit, "patch", "size", "tokens", *columns.values(), kept=4)
    for row in results.scaling:
        table.add(*_shape(row), *(cell(row.columns[c]) if c in row.columns else "" for c in columns))
    return table.lines() if columns else []


def _shape(row: Timed) -> tuple[str, str, str, str]:
    return row.model, str(row.patch or ""), f"{row.size}²", f"{row.tokens:,}" if row.tokens else ""


def exponents(results: Results) -> list[str]:
    """How the seconds grow with the tokens N: the x of N^x, fitted for every patch."""
    found = results.exponents
    patches = sorted({patch for of in found.values() for patch in of}, key=lambda patch: (len(patch), patch))
    table = Table("x of N^x", *patches)
    known = titles(results.scaling, lambda column: True)
    for column, of in found.items():
        table.add(known.get(column, column), *(f"{of[patch]:.2f}" if patch in of else "" for patch in patches))
    return table.lines()


def stages(results: Results) -> list[str]:
    """Where the time of one photo goes, in milliseconds."""
    known = {key: None for stage in results.stages for key in stage.seconds if key not in (*STAGES, "total")}
    columns = (*STAGES, *known, "total")
    table = Table("ms", "runtime", *columns, "outside the network", texts=2)
    for stage in results.stages:
        total = stage.seconds.get("total")
        network = stage.seconds.get("network")
        outside = 1 - network / total if total and network is not None else None
        numbers = [number(stage.seconds[c] * 1e3) if c in stage.seconds else "" for c in columns]
        table.add(stage.id, stage.runtime, *numbers, percent(outside, 1))
    return table.lines()


def kernels(results: Results) -> list[str]:
    """Our operations beside their peers."""
    table = Table("kernel", "peers", "segfast", "ratio", "wanted", texts=2)
    for kernel in results.kernels:
        theirs = ", ".join(f"{peer} {duration(seconds)}" for peer, seconds in kernel.peers.items())
        table.add(
            kernel.id,
            theirs,
            duration(kernel.seconds),
            ratio(kernel.ratio),
            "" if kernel.wanted is None else f"{kernel.wanted:g}×",
        )
    return table.lines()


def limits(results: Results) -> list[str]:
    """The machine's largest matrix product by precision, and its copy, as measured in the same run."""
    table = Table("limit", "measured")
    for key, value in results.limits.items():
        what, unit = key.split("_")
        table.add(
            "copy of memory" if what == "copy" else f"matrix product, {what}",
            f"{number(value / 1e9)} GB/s" if unit == "bytes" else f"{number(value / 1e12)} TFLOP/s",
        )
    return table.lines()


def shares(results: Results) -> list[str]:
    """What a call must compute and move at least, and how close the fastest of segfast is to both limits."""
    copy = results.limits.get("copy_bytes")
    table = Table("a call", "fastest", "GFLOP", "of the matrix peak", "least MB", "of the copy", texts=2)
    for row in results.models:
        best = row.best
        if results.limits and best and best.seconds and row.flops:
            moved = row.least_bytes and copy and row.least_bytes / best.seconds / copy
            table.add(
                name(row, results.models),
                f"{best.runtime} {best.precision}",
                number(row.batch * row.flops / 1e9),
                percent(row.share_of_peak),
                number(row.least_bytes and row.least_bytes / 1e6),
                percent(moved),
            )
    return table.lines()
