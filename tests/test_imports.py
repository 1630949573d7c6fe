"""nnsight, beartype and anyio work together in whichever order a user imports them."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

import gatescope

CHECK = """
import torch
counters = gatescope.Counters.zeros(["a", "b"], gatescope.Layout.single("gate", 1, 2))
try:
    gatescope.select.cas(counters, rate="no")
except Exception as error:
    assert "rate" in str(error), error
else:
    raise SystemExit("beartype checked nothing")
assert hasattr(torch.ones(1), "save"), "nnsight's .save is gone"
print("fine")
"""


@pytest.mark.parametrize(
    "order",
    [
        "import gatescope",
        "import nnsight; import gatescope; import beartype",
        "import beartype; import nnsight; import gatescope",
        "import gatescope; import nnsight; import beartype",
        "import nnsight\ntry:\n    import beartype\nexcept TypeError:\n    pass\nimport gatescope; import beartype",
    ],
)
def test_import_order_does_not_matter(order):
    done = subprocess.run([sys.executable, "-c", f"{order}\n{CHECK}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"


# What an asynchronous client or a web server does with anyio: its late modules, and attribute sets of its own.
ASYNCHRONOUS = """
import anyio.abc, anyio.streams.file, anyio.streams.tls, anyio._backends._asyncio
import asyncio, httpx
class Mine(anyio.TypedAttributeSet):
    place: str = anyio.typed_attribute()
try:
    class Wrong(anyio.TypedAttributeSet):
        place = anyio.typed_attribute()
except TypeError:
    pass
else:
    raise SystemExit("anyio checks nothing any more")
async def ask():
    async with httpx.AsyncClient() as client:
        await client.get("http://127.0.0.1:9")
try:
    asyncio.run(ask())
except httpx.ConnectError:
    print("fine")
"""


@pytest.mark.parametrize(
    "order",
    [
        "import gatescope",
        "import anyio.abc, anyio.streams.file; import gatescope",
        "import nnsight; import gatescope",
        "import nnsight\ntry:\n    import anyio.streams.file\nexcept TypeError:\n    pass\nimport gatescope",
    ],
)
def test_anyio_and_what_stands_on_it_work_before_and_after_gatescope(order):
    pytest.importorskip("httpx")
    done = subprocess.run([sys.executable, "-c", f"{order}\n{ASYNCHRONOUS}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"


ROOT = pathlib.Path(gatescope.__file__).parent
MODULES = {
    ".".join(["gatescope", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}
CORE = ("artefacts", "attributions", "counters", "kernels", "labels", "neurons", "select")
CORE += tuple(f"evaluate.{name}" for name in ("answers", "likert", "metrics", "options", "short", "significance", "table"))


def imported(module):
    """What a module imports when it is imported, by full name; not what its functions import when they run."""
    found = set()
    for node in ast.parse(MODULES[module].read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found - {module}


GRAPH = {module: imported(module) for module in MODULES}


def reached(module, seen=()):
    seen = set(seen)
    for name in GRAPH.get(module, ()):
        if name not in seen:
            seen |= {name} | reached(name, seen | {name})
    return seen


def test_imports_run_one_way():
    for module in MODULES:
        assert module not in reached(module), f"{module} imports itself by way of others"
        above = [name for name in GRAPH[module] if name.startswith(("gatescope.cli", "gatescope.report"))]
        assert (
            not above
            or module.startswith(("gatescope.cli", "gatescope.report"))
            or module in ("gatescope", "gatescope.__main__")
        )


def test_the_pure_core_needs_neither_nnsight_nor_transformers():
    core = [name for name in MODULES if name.removeprefix("gatescope.").startswith(CORE)]
    assert len(core) >= 16
    for module in core:
        theirs = {name.partition(".")[0] for name in reached(module)}
        assert not theirs & {"nnsight", "transformers"}, module
    assert GRAPH["gatescope.kernels.eager"] == {"torch", "__future__"}
