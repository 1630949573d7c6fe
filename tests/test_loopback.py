"""The loopback server: what nnsight's own client ships to it gives what the same trace gives here."""

from __future__ import annotations

import nnsight
import pytest
import torch
from nnsight.intervention.backends.remote import RemoteError

from loopback import Loopback


@pytest.fixture(scope="module")
def server(llama_path):
    with Loopback(llama_path) as running:
        yield running


@pytest.fixture(autouse=True)
def offline(llama_path, monkeypatch):
    from nnsight.modeling.huggingface import _ID_CACHE

    monkeypatch.setitem(_ID_CACHE, str(llama_path), str(llama_path))
    monkeypatch.setattr(nnsight.CONFIG.APP, "REMOTE_LOGGING", False)


def test_a_trace_run_there_equals_the_trace_run_here(server, llama):
    with llama.trace("a kite"):
        here = llama.model.layers[1].mlp.act_fn.output.save()
    with llama.trace("a kite", remote=server.address):
        there = llama.model.layers[1].mlp.act_fn.output.save()
    assert torch.equal(here, there)


def test_a_session_of_traces_is_one_job(server, llama):
    prompts = ["a kite", "two boats", "a drum"]
    server.control(clear=True)
    with llama.session(remote=server.address):
        total = torch.zeros(48).save()
        for prompt in prompts:
            with llama.trace(prompt):
                total += llama.model.layers[0].mlp.act_fn.output.sum((0, 1))
    expected = torch.zeros(48)
    for prompt in prompts:
        with llama.trace(prompt):
            part = llama.model.layers[0].mlp.act_fn.output.sum((0, 1)).save()
        expected += part
    assert torch.equal(total, expected)
    assert len([entry for entry in server.log() if "received" in entry]) == 1


@pytest.mark.parametrize("absent", ["gatescope", "jaxtyping", "beartype"])
def test_what_a_server_does_not_have_cannot_be_imported_there(server, llama, absent):
    with pytest.raises(RemoteError, match=f"No module named '{absent}'"), llama.trace("a kite", remote=server.address):
        nnsight.save(__import__(absent).__name__)


def test_a_job_that_is_polled_ends_in_its_result(server, llama):
    with llama.trace("a kite", remote=server.address, blocking=False) as tracer:
        found = llama.model.layers[0].mlp.act_fn.output.save()
    found = tracer.backend()
    while found is None:
        found = tracer.backend()
    with llama.trace("a kite"):
        here = llama.model.layers[0].mlp.act_fn.output.save()
    assert torch.equal(found["found"], here)


def test_faults_are_what_was_asked_for(server, llama):
    server.fault("status", code=503, detail="Service temporarily unavailable.")
    with pytest.raises(RemoteError, match="temporarily unavailable"), llama.trace("a kite", remote=server.address):
        llama.model.layers[0].mlp.act_fn.output.save()
