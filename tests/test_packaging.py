"""The package works from a wheel, an editable install and a bare checkout, inside and outside the repository."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import REPOSITORY

CHECK = """
import importlib.resources, sys
import segfast, segfast.kernels, segfast.export, segfast.runtimes
from segfast.classes import dataset
assert len(dataset("ade20k")[0]) == 150
assert importlib.resources.files("segfast.examples").joinpath("coffee.jpg").is_file()
assert segfast.kernels.merge_windows
print(segfast.__file__, segfast.kernels.__file__, segfast.export.__file__, sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY,
                             capture_output=True, check=True).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, tracked):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, source], check=True)
    return next(folder.glob("*.whl"))


def environment_of(folder, *pip):
    """A virtual environment with segfast installed by pip and, on its path, this one's other packages."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *pip], check=True)
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return python, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def check(python, environment, cwd):
    """Import everything and run a command from `cwd`; the folders the packages came from."""
    ended = subprocess.run([python, "-c", CHECK], cwd=cwd, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    help_text = subprocess.run([python, "-m", "segfast.export", "--help"], cwd=cwd, env=environment, capture_output=True, text=True)
    assert "seg-b-mask-16" in help_text.stdout, help_text.stderr
    return ended.stdout.splitlines()


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert "segfast" in tops
    for needed in ("py.typed", "data/ade20k.json", "kernels/reference.py", "export/__main__.py", "examples/cat.jpg",
                   "runtimes/openvino.py", "examples/README.md"):  # fmt: skip
        assert f"segfast/{needed}" in names


def test_from_a_wheel(wheel, tmp_path):
    python, environment = environment_of(tmp_path / "venv", wheel)
    homes = check(python, environment, tmp_path)
    assert all("site-packages" in home for home in homes)
    script = python.with_name("segfast.exe" if sys.platform == "win32" else "segfast")
    ended = subprocess.run([script, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.stdout.startswith("segfast ")
    check(python, environment, REPOSITORY)  # here the checkout comes first, and works as well


def test_editable(tmp_path):
    if (Path(sysconfig.get_path("purelib")) / "segfast").exists():
        pytest.skip("segfast itself is installed beside its dependencies here, and would come first")
    python, environment = environment_of(tmp_path / "venv", "--editable", str(REPOSITORY))
    for folder in (tmp_path, REPOSITORY):
        homes = check(python, environment, folder)
        assert [os.path.relpath(home, REPOSITORY).split(os.sep)[0] for home in homes] == ["segfast", "kernels", "export"]


@pytest.mark.parametrize("inside", [True, False])
def test_bare_checkout(tmp_path, inside):
    environment = {**os.environ, "PYTHONPATH": "" if inside else str(REPOSITORY)}
    homes = check(sys.executable, environment, REPOSITORY if inside else tmp_path)
    assert [os.path.relpath(home, REPOSITORY).split(os.sep)[0] for home in homes] == ["segfast", "kernels", "export"]


def test_dependencies_stay_lean(wheel):
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    needed = [line.split(": ")[1] for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert {name.split(">")[0] for name in needed} == {"numpy", "pillow", "openvino", "numba", "tqdm"}
    extras = {line.split(": ")[1] for line in lines if line.startswith("Provides-Extra")}
    assert extras == {"export", "gpu", "tensorrt", "rtx", "int8", "train", "test"}
