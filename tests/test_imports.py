"""nnsight and beartype work together in whichever order a user imports them."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def test_the_pure_core_needs_neither_nnsight_nor_transformers():
    """Counters, selectors, neuron sets, answers and metrics name neither in their source."""
    import pathlib

    import gatescope

    root = pathlib.Path(gatescope.__file__).parent
    core = ["counters.py", "neurons.py", "artefacts.py", "kernels.py", "evaluate/answers.py", "evaluate/metrics.py"]
    core += ["evaluate/table.py", "select/activation.py", "select/selection.py"]
    for name in core:
        lines = [line for line in (root / name).read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in lines if "nnsight" in line or "transformers" in line], name
    assert [line for line in (root / "kernels.py").read_text().splitlines() if line.startswith("import")] == ["import torch"]
