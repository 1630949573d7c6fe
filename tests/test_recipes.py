"""Every recipe, and every Python block of the README and docs, runs as it stands."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

import gatescope as gs

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]


# Training takes most of the time, and what it comes to is not the point here.
SHORTER = {"fine_tune_modules": ["--steps", "3", "--draws", "1"], "language_neurons": ["--steps", "15"]}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe(recipe, fewer_questions, tmp_path, monkeypatch, capsys):
    assert len(recipe.read_text().splitlines()) < 80
    monkeypatch.setattr(sys, "argv", [str(recipe), *SHORTER.get(recipe.stem, [])])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(recipe), run_name="__main__")
    assert "points" in capsys.readouterr().out


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_documented_block(block, fewer_questions, tmp_path, monkeypatch):
    """As a script of its own."""
    script = tmp_path / "block.py"
    script.write_text(BLOCKS[block])
    monkeypatch.setattr(sys, "argv", [str(script)])  # one block is a recipe, which reads its own options
    monkeypatch.chdir(tmp_path)
    there = dict(gs.data.CARDS)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:  # a page that adds a dataset adds it to this process
        gs.data.CARDS.clear()
        gs.data.CARDS.update(there)


def test_there_is_something_to_run():
    assert RECIPES and BLOCKS
