"""Results of the benchmarks as a page of tables and pictures; or two of them compared.

    python -m benchmarks.report
    python -m benchmarks.report benchmarks/results/xeon.json --out docs/benchmarks.md
    python -m benchmarks.report --compare before.json after.json

Without names: all that benchmarks/results holds. Pictures go into a folder beside the page, of its name. What is
known of a run beyond its numbers (why a target was missed) stands in {device}.md beside its {device}.json, and is
taken over. The comparison is of ratios; its last line is JSON, and the exit code is 1 if one fell by over 10 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import compare, plots
from benchmarks.report.page import page
from benchmarks.report.reading import MAKE, load, read
from benchmarks.report.results import Results
from segfast import cli, files
from segfast.dependencies.imports import need
from segfast.errors import BadOption

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "benchmarks.md"


def main() -> int:
    """Write the page, or compare."""
    options = _parse()
    if options.compare:
        return _compare(*(read(path) for path in options.compare))
    runs = [read(path) for path in options.results] or _all()
    for path in write(runs, options.out):
        print(path)
    return 0


def write(runs: Sequence[Results], out: Path) -> list[Path]:
    """The page and its pictures, written when all of them are made; the page last.

    Raises:
        BadOption: two runs have one name, or the page is not named *.md.
        CannotWrite: the destination is full, read-only or missing.
        MissingRuntime: Matplotlib is not installed.
    """
    files.check_suffix(out, ".md")
    need("test", "matplotlib")
    stems = [run.path.stem for run in runs]
    if twins := {stem for stem in stems if stems.count(stem) > 1}:
        raise BadOption(f"two results are named {', '.join(sorted(twins))}.json; rename one")
    folder = out.with_suffix("")
    drawn = {(run.path.stem, kind): png for run in runs for kind, png in plots.draw(run).items()}
    addresses = {(stem, kind): f"{folder.name}/{stem}-{kind}.png" for stem, kind in drawn}
    text = page(runs, addresses, {run.path.stem: note for run in runs if (note := _note(run))})
    files.make_folder(folder if drawn else out.parent)
    for key, png in drawn.items():
        with files.publish(out.parent / addresses[key]) as temporary:
            temporary.write_bytes(png)
    files.write_text(text, out)
    return [out, *(out.parent / address for address in addresses.values())]


def _all() -> list[Results]:
    """All results of the benchmarks in their folder; those of other commands lie beside them."""
    found = [path for path in sorted(RESULTS.glob("*.json")) if _ours(load(path))]
    if not found:
        raise BadOption(f"there is no result in {RESULTS}; make one with {MAKE}")
    return [read(path) for path in found]


def _ours(content: object) -> bool:
    return isinstance(content, dict) and content.get("benchmark") == "segfast"


def _note(run: Results) -> str:
    """What is written by hand beside a run; empty where nothing is."""
    path = run.path.with_suffix(".md")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(f"cannot read {path}: {error}; write it again, in UTF-8") from None


def _compare(before: Results, after: Results) -> int:
    """Print what became of the ratios: a table, and one JSON line. 1 if one fell."""
    found = compare.compare(before, after)
    print("\n".join(compare.table(found, before, after)))
    fell = [
        {"section": section, "id": row, "ratio": what, "before": change.before, "after": change.after}
        for change in found.fallen
        for section, row, what in [change.key]
    ]
    told = {"before": str(before.path), "after": str(after.path), "ratios": len(found.changes), "fell": fell}
    print(json.dumps({**told, "missing": found.missing, "new": found.new}, ensure_ascii=False))
    return 1 if fell else 0


def _parse() -> argparse.Namespace:
    parser = cli.parser("benchmarks.report", __doc__)
    parser.add_argument("results", metavar="RESULTS", nargs="*", help="JSON files (default: all in benchmarks/results)")
    parser.add_argument(
        "--out", metavar="MD", type=Path, default=PAGE, help="page to write (default docs/benchmarks.md)"
    )
    parser.add_argument("--compare", metavar=("A", "B"), nargs=2, help="results before and after")
    options = parser.parse_args()
    if options.compare and options.results:
        parser.error("--compare takes two results and no others")
    return options


if __name__ == "__main__":
    cli.run(main)
