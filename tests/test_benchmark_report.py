"""The report of the benchmarks, on invented results: its cells, pictures and comparison, and files that are none."""

import copy
import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from helpers import REPOSITORY
from PIL import Image

from benchmarks.report import __main__ as command
from benchmarks.report import markdown, plots, tables
from benchmarks.report.compare import compare
from benchmarks.report.page import page
from benchmarks.report.reading import read
from segfast.dependencies import installation
from segfast.errors import BadOption, CannotWrite, MissingRuntime

pytest.importorskip("matplotlib")


def column(seconds, precision="fp32", agreement=1.0, batch=1, **more):
    return {
        "seconds": seconds,
        "low": seconds,
        "images_per_second": batch / seconds,
        "precision": precision,
        "agreement": agreement,
        "relative_error": None,
        **more,
    }


def model(name, miou, paper, eager=1.0, **more):
    columns = {
        "segfast-openvino-fp32": column(0.4 * eager),
        "segfast-openvino-bf16": column(0.2 * eager, "bf16", 0.99999),
        "stock-openvino-bf16": column(0.3 * eager, "bf16", 0.95),
        "stock-openvino-fp32": column(0.5 * eager),
        "stock-onnxruntime-fp32": {"skipped": "9 GB wanted | 8 GB there", "precision": "fp32"},
        "eager-fp32": column(eager),
    }
    return {
        "section": "models",
        "id": name,
        "model": name,
        "size": 512,
        "batch": 1,
        "flops": 214_000_000_000,
        "least_bytes": 174_000_000,
        "parameters": 86_000_000,
        "paper_images_per_second": paper,
        "paper_miou": miou,
        "columns": columns,
        "ratio": 5.0,
        "stock_ratio": 1.5,
        "share_of_peak": 0.684,
        "targets": [],
    } | more


def scaled(patch, size, seconds):
    columns = {
        name: column(factor * seconds, peak_bytes=8e8, attention_share=0.25)
        for name, factor in (("eager-fp32", 1.0), ("segfast-openvino-fp32", 0.5))
    }
    return {
        "section": "scaling",
        "id": f"seg-s-{patch}-{size}",
        "model": f"seg-s-{patch}",
        "patch": patch,
        "size": size,
        "tokens": (size // patch) ** 2 + 1,
        "batch": 1,
        "columns": columns,
    }


@pytest.fixture
def content():
    missed = {"what": "share of peak", "wanted": 0.7, "got": 0.684, "met": False, "note": "attention takes\n31 %"}
    met = {"what": "ratio to eager", "wanted": 3.2, "got": 5.0, "met": True}
    photo = {"decode": 0.0189, "resize": 0.0063, "network": 0.6, "merge": 0.0102, "total": 0.636}
    rows = [
        {"section": "limits", "id": "limits", "fp32_flops": 3.1e11, "bf16_flops": 1.6e12, "fp16_flops": None, "copy_bytes": 1.1e10},
        model("seg-b-deit-16", 47.08, [92, 77], targets=[met]),
        model("seg-b-mask-16", 48.48, [], eager=1.5, targets=[met, missed]),
        model("seg-l-8", None, [], eager=40.0),
        {"section": "models", "id": "seg-l-16", "skipped": "3 GB are left"},
        *(scaled(patch, size, size / patch) for patch in (16, 32) for size in (256, 512)),
        {"section": "scaling", "id": "exponents",
         "exponents": {"eager-fp32": {"patch 16": 1.234, "patch 32": None}, "segfast-openvino-fp32": {"patch 32": 1.1}}},
        {"section": "stages", "id": "seg-s-16 1024x2048 jpeg", "model": "seg-s-16", "height": 1024, "width": 2048,
         "seconds": photo, "runtime": "OpenVINO on cpu in bf16"},
        {"section": "kernels", "id": "upsample_argmax smooth", "seconds": 0.0012, "peers": {"torch interpolate + argmax": 0.031},
         "ratio": 25.8, "wanted": 20},
    ]  # fmt: skip
    device = {"name": "A Xeon | of 2 cores", "kind": "cpu", "cpus": 2, "memory_bytes": 24 << 30, "clock_mhz": 2100.0}
    versions = {"python": "3.11.7", "torch": "2.14.1", "tensorrt": None}
    return {
        "benchmark": "segfast",
        "device": device | {"instructions": "avx512, amx_bf16"},
        "versions": versions,
        "date": "2026-11-23T10:00:00+00:00",
        "commit": "abc123-dirty",
        "seconds": 2345.6,
        "rows": rows,
    }


@pytest.fixture
def save(tmp_path):
    def save(content, name="xeon"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return save


@pytest.fixture
def results(content, save):
    return read(save(content))


def cells(lines):
    """The rows of the first table among lines: title → cell."""
    rows = [
        [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    header, _, *body = rows
    return [dict(zip(header, row, strict=True)) for row in body]


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.report", *map(str, options)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


# tables ---------------------------------------------------------------------------------------------------------------


def test_peers_stand_beside_the_paper_in_one_order(results):
    lines = tables.peers(results)
    first, second, third = cells(lines)
    assert list(first) == [
        "images/s",
        "paper, V100",
        "paper, mIoU",
        "eager fp32",
        "stock ONNX Runtime fp32",
        "stock OpenVINO fp32",
        "stock OpenVINO bf16",
    ]
    assert list(first.values()) == ["seg-b-deit-16", "92 / 77", "47.08", "1.00", "(a)", "2.00", "3.33"]
    assert (second["paper, V100"], second["eager fp32"]) == ("", "0.667")
    assert (third["paper, mIoU"], third["eager fp32"]) == ("", "0.025")
    assert lines.count("- (a) 9 GB wanted \\| 8 GB there") == 1  # one reason, three cells


def test_ratios_are_those_of_the_columns(results):
    assert cells(tables.gains(results))[0] == {
        "segfast": "seg-b-deit-16",
        "fastest": "OpenVINO bf16",
        "images/s": "5.00",
        "to eager": "5.00×",
        "to stock, fp32": "1.25×",
        "to stock, bf16": "1.50×",
        "of the peak": "68 %",
    }
    assert cells(tables.ours(results))[0] == {
        "images/s": "seg-b-deit-16",
        "OpenVINO fp32": "2.50",
        "OpenVINO bf16": "5.00",
    }


def test_labels_that_are_not_all_equal_never_read_100(results):
    row = cells(tables.agreement(results))[0]
    assert row["fp32, the least"] == "100"
    assert (row["stock OpenVINO bf16"], row["segfast OpenVINO bf16"]) == ("95.00", "99.99")


def test_missed_targets_come_first_with_what_is_known(results):
    lines = tables.targets(results)
    rows = cells(lines)
    assert [row["met"] for row in rows] == ["**missed**", "met", "met", "met"]
    assert rows[0] == {
        "target of": "seg-b-mask-16",
        "what": "share of peak",
        "met": "**missed**",
        "wanted": "0.7",
        "got": "0.684",
    }
    assert rows[-1]["target of"] == "upsample_argmax smooth"
    assert "- seg-b-mask-16, share of peak: attention takes 31 %" in lines


def test_a_near_miss_does_not_read_as_a_hit(content, save):
    content["rows"][1]["targets"] = [{"what": "ratio", "wanted": 2.8, "got": 2.7987, "met": False}]
    assert cells(tables.targets(read(save(content))))[0]["got"] == "2.799"


def test_scaling_stages_kernels_and_limits(results):
    assert cells(tables.scaling(results))[0] == {
        "images/s": "seg-s-16",
        "patch": "16",
        "size": "256²",
        "tokens": "257",
        "eager fp32": "0.0625",
        "segfast OpenVINO fp32": "0.125",
    }
    assert cells(tables.exponents(results)) == [
        {"x of N^x": "eager fp32", "patch 16": "1.23", "patch 32": ""},
        {"x of N^x": "segfast OpenVINO fp32", "patch 16": "", "patch 32": "1.10"},
    ]
    assert cells(tables.memory(results))[0]["eager fp32"] == "800"
    assert cells(tables.attention(results))[0]["segfast OpenVINO fp32"] == "25 %"
    (stage,) = cells(tables.stages(results))
    assert (stage["decode"], stage["total"], stage["outside the network"]) == ("18.9", "636", "5.7 %")
    (kernel,) = cells(tables.kernels(results))
    assert (kernel["peers"], kernel["segfast"], kernel["ratio"]) == (
        "torch interpolate + argmax 31.0 ms",
        "1.20 ms",
        "25.8×",
    )
    assert cells(tables.shares(results))[0] == {
        "a call": "seg-b-deit-16",
        "fastest": "OpenVINO bf16",
        "GFLOP": "214",
        "of the matrix peak": "68 %",
        "least MB": "174",
        "of the copy": "8 %",
    }
    assert [row["measured"] for row in cells(tables.limits(results))] == ["0.310 TFLOP/s", "1.60 TFLOP/s", "11.0 GB/s"]


def test_two_batches_of_a_model_are_told_apart(content, save):
    content["rows"].append(model("seg-b-mask-16", 48.48, [], id="seg-b-mask-16-batch-64", batch=64))
    assert [row["images/s"] for row in cells(tables.ours(read(save(content))))] == [
        "seg-b-deit-16",
        "seg-b-mask-16, batch 1",
        "seg-l-8",
        "seg-b-mask-16, batch 64",
    ]


def test_wide_tables_are_cut_and_their_models_repeated():
    table = markdown.Table("model", *(f"column {place}" for place in range(12)))
    table.add("seg-s-16", *map(str, range(12)))
    pieces = "\n".join(table.lines()).strip().split("\n\n")
    assert [len(cells(piece.splitlines())[0]) for piece in pieces] == [7, 7]
    assert all(cells(piece.splitlines())[0]["model"] == "seg-s-16" for piece in pieces)
    assert len({len(line) for line in pieces[0].splitlines()}) == 1  # columns stand below each other


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0, "0"),
        (0.01234, "0.0123"),
        (0.3, "0.300"),
        (0.99961, "1.00"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (999.7, "1,000"),
        (25088.4, "25,088"),
    ],
)
def test_numbers_keep_three_digits(value, text):
    assert markdown.number(value) == text


def test_the_page_names_machine_misses_and_what_is_not_there(results, content, save):
    text = page([results], {("xeon", "speed"): "benchmarks/xeon-speed.png"}, {"xeon": "Tried: **threads**.\n"})
    for told in (
        "## A Xeon \\| of 2 cores",
        "- 2 CPU cores, 24.0 GiB, 2.1 GHz, avx512, amx_bf16",
        "- python 3.11.7, torch 2.14.1\n",
        "- run of 2026-11-23, commit abc123-dirty, 39.1 minutes",
        "3 met, **1 missed**: seg-b-mask-16 (share of peak).",
        "](benchmarks/xeon-speed.png)",
        "- models, seg-l-16: 3 GB are left",
        "### Notes\n\nTried: **threads**.\n",
    ):
        assert told in text
    assert "Not in this run" not in text
    content["rows"] = [content["rows"][0], {"section": "poems", "id": "1"}]
    partial = page([read(save(content))], {}, {})
    assert "Not in this run: the paper's models, targets, scaling, stages, kernels." in partial
    assert "does not show: poems (1)" in partial


# pictures -------------------------------------------------------------------------------------------------------------


def test_page_and_pictures_are_written(content, save, tmp_path):
    path = save(content)
    path.with_suffix(".md").write_text("Why it was missed.", encoding="utf-8")
    ended = run(path, "--out", tmp_path / "docs" / "benchmarks.md")
    assert (ended.returncode, ended.stderr) == (0, "")
    folder = tmp_path / "docs" / "benchmarks"
    assert sorted(file.name for file in folder.iterdir()) == ["xeon-scaling.png", "xeon-speed.png", "xeon-stages.png"]
    text = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "Why it was missed." in text
    for kind, size in (("speed", (924, 572)), ("scaling", (1144, 506)), ("stages", (924, 211))):
        assert f"(benchmarks/xeon-{kind}.png)" in text
        file = folder / f"xeon-{kind}.png"
        with Image.open(file) as picture:
            picture.load()
            assert (picture.format, picture.size) == ("PNG", size)
            assert len(set(picture.convert("L").tobytes())) > 50  # it is not blank
        assert file.stat().st_size < 150_000


def test_pictures_are_the_same_for_the_same_run(results):
    first = plots.draw(results)
    assert first == plots.draw(results)
    assert first.keys() == {"speed", "scaling", "stages"}


def test_names_beside_the_axis_keep_their_distance():
    heights = {"a": 48.06, "b": 48.48, "c": 48.70, "d": 39.0, "e": 51.3}
    shown = plots._spread(sorted(heights.items(), key=lambda item: item[1]), 0.6)
    assert list(shown) == ["d", "a", "b", "c", "e"]
    assert all(after[1] - before[1] > 0.6 - 1e-9 for before, after in pairwise(shown.values()))
    assert (shown["d"], shown["e"]) == ((39.0, 39.0), (51.3, 51.3))
    assert shown["b"][1] == pytest.approx((48.06 + 48.48 + 48.70) / 3)


@pytest.mark.parametrize("section", ["models", "scaling", "stages", "kernels", "limits"])
def test_a_run_of_one_section_gives_a_report(content, save, section, tmp_path):
    content["rows"] = [row for row in content["rows"] if row["section"] == section]
    kinds = {"models": ["speed"], "scaling": ["scaling"], "stages": ["stages"]}.get(section, [])
    written = command.write([read(save(content))], tmp_path / "report.md")
    assert [path.name for path in written] == ["report.md", *(f"xeon-{kind}.png" for kind in kinds)]
    assert f"### {section.capitalize()}" in written[0].read_text(encoding="utf-8") or section == "models"


def test_columns_that_were_all_skipped_are_drawn_without(content, save):
    for row in content["rows"]:
        row.pop("exponents", None)
        if "columns" in row:
            row["columns"] = {name: {"skipped": "no memory"} for name in row["columns"]}
    content["rows"] = [row for row in content["rows"] if row["id"] != "exponents"]
    results = read(save(content))
    assert plots.draw(results).keys() == {"stages"}
    assert cells(tables.gains(results))[0]["fastest"] == "–"
    assert "- (a) no memory" in tables.peers(results)


def test_nothing_is_written_without_matplotlib(results, tmp_path, monkeypatch):
    monkeypatch.setattr("segfast.dependencies.imports.find_spec", lambda name: None)
    with pytest.raises(MissingRuntime, match=re.escape(f"matplotlib; {installation.install('test')}")):
        command.write([results], tmp_path / "report.md")
    assert [file.name for file in tmp_path.iterdir()] == ["xeon.json"]


def test_a_picture_that_cannot_be_written_leaves_the_old_page(results, tmp_path):
    (tmp_path / "report").write_text("a file in the way of the folder", encoding="utf-8")
    (tmp_path / "report.md").write_text("the old page", encoding="utf-8")
    with pytest.raises(CannotWrite):
        command.write([results], tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "the old page"


# comparison -----------------------------------------------------------------------------------------------------------


def slower(content, share):
    """The same run, in which our bf16 on seg-b-deit-16 has lost a share of its ratio."""
    content = copy.deepcopy(content)
    content["rows"][1]["columns"]["segfast-openvino-bf16"]["seconds"] /= 1 - share
    return content


@pytest.mark.parametrize(("share", "fell"), [(0.099, 0), (0.1, 0), (0.101, 2), (-0.5, 0)])
def test_a_ratio_fell_when_it_lost_over_a_tenth(content, save, share, fell):
    found = compare(read(save(content)), read(save(slower(content, share), "after")))
    assert len(found.changes) == 3 * 4 + 4 + 1
    assert len(found.fallen) == fell
    assert {change.key for change in found.fallen} <= {
        ("models", "seg-b-deit-16", f"segfast-openvino-bf16 to {peer}") for peer in ("eager", "stock")
    }


def test_a_slower_machine_is_no_fall(content, save):
    after = copy.deepcopy(content)
    for row in after["rows"]:
        for one in row.get("columns", {}).values():
            one.update({"seconds": 3 * one["seconds"]} if "seconds" in one else {})
    found = compare(read(save(content)), read(save(after, "after")))
    assert not found.fallen
    assert all(abs(change.change) < 1e-9 for change in found.changes)


def test_what_only_one_run_has_is_listed(content, save):
    after = copy.deepcopy(content)
    after["rows"][1]["columns"]["segfast-openvino-fp32"] = {"skipped": "wrong labels"}
    after["rows"] = [row for row in after["rows"] if row["section"] != "stages" and row["id"] != "seg-l-8"]
    after["rows"] += [{"section": "models", "id": "seg-l-8", "skipped": "no memory"}, scaled(8, 256, 1.0)]
    found = compare(read(save(content)), read(save(after, "after")))
    assert found.missing == (
        "models seg-b-deit-16 segfast-openvino-fp32: skipped, wrong labels",
        "models seg-l-8: skipped, no memory",
        "stages seg-s-16 1024x2048 jpeg",
    )
    assert found.new == ("scaling seg-s-8-256",)


def test_the_command_ends_with_1_where_a_ratio_fell(content, save):
    before, after = save(content), save(slower(content, 0.2), "after")
    ended = run("--compare", before, after)
    assert ended.returncode == 1
    assert ended.stdout.count("FELL") == 2
    assert "2 of 17 ratios fell by over 10 %" in ended.stdout
    told = json.loads(ended.stdout.splitlines()[-1])
    assert [row["ratio"] for row in told["fell"]] == [
        "segfast-openvino-bf16 to eager",
        "segfast-openvino-bf16 to stock",
    ]
    assert told["fell"][0]["before"] == pytest.approx(5)
    assert told["fell"][0]["after"] == pytest.approx(4)
    assert run("--compare", before, before).returncode == 0
    assert run("--compare", before, before.with_name("none.json")).returncode == 2


# files that are none --------------------------------------------------------------------------------------------------


def broken(change):
    """Results in which one thing is wrong."""
    return lambda content: (change(content), json.dumps(content))[1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (lambda content: json.dumps(content)[:-200], "is no JSON, or was cut off"),
        (lambda content: "", "is no JSON, or was cut off"),
        (lambda content: "[" * 100_000, "is no JSON, or was cut off"),
        (lambda content: "[1, 2]", "is some other JSON"),
        (lambda content: '{"benchmark": "benchmarks.gpu"}', "is a result of benchmarks.gpu"),
        (broken(lambda c: c.pop("rows")), "no list of rows"),
        (broken(lambda c: c.pop("device")), "'device' of the file is no object"),
        (broken(lambda c: c["rows"].append(3)), "a row is no object"),
        (broken(lambda c: c["rows"].append({"section": "models"})), "a row has no text 'id'"),
        (broken(lambda c: c["rows"].append(c["rows"][1])), "two rows are models seg-b-deit-16"),
        (broken(lambda c: c["rows"][1].pop("columns")), "'columns' of models seg-b-deit-16 is no object"),
        (broken(lambda c: c["rows"][1]["columns"]["eager-fp32"].pop("seconds")), "has no number 'seconds'"),
        (broken(lambda c: c["rows"][1]["columns"]["eager-fp32"].update(seconds=0)), "'seconds' of .* is 0"),
        (broken(lambda c: c["rows"][1]["columns"]["eager-fp32"].update(seconds=float("nan"))), "is no number from 0"),
        (broken(lambda c: c["device"].update(clock_mhz="2 GHz")), "'clock_mhz' of 'device' of the file is no number"),
        (broken(lambda c: c["rows"][1].update(flops=10**400)), "'flops' of models seg-b-deit-16 is no number"),
        (broken(lambda c: c["rows"][1].update(paper_images_per_second=["fast"])), "is no number from 0"),
        (broken(lambda c: c["rows"][1].update(size=True)), "'size' of models seg-b-deit-16 is no number"),
        (broken(lambda c: c["rows"][1]["targets"][0].pop("met")), "does not say whether it is met"),
        (broken(lambda c: c["rows"][-1].update(ratio=None, peers={})), "neither a ratio nor peers"),
    ],
)
def test_files_that_are_no_results_are_refused(content, tmp_path, text, told):
    path = tmp_path / "xeon.json"
    path.write_text(text(content), encoding="utf-8")
    with pytest.raises(BadOption, match=told) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "pytest benchmarks/ --benchmark-only" in str(caught.value)


def test_bytes_and_missing_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for name in ("bytes.json", "none.json", "."):
        with pytest.raises(BadOption, match="pytest benchmarks/"):
            read(tmp_path / name)
    ended = run(tmp_path / "none.json", "--out", tmp_path / "report.md")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: there is no ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "report.md").exists()


def test_results_of_other_commands_are_passed_over(content, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    with pytest.raises(BadOption, match="there is no result in"):
        command._all()
    (tmp_path / "gpu.json").write_text('{"benchmark": "benchmarks.gpu"}', encoding="utf-8")
    (tmp_path / "xeon.json").write_text(json.dumps(content), encoding="utf-8")
    assert [run.path.stem for run in command._all()] == ["xeon"]


def test_pages_are_named_md_and_runs_differ_in_name(results, tmp_path):
    with pytest.raises(BadOption, match=r"name it \*\.md"):
        command.write([results], tmp_path / "report.html")
    with pytest.raises(BadOption, match=r"two results are named xeon\.json"):
        command.write([results, results], tmp_path / "report.md")


RESULTS = REPOSITORY / "benchmarks" / "results" / "intel-xeon-2-cores.json"


def test_the_readme_shows_what_was_measured():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = tables.summary(read(RESULTS))
    assert len(lines) == 2 + len(tables.SHORT) + 1
    assert all(line in text for line in lines)


def test_the_page_and_its_pictures_are_those_of_the_results(tmp_path):
    written = command.write([read(RESULTS)], tmp_path / "benchmarks.md")
    assert len(written) == 4
    for path in written:
        made = REPOSITORY / "docs" / path.relative_to(tmp_path)
        if path.suffix == ".md":
            assert made.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), (
                "run python -m benchmarks.report"
            )
        else:
            assert made.is_file()
