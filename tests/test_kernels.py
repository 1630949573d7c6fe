"""The kernels, eager and compiled, equal a loop in float64; they are compiled once, and do without a compiler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import gatescope as gs
from gatescope.kernels import compiled as fused
from gatescope.kernels import eager as kernels
from gatescope.models.sites import site_of
from gatescope.traces.access import read
from processes import python

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((3, 7, 33), (1, 5, 33), (2, 1, 33), (5, 40, 33))  # one width, so that few kernels are compiled
FORMS = ("eager", "masked", "by row", "compiled")


@pytest.fixture
def form(request, monkeypatch):
    """The two kernels in one of their forms, whatever the shape."""
    monkeypatch.setenv("GATESCOPE_KERNEL", "compiled" if request.param == "compiled" else "eager")
    if request.param != "eager":
        monkeypatch.setattr(kernels, "SMALL", 0 if request.param == "by row" else 2**60)
    return fused


every_form = pytest.mark.parametrize("form", FORMS, indirect=True)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def loop_count(gate, masks):
    """K and S [c, b, n] of float64 arrays, token by token."""
    (b, s, n), c = gate.shape, len(masks)
    fired, summed = np.zeros((c, b, n), np.int64), np.zeros((c, b, n))
    for kind, row, token in np.ndindex(c, b, s):
        if masks[kind, row, token]:
            for neuron in range(n):
                value = gate[row, token, neuron]
                if np.isnan(value):
                    summed[kind, row, neuron] = np.nan
                elif value > 0:
                    fired[kind, row, neuron] += 1
                    summed[kind, row, neuron] += value
    return fired, summed


def loop_attribution(activation, gradient, real, reduce, pad_zero):
    """Scores [b, n] of float64 arrays, example by example."""
    found = []
    for a, g, tokens in zip(activation, gradient, real, strict=True):
        score = (a * g)[tokens]
        if reduce == "max":
            rows = [score, np.zeros((int(pad_zero and not tokens.all()), a.shape[1])), np.full((1, a.shape[1]), -np.inf)]
            found.append(np.max(np.concatenate(rows), 0))
        else:
            found.append(score.sum(0) / (len(score) if reduce == "mean" else 1))
    return np.stack(found)


def activations(shape, dtype, seed=0):
    """Activations with every value that could be mistaken for another, and masks [2, b, s] that overlap."""
    generator = torch.Generator().manual_seed(seed)
    gate = torch.randn(shape, generator=generator).to(dtype)
    tiny = torch.finfo(dtype).tiny
    for value in (0.0, -0.0, torch.inf, -torch.inf, tiny, -tiny):
        gate[torch.rand(shape, generator=generator) < 0.02] = value
    masks = torch.rand((2, *shape[:2]), generator=generator) < 0.7
    masks[1, -1] = False  # an example of which nothing counts
    return gate, masks


def assert_counts(found, gate, masks):
    fired, summed = loop_count(gate.double().numpy(), masks.numpy())
    assert found[0].dtype == torch.int64 and found[1].dtype == torch.float32
    assert torch.equal(found[0], torch.from_numpy(fired))
    torch.testing.assert_close(found[1].double(), torch.from_numpy(summed), rtol=1e-6, atol=0, equal_nan=True)


@every_form
@every_dtype
def test_counts_equal_a_loop_in_float64(form, dtype):
    for shape in SHAPES:
        gate, masks = activations(shape, dtype)
        assert_counts(form.count_classes(gate, masks), gate, masks)


@every_form
def test_one_class_is_the_first_of_several(form):
    gate, masks = activations((5, 40, 33), torch.float32)
    assert_counts(form.count_classes(gate, masks[:1]), gate, masks[:1])
    assert_counts([x.unsqueeze(0) for x in kernels.count(gate, masks[0])], gate, masks[:1])


@every_form
def test_nothing_counts_under_an_empty_mask(form):
    gate, masks = activations((3, 7, 33), torch.float32)
    gate[0] = torch.nan
    fired, summed = form.count_classes(gate, torch.zeros_like(masks))
    assert not fired.any() and torch.equal(summed, torch.zeros(2, 3, 33))


@every_form
@every_dtype
def test_nan_reaches_the_sum_where_its_token_counts_and_nowhere_else(form, dtype):
    gate, _ = activations((3, 7, 33), dtype)
    masks = torch.ones(2, 3, 7, dtype=torch.bool)
    masks[1, 1, 4] = False
    gate[1, 4, 32] = torch.nan
    fired, summed = form.count_classes(gate, masks)
    assert summed.isnan().nonzero().tolist() == [[0, 1, 32]]
    assert_counts((fired, summed), gate, masks)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_first_layer_and_example_without_a_number_are_found(value):
    fine, summed = torch.zeros(2, 3, 33), torch.zeros(2, 3, 33)
    assert kernels.first_not_finite([fine, summed]) is None
    summed[0, 2, 0] = value
    assert kernels.first_not_finite([fine, summed]) == (1, 2)
    summed[1, 1, 32] = value
    assert kernels.first_not_finite([fine, summed]) == kernels.first_not_finite([fine, summed[1]]) == (1, 1)


def test_a_signed_total_is_float64_and_blind_to_what_does_not_count():
    activation = torch.tensor([[[2.0**24, -1.0], [1.0, -2.0], [torch.nan, torch.inf]]])
    token_mask = torch.tensor([[True, True, False]])
    assert kernels.total(activation, token_mask).tolist() == [[2.0**24 + 1, -3.0]]  # in float32 the one is lost


@every_form
def test_columns_of_a_wider_tensor_are_counted_alone(form):
    wide, masks = activations((4, 9, 48), torch.float32)
    for gate in (wide[..., 15:], wide.transpose(0, 1).contiguous().transpose(0, 1)[..., :33]):
        assert_counts(form.count_classes(gate, masks), gate, masks)
    gate, masks = wide[2:3, :, 15:], masks[:, 2:3]
    assert_counts(form.count_classes(gate, masks), gate, masks)


@every_form
def test_long_examples_are_summed_in_float32_and_counted_exactly(form):
    gate = torch.ones(2, 3000, 33, dtype=torch.bfloat16)
    fired, summed = form.count_classes(gate, torch.ones(1, 2, 3000, dtype=torch.bool))
    assert (fired == 3000).all() and (summed == 3000).all()


@every_form
@pytest.mark.parametrize(
    ("reduce", "pad_zero", "dtype"),
    [
        ("max", False, torch.float32),
        ("max", True, torch.bfloat16),
        ("mean", False, torch.float16),
        ("sum", False, torch.bfloat16),
    ],
    ids=str,
)
def test_attribution_equals_a_loop_in_float64(form, reduce, pad_zero, dtype):
    for shape in SHAPES:
        generator = torch.Generator().manual_seed(1)
        activation, gradient = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        real = torch.rand(shape[:2], generator=generator) < 0.7
        real[:, -1] = True
        real[0] = True
        activation[~real] = torch.nan
        expected = loop_attribution(activation.double().numpy(), gradient.double().numpy(), real.numpy(), reduce, pad_zero)
        found = form.attribution(activation, gradient, real, reduce, pad_zero)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@every_form
def test_an_example_without_real_tokens_has_no_maximum(form):
    activation = torch.ones(3, 7, 33)
    real = torch.tensor([True, False, True])[:, None].expand(3, 7)
    assert form.attribution(activation, activation, real, "max")[:, 0].tolist() == [1.0, -torch.inf, 1.0]


@every_form
def test_a_nan_score_reaches_the_maximum(form):
    activation = torch.ones(3, 7, 33)
    activation[1, 2, 5] = torch.nan
    scores = form.attribution(activation, torch.ones(3, 7, 33), torch.ones(3, 7, dtype=torch.bool), "max")
    assert scores.isnan().nonzero().tolist() == [[1, 5]]


def test_twenty_shapes_take_two_compilations(monkeypatch):
    monkeypatch.setenv("GATESCOPE_KERNEL", "compiled")
    width = 24  # of no other test
    shapes = {(1 + i % 5, 2 + (7 * i) % 23) for i in range(20)} | {(width, width), (width, 3), (3, width), (8, 8)}
    assert len(shapes) >= 20
    before = counters["stats"]["unique_graphs"]
    for b, s in sorted(shapes):
        gate, masks = activations((b, s, width), torch.float32)
        assert_counts(fused.count_classes(gate, masks[:1]), gate, masks[:1])
    assert counters["stats"]["unique_graphs"] - before == 2  # one for a batch of one, one for all others


def test_which_form_runs_depends_on_shape_alone(monkeypatch):
    monkeypatch.setenv("GATESCOPE_KERNEL", "auto")
    assert fused.compiles((8, 128, 1024), "cpu") and fused.compiles((1, 1024, 1024), "cpu")
    assert fused.compiles((8, 64, 1024), "cpu") and not fused.compiles((8, 63, 1024), "cpu")
    assert not fused.compiles((2048, 1, 1024), "cpu") and not fused.compiles((0, 128, 1024), "cpu")
    assert fused.name() == "compiled"
    monkeypatch.setenv("GATESCOPE_KERNEL", "compiled")  # whatever the size, but for what is one: see the module's docstring
    assert fused.compiles((1, 2, 2), "cpu")
    assert not fused.compiles((8, 1, 1024), "cpu") and not fused.compiles((8, 128, 1), "cpu")
    monkeypatch.setenv("GATESCOPE_KERNEL", "")
    assert fused.mode() == "auto"
    monkeypatch.setenv("GATESCOPE_KERNEL", "eager")
    assert not fused.compiles((8, 128, 1024), "cpu")
    assert fused.name() == "eager: GATESCOPE_KERNEL"


def test_an_unknown_mode_is_named(monkeypatch):
    monkeypatch.setenv("GATESCOPE_KERNEL", "fast")
    with pytest.raises(gs.GatescopeError, match="GATESCOPE_KERNEL is 'fast'; it must be 'auto' or 'eager' or 'compiled'"):
        fused.count_classes(torch.ones(2, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))


def test_a_compiled_kernel_runs_inside_a_trace(llama, monkeypatch):
    monkeypatch.setenv("GATESCOPE_KERNEL", "compiled")
    site = site_of(llama, "gate")
    inputs = llama.tokenizer(["a boat on a lake", "a drum"], padding=True, padding_side="left", return_tensors="pt")
    masks = inputs["attention_mask"].bool().unsqueeze(0)
    found, gates = [], []
    with torch.no_grad(), llama.trace(**inputs):
        for path in site.paths:
            gate = read(llama, path, site.io)
            gates.append(gate.clone())
            found.append(fused.count_classes(gate, masks))
    assert len(found) == 3
    for pair, gate in zip(found, gates, strict=True):
        assert_counts(pair, gate.detach(), masks)


def test_a_failing_kernel_runs_eagerly_and_says_so(monkeypatch):
    monkeypatch.setenv("GATESCOPE_KERNEL", "compiled")
    monkeypatch.setattr(fused, "_failed", {})

    def broken(*_):
        raise RuntimeError("the compiler fell over.\nAnd more.")

    monkeypatch.setattr(fused, "_kernel", broken)
    gate, masks = activations((3, 7, 33), torch.float32)
    with pytest.warns(UserWarning, match=r"No compiled kernels on cpu.*: RuntimeError: the compiler fell over\. Counting and"):
        assert_counts(fused.count_classes(gate, masks), gate, masks)
    assert fused.name() == "eager: RuntimeError: the compiler fell over"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_running_out_of_memory_is_no_failure_of_the_compiler(monkeypatch, error):
    monkeypatch.setenv("GATESCOPE_KERNEL", "compiled")

    def full(*_):
        raise error("full")

    monkeypatch.setattr(fused, "_kernel", full)
    gate, masks = activations((3, 7, 33), torch.float32)
    with pytest.raises(error):
        fused.count_classes(gate, masks)
    assert fused.name() == "compiled"


WITHOUT = """
import torch, torch._inductor.config, warnings
torch._inductor.config.cpp.cxx = (None, "no-such-compiler")  # what it makes of CXX when it is imported
from gatescope.kernels import compiled as fused
gate, masks = torch.ones(2, 3, 5), torch.ones(1, 2, 3, dtype=torch.bool)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        fired, summed = fused.count_classes(gate, masks)
assert (fired == 3).all() and (summed == 3).all()
print(*[w.message for w in caught if "kernel" in str(w.message)], fused.name(), sep="\\n")
"""


def test_without_a_compiler_one_warning_says_what_is_missing(tmp_path):
    done = python(WITHOUT, CXX="no-such-compiler", GATESCOPE_KERNEL="compiled", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    warning, used = done.stdout.strip().splitlines()
    assert warning.startswith("No compiled kernels on cpu, which need a C++ compiler")
    assert "Counting and attribution run in eager mode: the same results, more slowly." in warning
    assert used.startswith("eager: ") and "cxx" in used.lower()
