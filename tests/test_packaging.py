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
from test_door import LOOK, names

import segfast
from segfast.dependencies import checkout, installation

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
def built(tmp_path_factory):
    """The folder of a wheel, and the copy of the checkout that it was built in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = (
        subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            check=True,
        )
        .stdout.decode()
        .split("\0")
    )
    for name in filter(None, tracked):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, source], check=True)
    return folder, source


@pytest.fixture(scope="module")
def wheel(built):
    return next(built[0].glob("*.whl"))


def environment_of(folder, *pip):
    """A virtual environment with segfast installed by pip and, on its path, this one's other packages."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *pip], check=True
    )
    paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return python, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def check(python, environment, cwd):
    """Import everything and run a command from `cwd`; the folders the packages came from."""
    ended = subprocess.run([python, "-c", CHECK], cwd=cwd, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    help_text = subprocess.run(
        [python, "-m", "segfast.export", "--help"], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert "seg-b-mask-16" in help_text.stdout, help_text.stderr
    looked = subprocess.run([python, "-c", LOOK], cwd=cwd, env=environment, capture_output=True, text=True)
    assert looked.stdout.strip() == names(), looked.stderr
    return ended.stdout.splitlines()


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    held = zipfile.ZipFile(wheel).namelist()
    assert len({name.split("/")[0] for name in held}) == 2  # segfast and its metadata
    beside = {name: f"segfast/{name}" for name in checkout.PACKAGES}
    modules = {
        f"{home}/{path.relative_to(REPOSITORY / folder).as_posix()}"
        for folder, home in {"segfast": "segfast", **beside}.items()
        for path in (REPOSITORY / folder).rglob("*.py")
    }
    assert {name for name in held if name.endswith(".py")} == modules
    data = ("py.typed", "data/ade20k.json", "serving/page.html", "examples/cat.jpg", "examples/README.md")
    assert {f"segfast/{name}" for name in data} <= set(held)


def test_the_example_model_stays_out_of_the_wheel(built, wheel):
    assert (built[1] / "examples" / "pets.onnx").is_file()
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".onnx")] == []
    assert wheel.stat().st_size < 5_000_000


def test_a_build_leaves_nothing_behind(built):
    left = {path.name for path in built[1].iterdir()} - {path.name for path in REPOSITORY.iterdir()}
    assert left == set()
    assert not (built[1] / "build").exists()
    assert list(built[1].glob("*.egg-info")) == []


def remedy(python, environment, cwd):
    """What an installation says to do for an extra."""
    code = "from segfast.dependencies import installation; print(installation.install('gpu'))"
    return subprocess.run(
        [python, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_from_a_wheel(wheel, tmp_path):
    python, environment = environment_of(tmp_path / "venv", wheel)
    homes = check(python, environment, tmp_path)
    assert all("site-packages" in home for home in homes)
    script = python.with_name("segfast.exe" if sys.platform == "win32" else "segfast")
    ended = subprocess.run([script, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.stdout.startswith("segfast ")
    assert remedy(python, environment, tmp_path) == f"pip install '{wheel}[gpu]'"
    check(python, environment, REPOSITORY)  # here the checkout comes first, and works as well


def test_editable(tmp_path):
    if (Path(sysconfig.get_path("purelib")) / "segfast").exists():
        pytest.skip("segfast itself is installed beside its dependencies here, and would come first")
    python, environment = environment_of(tmp_path / "venv", "--editable", str(REPOSITORY))
    for folder in (tmp_path, REPOSITORY):
        homes = check(python, environment, folder)
        assert [os.path.relpath(home, REPOSITORY).split(os.sep)[0] for home in homes] == [
            "segfast",
            "kernels",
            "export",
        ]
    assert remedy(python, environment, tmp_path) == f"pip install -e '{REPOSITORY}[gpu]'"


@pytest.mark.parametrize("inside", [True, False])
def test_bare_checkout(tmp_path, inside):
    environment = {**os.environ, "PYTHONPATH": "" if inside else str(REPOSITORY)}
    homes = check(sys.executable, environment, REPOSITORY if inside else tmp_path)
    assert [os.path.relpath(home, REPOSITORY).split(os.sep)[0] for home in homes] == ["segfast", "kernels", "export"]


@pytest.fixture(scope="module")
def metadata(wheel):
    """The lines of a wheel's metadata."""
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    return zipfile.ZipFile(wheel).read(name).decode().splitlines()


def test_the_distribution_has_a_name_of_its_own(metadata):
    """`segfast` is another project's on the package index."""
    assert f"Name: {installation.DISTRIBUTION}" in metadata
    assert f"Version: {segfast.__version__}" in metadata


def test_triton_comes_with_what_needs_its_kernels(metadata):
    extras = {line.split("extra == ")[1].strip('"') for line in metadata if line.startswith("Requires-Dist: triton>")}
    assert extras == {"gpu", "tensorrt", "rtx", "train", "test"}


def test_dependencies_stay_lean(metadata):
    lines = metadata
    needed = [line.split(": ")[1] for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert {name.split(">")[0] for name in needed} == {"numpy", "pillow", "openvino", "numba", "tqdm"}
    extras = {line.split(": ")[1] for line in lines if line.startswith("Provides-Extra")}
    assert extras == {"export", "gpu", "tensorrt", "rtx", "int8", "train", "coco", "ray", "serve", "test"}
