"""Shared models: the organisms are shipped (or $GATESCOPE_ORGANISMS); tiny random models are built once a session."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import pickle
import shutil
from pathlib import Path

import hypothesis
import jaxtyping

SOURCE = Path(__file__).parent.parent / "src"


def shaped(text: str) -> bool:
    """Whether a module's functions have shapes. Classes whose fields have old names check their own, `checked`: the hook's
    checker, put round theirs, would refuse the old names."""
    return "from jaxtyping import" in text and "rename_fields(" not in text


# Under the tests every function's shapes are checked, wherever there are shapes, not only in the pure core; the hook stays,
# for modules are imported late. Every other module is as it is for its users.
SHAPED = [
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for file in SOURCE.rglob("*.py")
    if shaped(file.read_text(encoding="utf-8"))
]
jaxtyping.install_import_hook(SHAPED, "checker.tower")

import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402

import gatescope as gs  # noqa: E402

# `tiny` is imported where it is used: torch and transformers cost xdist's first process, which runs no test, ten seconds.

# Tests, and the processes they start, run in other directories.
if own := os.environ.get("GATESCOPE_ORGANISMS"):
    os.environ["GATESCOPE_ORGANISMS"] = str(Path(own).resolve())

collect_ignore = ["loopback/server.py", "loopback/client.py"]  # processes of their own, not modules

# No test may depend on seconds: a busy machine is no failure.
hypothesis.settings.register_profile("gatescope", deadline=None)
hypothesis.settings.load_profile("gatescope")


# The files that take longest: what is begun last keeps one worker busy when the others have nothing left.
LONGEST = ["remote", "doctor", "runs", "recipes", "ray", "study", "report", "organism_training", "picture_families"]
LONGEST += ["text_organism", "bound", "imports", "lm_eval", "sweep_together", "kernels", "remote_faults", "organism_kinds"]
PLACES = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: PLACES.get(item.path.name, len(PLACES)))


@pytest.fixture(scope="session")
def organism():
    return gs.organism.load()


@pytest.fixture(scope="session")
def organism_model(organism):
    return gs.load_model(organism.path)


@pytest.fixture(scope="session")
def _studied(organism, organism_model, tmp_path_factory):
    """Made by one of the suite's workers, for all of them."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "studied"
    with FileLock(place.with_suffix(".lock")):
        if not (kept := place.with_suffix(".pickle")).exists():
            result = gs.run_study(organism_model, organism.study, rate=0.01, out=place / "organism", known=organism.known)
            kept.write_bytes(pickle.dumps(result))
    return place / "organism", pickle.loads(kept.read_bytes())


@pytest.fixture(scope="module")
def studied(_studied, tmp_path_factory):
    """A copy of the organism's study, all of it: the run's directory, and the result."""
    path, result = _studied
    return shutil.copytree(path, tmp_path_factory.mktemp("runs") / "organism"), result


@pytest.fixture(scope="session")
def sources_read_once():
    """nnsight looks up the source of forty functions for every job that is sent, twice each, and Python parses it anew."""
    found, remembered = inspect.getsourcelines, functools.cache(inspect.getsourcelines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "getsourcelines", lambda of: remembered(of) if inspect.isfunction(of) else found(of))
        yield


@pytest.fixture
def fewer_questions(monkeypatch):
    """The organisms come with an eighth of their questions: enough for what has only to run to its end."""

    def eighth(study):
        return dataclasses.replace(study, identification=study.identification[::8], evaluation=study.evaluation[::8])

    def thinned(load):
        def loaded(*arguments, **options):
            organism = load(*arguments, **options)
            if hasattr(organism, "tasks"):
                return dataclasses.replace(organism, tasks={name: eighth(of) for name, of in organism.tasks.items()})
            return dataclasses.replace(organism, study=eighth(organism.study))

        return loaded

    monkeypatch.setattr(gs.organism, "load", thinned(gs.organism.load))
    monkeypatch.setattr(gs.organism.text, "load", thinned(gs.organism.text.load))


@pytest.fixture(scope="session")
def llama_path(tmp_path_factory):
    from tiny import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def llava_path(tmp_path_factory):
    from tiny import tiny_llava_next

    return tiny_llava_next(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="session")
def llama(llama_path):
    return gs.load_model(llama_path)


@pytest.fixture(scope="session")
def llava(llava_path):
    return gs.load_model(llava_path)


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """A model that knows the answers to these questions, and they."""
    from tiny import letter_examples, teach, tiny_llama

    known = letter_examples(("north", "south", "east"), 4, image=False)
    return teach(tiny_llama(tmp_path_factory.mktemp("letters") / "model"), known), known


@pytest.fixture(scope="session")
def examples(organism):
    """Questions of unequal length about pictures of unequal size, three cultures."""
    from tiny import varied_examples

    return varied_examples(seed=organism.recipe.seed)
