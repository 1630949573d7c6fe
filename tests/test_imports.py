"""nnsight and beartype work together in either order; imports run one way; nothing heavy is loaded early."""

from __future__ import annotations

import ast
import functools
import json
import pathlib
import subprocess
import sys

import pytest

import gatescope

CHECK = """
import torch
gatescope.load_model  # loads nnsight, if it is not there yet
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


ORDERS = {
    "nothing": "",
    "nnsight": "import nnsight",
    "gatescope, nnsight": "import gatescope, nnsight",
    "beartype, nnsight": "import beartype, nnsight",
    "anyio": "import anyio.abc, anyio.streams.file",
    # nnsight alone breaks both; what was half imported is imported again after gatescope.
    "nnsight, beartype broken": "import nnsight\ntry:\n    import beartype\nexcept TypeError:\n    pass",
    "nnsight, anyio broken": "import nnsight\ntry:\n    import anyio.streams.file\nexcept TypeError:\n    pass",
}


# Each in a process forked from one that has imported only what brings in neither of them, and costs seconds.
FRESH = """
import json, os, sys
import scipy.optimize, scipy.stats, torch._dynamo, torchvision
assert not {"nnsight", "beartype", "anyio", "gatescope", "transformers"} & set(sys.modules)
for code in json.loads(sys.stdin.read()):
    child = os.fork()
    if not child:
        exec(compile(code, "<order>", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print("--", flush=True)
"""


@pytest.fixture(scope="module")
def said():
    """By what was imported before gatescope, what the checks say."""
    codes = [f"{before}\nimport gatescope\n{CHECK}\n{ASYNCHRONOUS}" for before in ORDERS.values()]
    command = [sys.executable, "-c", FRESH]
    done = subprocess.run(command, input=json.dumps(codes), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return dict(zip(ORDERS, done.stdout.split("--\n"), strict=False))


@pytest.mark.parametrize("before", ORDERS)
def test_nnsight_beartype_and_anyio_work_whatever_was_imported_before(said, before):
    """And what is imported after it, with what stands on anyio (httpx, web servers)."""
    pytest.importorskip("httpx")
    assert said[before].split() == ["fine", "fine"], said[before]


ROOT = pathlib.Path(gatescope.__file__).parent
MODULES = {
    ".".join(["gatescope", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}
# A room may import those before it, never those after it.
ROOMS = (
    *("_typing", "core", "kernels", "select", "statistics", "data", "models", "traces", "interventions", "doctor", "steps"),
    *("organism", "studies", "reports", "interop", "cli"),
)
PURE = ("core", "kernels", "select", "statistics")


def imported(module):
    """What a module imports, by full name: at its top, inside functions, and for a type checker alone."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found - {module}


@functools.cache  # every worker of the suite reads this file, and one runs its tests
def graph():
    return {module: imported(module) for module in MODULES}


def reached(module, but=""):
    seen, ahead = set(), [module]
    while ahead:
        new = graph().get(ahead.pop(), set()) - seen - {but}
        seen |= new
        ahead += new
    return seen


def room(module):
    return module.split(".")[1]


def test_no_module_imports_itself_by_way_of_others():
    circles = [module for module in MODULES if module in reached(module)]
    assert not circles


def test_every_module_is_in_a_room():
    assert {room(module) for module in MODULES if "." in module} == {*ROOMS, "__main__"}


def test_rooms_import_only_the_rooms_before_them():
    up = [
        (module, name)
        for module in MODULES
        if "." in module and room(module) in ROOMS
        for name in graph()[module]
        if name.startswith("gatescope.") and ROOMS.index(room(name)) > ROOMS.index(room(module))
    ]
    assert not up


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name and room(name) in PURE])
def test_the_pure_rooms_need_neither_nnsight_nor_transformers(module):
    # _typing looks at nnsight only where it is loaded already.
    theirs = {name.partition(".")[0] for name in reached(module, but="gatescope._typing")}
    assert not theirs & {"nnsight", "transformers"}


def test_the_kernels_that_travel_need_torch_alone():
    for name in ("eager", "change"):
        assert graph()[f"gatescope.kernels.{name}"] <= {"torch", "__future__"}


def test_no_public_function_shares_its_name_with_a_module():
    functions = {name for name in gatescope.__all__ if callable(getattr(gatescope, name))}
    assert not functions & {room(module) for module in MODULES if "." in module}


def test_every_public_name_is_there():
    for name in gatescope.__all__:
        assert getattr(gatescope, name) is not None
    with pytest.raises(AttributeError, match="module 'gatescope' has no attribute 'recrod'"):
        _ = gatescope.recrod


HEAVY = ("torch", "transformers", "nnsight", "datasets", "scipy", "numpy", "PIL")


@pytest.mark.parametrize(
    "what",
    [
        "import gatescope",
        "import sys; sys.argv = ['gatescope', '--help']; import gatescope.cli; gatescope.cli.main()",
        "import sys; sys.argv = ['gatescope', '--version']; import gatescope.cli; gatescope.cli.main()",
        "import sys; sys.argv = ['gatescope', 'study', '--help']; import gatescope.cli; gatescope.cli.main()",
    ],
)
def test_nothing_heavy_is_loaded_for(what):
    tell = f"import sys; print('loaded', sorted(set(sys.modules) & set({HEAVY!r})))"
    code = f"import atexit\natexit.register(lambda: exec({tell!r}))\n{what}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "loaded []", done.stdout + done.stderr


LATE = ("torch._dynamo", "torch._inductor", "transformers.modeling_utils", "transformers.generation.utils", "jaxtyping")


def test_load_model_is_reached_without_what_only_a_model_needs():
    """`import nnsight` does not load these either; together they cost as many seconds again."""
    code = f"import sys, gatescope; gatescope.load_model; print('loaded', sorted(set(sys.modules) & set({LATE!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "loaded []", done.stdout + done.stderr
