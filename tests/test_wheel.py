"""What is installed is the whole package: the wheel holds every file of it, and the organisms in it are whole."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gatescope.organism import shelf
from processes import python

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the tree as `pip install .` builds it, by the backend that pyproject.toml names."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    place = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(place)
    return place


def files(folder):
    kept = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in kept}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel, unpacked):
    assert files(unpacked / "gatescope") == files(ROOT / "src" / "gatescope")
    (about,) = unpacked.glob("gatescope-*.dist-info")
    assert {path.name for path in unpacked.iterdir()} == {"gatescope", about.name}
    assert "gatescope = gatescope.cli:main" in (about / "entry_points.txt").read_text()
    assert wheel.stat().st_size < 10_000_000


def test_the_organisms_in_the_wheel_are_whole(unpacked):
    place = unpacked / "gatescope" / "organism" / "assets"
    told = shelf.organisms(place)
    assert set(told) == {"selective", "hidden", "decoys", "plain", "text"}
    for kind, entry in told.items():
        shelf.check(place, kind, entry)


# `python -m gatescope.organism`, where torch and transformers are imported already.
LISTED = """
import os, runpy, sys
for name in [name for name in sys.modules if name.partition(".")[0] == "gatescope"]:
    del sys.modules[name]
_, unpacked, elsewhere, variable = sys.argv
sys.path.insert(0, unpacked)
sys.argv = ["-m"]
os.chdir(elsewhere)
os.environ.pop(variable, None)
runpy.run_module("gatescope.organism", run_name="__main__", alter_sys=True)
"""


def test_the_unpacked_package_finds_its_own_organisms(unpacked, tmp_path):
    done = python(LISTED, str(unpacked), str(tmp_path), shelf.VARIABLE)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["selective", "hidden", "decoys", "plain", "text"]
    assert done.stdout.count(str(unpacked)) == 5


def test_git_leaves_the_organisms_bytes_alone():
    """A checkout that turns line ends would change their digests."""
    assert "src/gatescope/organism/assets/** -text" in (ROOT / ".gitattributes").read_text().splitlines()
