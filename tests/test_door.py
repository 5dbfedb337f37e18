"""What goes by the name of `segfast.…` in a checkout: the packages that setup.py packs, and nothing else beside them."""

import importlib
import os
import subprocess
import sys

import pytest
from helpers import REPOSITORY

import segfast
from segfast import kernels
from segfast.dependencies import checkout

# `test_packaging` runs it in an installation, too.
LOOK = """
import importlib, pkgutil, segfast
for name in ("segfast", "tests", "docs", "benchmarks", "setup", "shared", "pyproject", "<beside>"):
    try:
        importlib.import_module(f"segfast.{name}")
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"segfast.{name} came in")
for name in ("kernels", "export", "train", "examples"):
    importlib.import_module(f"segfast.{name}")
print(*sorted(found.name for found in pkgutil.iter_modules(segfast.__path__)))
"""
AGAIN = """
import importlib, sys, segfast
for _ in range(2):
    assert importlib.reload(segfast) is segfast
    assert len(segfast.__path__) == len(set(segfast.__path__)) == 2
    for name in [name for name in sys.modules if name.startswith("segfast.")]:
        del sys.modules[name]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    import segfast.kernels, segfast.examples, segfast.train
assert sum(hook.__module__ == "segfast.dependencies.checkout" for hook in sys.path_hooks) == 1
"""
SPAWN = """
import importlib.resources, multiprocessing, pickle, runpy
from segfast.kernels import reference
if __name__ == "__main__":
    assert pickle.loads(pickle.dumps(reference.Windows)) is reference.Windows
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(reference.label_dtype, [256, 257]) == [reference.np.uint8, reference.np.uint16]
    assert runpy.run_module("segfast.kernels.quota")["cpus"]() > 0
    assert importlib.resources.files("segfast.examples").joinpath("coffee.jpg").is_file()
    assert importlib.resources.files("segfast").joinpath("py.typed").is_file()
"""


def names():
    """The modules and packages of segfast that have code, as LOOK prints them."""
    inside = [path.stem for path in (REPOSITORY / "segfast").glob("*.py") if path.stem != "__init__"]
    rooms = [path.parent.name for path in (REPOSITORY / "segfast").glob("*/__init__.py")]
    beside = [name for name in checkout.PACKAGES if (REPOSITORY / name / "__init__.py").is_file()]
    return " ".join(sorted([*inside, *rooms, *beside]))


@pytest.fixture(params=["inside", "outside"])
def run(request, tmp_path):
    """Runs code from inside of the checkout or, as a file, from outside of it; what it prints."""
    inside = request.param == "inside"

    def run(code):
        (tmp_path / "code.py").write_text(code)
        ended = subprocess.run(
            [sys.executable, "-c", code] if inside else [sys.executable, "code.py"],
            cwd=REPOSITORY if inside else tmp_path,
            env={**os.environ, "PYTHONPATH": "" if inside else str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    return run


def test_nothing_else_comes_in(run):
    assert run(LOOK) == names()


def test_the_door_is_put_in_once(run):
    run(AGAIN)


def test_other_ways_in(run):
    run(SPAWN)


def test_another_folder_is_no_door(tmp_path):
    with pytest.raises(ImportError):
        checkout.Beside(str(tmp_path))


@pytest.mark.parametrize("module", [segfast, kernels])
def test_names_are_looked_for_once(module, monkeypatch):
    first = {name: getattr(module, name) for name in module.__all__}
    monkeypatch.setattr(module, "__getattr__", lambda name: pytest.fail(f"{name} is looked for again"))
    assert {name: getattr(module, name) for name in module.__all__} == first
    assert dir(module) == sorted(module.__all__)


@pytest.mark.parametrize("module", [segfast, kernels])
def test_no_other_names(module):
    assert set(module._HOMES) <= set(module.__all__)
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nonsense'"):
        _ = module.nonsense


@pytest.mark.parametrize(
    "path",
    [
        "segfast.image.read_image",
        "segfast.image.SamplesWarning",
        "segfast.segmentation.Segmentation",
        "segfast.kernels.checks.cpus",
        "segfast.datasets.open_dataset",
        "segfast.datasets.masks.read_mask",
        "segfast.evaluate.evaluate",
        "segfast.train.state.load",
        "segfast.export.build_engine",
    ],
)
def test_what_users_were_told_of_is_where_it_was(path):
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert callable(found)
