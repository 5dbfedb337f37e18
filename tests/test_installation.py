"""What installs this segfast again: never a name on a package index, where `segfast` is another project's."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
from helpers import REPOSITORY

from segfast.dependencies import inspection, installation

# Of an installation in some `site-packages`: its record (PEP 610), and what it gives with the extra `gpu` and as a newer version.
REMEDIES = {
    "a folder": (
        {"url": "file://{here}", "dir_info": {}},
        "pip install '{here}[gpu]'", "update the checkout in {here} (git pull), then pip install {here}"),
    "a folder that is gone": (
        {"url": "file://{here}/gone%20away", "dir_info": {}},
        "pip install '{here}/gone away[gpu]' (which is gone: bring it back first)",
        "update the checkout in {here}/gone away (git pull), then pip install '{here}/gone away'"),
    "a wheel": (
        {"url": "file://{here}/a.whl", "archive_info": {}},
        "pip install '{here}/a.whl[gpu]'", "install a newer segfast wheel than {here}/a.whl"),
    "a wheel of a server": (
        {"url": "https://example.org/a.whl", "archive_info": {}},
        "pip install 'segfast-engine[gpu] @ https://example.org/a.whl'", "install a newer segfast wheel than https://example.org/a.whl"),
    "a repository": (
        {"url": "https://example.org/a", "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "12ab"}},
        "pip install 'segfast-engine[gpu] @ git+https://example.org/a@12ab'",
        "pip install --upgrade 'segfast-engine @ git+https://example.org/a'"),
    "a folder of a repository": (
        {"url": "ssh://git@example.org/a", "vcs_info": {"vcs": "git", "commit_id": "12ab"}, "subdirectory": "b"},
        "pip install 'segfast-engine[gpu] @ git+ssh://git@example.org/a@12ab#subdirectory=b'",
        "pip install --upgrade 'segfast-engine @ git+ssh://git@example.org/a#subdirectory=b'"),
    "no record": (None, "install the segfast wheel you installed again, with [gpu]", "install a newer segfast wheel"),
    "a damaged record": ("[", "install the segfast wheel you installed again, with [gpu]", "install a newer segfast wheel"),
    "a record of another form": (
        {"url": 3, "vcs_info": [], "dir_info": "x"}, "pip install 'segfast-engine[gpu] @ 3'", "install a newer segfast wheel than 3"),
}  # fmt: skip


def distribution(folder, name, record=None, summary="A summary"):
    """A distribution's metadata in a folder."""
    home = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\nSummary: {summary}\n")
    if record is not None:
        (home / "direct_url.json").write_text(record if isinstance(record, str) else json.dumps(record))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty `site-packages`, where segfast seems to lie."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.setattr(installation, "HOME", folder)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.mark.parametrize("case", REMEDIES)
def test_an_installation_is_repeated_from_where_it_came(here, case):
    record, extra, newer = REMEDIES[case]
    (here / "a.whl").touch()
    if isinstance(record, dict):
        record = json.loads(json.dumps(record).replace("{here}", str(here)))
    distribution(here, "segfast-engine", record)
    assert installation.install("gpu") == extra.replace("{here}", str(here))
    assert installation.install(newer=True) == newer.replace("{here}", str(here))


def test_a_checkout_is_installed_in_place(here, tmp_path):
    (here / "setup.py").touch()
    assert installation.install("gpu") == f"cd {here} && pip install -e '.[gpu]'"
    distribution(here, "segfast-engine", {"url": "file:///another", "dir_info": {"editable": True}})
    assert installation.install() == f"cd {here} && pip install -e ."
    distribution(tmp_path / "more", "segfast-engine", {"url": f"file://{here}", "dir_info": {"editable": True}})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path / "more")
        assert installation.install("gpu") == f"pip install -e '{here}[gpu]'"
        assert (
            installation.install(newer=True) == f"update the checkout in {here} (git pull), then pip install -e {here}"
        )


def test_an_installation_elsewhere_is_not_this_one(here, tmp_path, monkeypatch):
    """As where a virtual environment sees the system's packages."""
    distribution(tmp_path / "more", "segfast-engine", {"url": "https://example.org/a.whl", "archive_info": {}})
    monkeypatch.syspath_prepend(tmp_path / "more")
    assert installation.install("gpu") == "install the segfast wheel you installed again, with [gpu]"


def test_doctor_names_another_distribution_of_our_import_name(here, monkeypatch):
    distribution(here, "segfast-engine")
    others = [found for found in installation._distributions("segfast") if installation._folder(found) == here]
    assert others == []
    monkeypatch.setattr(
        installation,
        "_distributions",
        lambda name, real=installation._distributions: [
            found for found in real(name) if installation._folder(found) == here
        ],
    )
    assert installation.foreign() is None
    distribution(here, "segfast", summary="Seismology")
    (warning,) = (text for text in inspection.conflicts() if "onnxruntime" not in text)
    assert warning.startswith("segfast 1.2 (Seismology) is another distribution with the import name of segfast-engine")
    assert warning.endswith("pip uninstall -y segfast, then install the segfast wheel you installed again")


def test_a_checkouts_old_metadata_is_not_foreign(here, monkeypatch):
    (here / "setup.py").touch()
    distribution(here, "segfast")
    monkeypatch.setattr(
        installation,
        "_distributions",
        lambda name, real=installation._distributions: [
            found for found in real(name) if installation._folder(found) == here
        ],
    )
    assert installation.foreign() is None


# every message -------------------------------------------------------------------------------------------------------

# `install` with our name as a requirement of an index, unlike `pip install 'segfast-engine[gpu] @ git+…'` or a path.
NAMED = re.compile(r"""(?x)
    \b install \b [^;\n]*? (?<![\w./@-]) segfast (?:[-_.]engine)? \b (?![-\w./]) (?! (\[[^\]]*\])? \s* (@|wheel\b|again\b) )
    | ['"`]segfast\[""")


def words(path):
    """Every text of a file: of Python's the literals, with `{}` for what is put in, of others the lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from text.splitlines()
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def sources():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    names = listed.stdout.splitlines() or [str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("*/**/*.py")]
    wanted = [
        name for name in names if name.endswith((".py", ".md", ".ipynb", ".toml")) and not name.startswith("tests/")
    ]
    return [path for name in wanted if (path := REPOSITORY / name).is_file()]


def test_no_text_names_a_package_of_ours_on_an_index():
    files = sources()
    assert {"installation.py", "README.md", "setup.py", "config.py"} <= {path.name for path in files}
    named = [
        f"{path.relative_to(REPOSITORY)}: {text.strip()}"
        for path in files
        for text in words(path)
        if NAMED.search(text)
    ]
    assert named == []


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'segfast[export]'",
        "pip install segfast",
        "pip install --upgrade segfast",
        "uv pip install segfast-engine",
        "pip install segfast_engine[gpu]",
        "pip install -U segfast==2",
        "needs PyTorch: {} 'segfast[gpu]'",
        "python -m pip install segfast, again",
    ],
)
def test_such_a_text_would_be_found(text, tmp_path):
    (tmp_path / "a.py").write_text(f"raise ValueError(f{text.replace('{}', '{3}')!r})")
    assert any(NAMED.search(found) for found in words(Path(tmp_path / "a.py")))


@pytest.mark.parametrize("case", REMEDIES)
def test_no_remedy_would_be(case):
    assert not any(NAMED.search(text) for text in REMEDIES[case][1:])
