"""The documentation: it builds, names every command with its example, and quotes messages that really occur."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from gatescope.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ANY = "…"  # what differs from one time to the next
QUOTED = re.findall(r"^\*\*Message:\*\* (`+)(.+?)\1$", (DOCS / "errors.md").read_text(), re.MULTILINE)
MESSAGES = [message for _, message in QUOTED]


def commands(command=None, name="gatescope"):
    """(full name, help) of every command, those of groups included."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        yield name, command.help or ""
        return
    for part, inner in command.commands.items():
        yield from commands(inner, f"{name} {part}")


COMMANDS = dict(commands())


def written():
    """Every text in the source, an f-string's values as the ellipsis; neighbouring literals are one."""
    for file in sorted((ROOT / "src" / "gatescope").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else ANY for part in node.values]
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.fixture(scope="module")
def source():
    return list(written())


def occurs(message, texts):
    """Whether one text holds the message's fixed parts, all of them, in order."""
    parts = [part.strip(" ") for part in message.split(ANY)]
    longest = max(parts, key=len)  # searching the few texts that hold it spares a second for each message
    pattern = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
    return any(pattern.search(text) for text in texts if longest in text)


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install -e '.[docs]'")
def test_the_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_every_page_is_in_the_navigation_and_opened_by_one_title():
    listed = re.findall(r"([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))
    for page in DOCS.glob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        assert text.startswith("# ") and len(re.findall(r"^# ", text, re.MULTILINE)) == 1, page.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named_with_its_example(name):
    page = (DOCS / "command-line.md").read_text()
    assert re.search(rf"^\| `{re.escape(name)}` \|", page, re.MULTILINE)
    examples = re.findall(r"Example:\s+(.+)", COMMANDS[name])
    assert examples
    for example in examples:
        assert re.search(rf"^{re.escape(example.strip())}$", page, re.MULTILINE), example


def test_the_page_names_no_command_that_is_not_there():
    named = re.findall(r"^\| `(gatescope [^`]+)` \|", (DOCS / "command-line.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(COMMANDS)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:40])
def test_every_message_quoted_occurs_in_the_source(message, source):
    assert max(map(len, message.split(ANY))) >= 12, "too little of it is fixed to be found"
    assert occurs(message, source)


def test_a_message_that_does_not_occur_would_be_noticed(source):
    assert len(MESSAGES) >= 40
    assert not occurs("The model has no sight …; it has …", source)
    assert not occurs("it has …. The model has no site", source)


def test_the_citation_file_has_what_is_required():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license", "type"} <= set(cited)
    assert cited["authors"] == [{"name": "gatescope contributors"}] and cited["license"] == "MIT"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["title"], cited["version"]) == (project["name"], project["version"])
    titles = [reference["title"] for reference in cited["references"]]
    assert len(titles) == 2 and all(title in (DOCS / "sources.md").read_text() for title in titles)
    assert all(reference["authors"] and reference["type"] for reference in cited["references"])
