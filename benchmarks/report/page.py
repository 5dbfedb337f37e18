"""docs/benchmarks.md: every device's tables and pictures, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.report import tables
from benchmarks.report.markdown import escape, number
from benchmarks.report.reading import MAKE
from benchmarks.report.results import Results

INTRODUCTION = f"""\
# Benchmarks

How much faster is segfast than what one would use otherwise, and how close is it to what the machine can do? Made by
`python -m benchmarks.report` from the results of `{MAKE}`.

- A timed call goes from a uint8 image to labels on the host; what it computes is checked before its time counts. Columns
  take turns within one test, and a time is the least of the rounds. Ratios hold within one run; seconds of different
  machines are not to be compared.
- *eager* is the original's algorithm in plain PyTorch, *compile* the same under `torch.compile`; *stock* is its
  full-resolution ONNX export in that runtime, without segfast; *segfast* are our engines. Beside each stands its precision.
- An empty cell was not asked for; a letter stands for the reason given beneath its table.
"""
#           title, kind of picture, (what is said before a table, the table) …
SECTIONS: tuple[tuple[str, str, tuple[tuple[str, Callable[[Results], list[str]]], ...]], ...] = (
    ("The paper's models", "speed", (
        ("In short:", tables.summary),
        ("What one would use otherwise:", tables.peers),
        ("segfast:", tables.ours),
        ("The fastest of segfast, how many times as fast it is, and its share of the machine's matrix peak:", tables.gains),
        ("Labels equal to those of the fp32 reference:", tables.agreement))),
    ("Targets", "", (("", tables.targets),)),
    ("Scaling", "scaling", (
        ("", tables.scaling),
        ("How the seconds grow with the number of tokens N:", tables.exponents),
        ("Peak memory:", tables.memory),
        ("Attention's share:", tables.attention))),
    ("Stages", "stages", (("", tables.stages),)),
    ("Kernels", "", (("", tables.kernels),)),
    ("Limits", "", (
        ("As measured in the same run:", tables.limits),
        ("What a call computes and moves at least, and what shares of those the fastest of segfast reaches:", tables.shares))),
)  # fmt: skip
CAPTIONS = {
    "speed": "Images per second against the paper's single-scale mIoU on ADE20K (its Figure 4)",
    "scaling": "Time of an image against the number of tokens",
    "stages": "Where the time of one photo goes",
}


def page(runs: Sequence[Results], pictures: dict[tuple[str, str], str], notes: dict[str, str]) -> str:
    """The whole document.

    Args:
        pictures: addresses by (run's name, kind of picture: `speed`, `scaling`, `stages`).
        notes: what is written by hand of a run, by its name.
    """
    parts = [INTRODUCTION]
    for run in runs:
        shown = {kind: address for (stem, kind), address in pictures.items() if stem == run.path.stem}
        parts += [*_device(run), *_sections(run, shown)]
        if run.path.stem in notes:
            parts += ["### Notes", "", notes[run.path.stem].strip(), ""]
    return "\n".join(parts).rstrip() + "\n"


def _device(run: Results) -> list[str]:
    """The heading: what ran, on what, when."""
    device = run.device
    facts = [
        f"{device['cpus']} CPU cores" if device.get("cpus") else "",
        f"{number(device['memory_bytes'] / 2**30)} GiB" if device.get("memory_bytes") else "",
        f"{device['clock_mhz'] / 1e3:.2g} GHz" if device.get("clock_mhz") else "",
        str(device.get("instructions") or ""),
    ]
    made = [
        f"run of {run.date[:10]}" if run.date else "",
        f"commit {run.commit}" if run.commit else "",
        f"{number(run.seconds / 60)} minutes" if run.seconds else "",
    ]
    versions = [f"{package} {version}" for package, version in run.versions.items() if version]
    lines = [_sentence(facts), _sentence(versions), _sentence(made)]
    return [f"## {escape(device['name'])}", "", *(f"- {line}" for line in lines if line), "", *_verdict(run)]


def _verdict(run: Results) -> list[str]:
    """How many targets were met, and which were not, in one paragraph."""
    if not run.targets:
        return []
    missed = [f"{target.row} ({target.what})" for target in run.targets if not target.met]
    met = len(run.targets) - len(missed)
    if not missed:
        return [f"All {met} targets are met.", ""]
    return [f"Targets: {met} met, **{len(missed)} missed**: {escape(', '.join(missed))}.", ""]


def _sections(run: Results, pictures: dict[str, str]) -> list[str]:
    """Tables and pictures in the order of reading; at the end what this run lacks."""
    lines, absent = [], []
    for title, kind, parts in SECTIONS:
        if body := _body(run, parts):
            lines += [f"### {title}", "", *body, *_picture(kind, pictures)]
        else:
            absent.append(title.lower())
    return [*lines, *_lacking(run, absent)]


def _body(run: Results, parts: Sequence[tuple[str, Callable[[Results], list[str]]]]) -> list[str]:
    lines: list[str] = []
    for introduction, table in parts:
        if body := table(run):
            lines += [*([introduction, ""] if introduction else []), *body]
    return lines


def _picture(kind: str, pictures: dict[str, str]) -> list[str]:
    return [f"![{CAPTIONS[kind]}]({pictures[kind]})", ""] if kind in pictures else []


def _lacking(run: Results, absent: Sequence[str]) -> list[str]:
    """Rows that could not be measured, and sections that are not there."""
    skipped = [f"- {section}, {key}: {escape(reason)}" for (section, key), reason in run.skipped.items()]
    foreign = [f"{section} ({rows})" for section, rows in run.foreign.items()]
    return [
        *(["Not measured:", "", *skipped, ""] if skipped else []),
        *([f"Not in this run: {', '.join(absent)}.", ""] if absent else []),
        *([f"Rows that this report does not show: {', '.join(foreign)}.", ""] if foreign else []),
    ]


def _sentence(parts: Sequence[str]) -> str:
    return escape(", ".join(part for part in parts if part))
