"""Which model: what artefacts say they came from, and are refused elsewhere by."""

from __future__ import annotations

import functools
import hashlib
import json

import torch
import transformers


def identity(model) -> dict[str, str]:
    """What a model is, for artefacts to say where they came from and to be refused elsewhere.

    Returns:
        id, revision, class, dtype, and a digest of the weights: SHA-256 over every parameter's name, shape and a
        few hundred evenly spaced values rounded to bfloat16 (so that it does not depend on the dtype loaded). A
        model without weights has an empty digest.
    """
    module = getattr(model, "_module", model)
    parameters = sorted(module.named_parameters())
    written = sum(parameter._version for _, parameter in parameters)  # grows with every in-place write
    cached = module.__dict__.get("_gatescope_identity")
    mark = getattr(module.config, "gatescope_baked", "")  # an intervention in the weights may touch none of the values read
    if cached is not None and cached[0] == (written, module.dtype, mark):
        return dict(cached[1])
    digest = hashlib.sha256(mark.encode())
    for name, parameter in parameters:
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if not parameter.is_meta:
            flat = parameter.detach().flatten()
            values = flat[:: max(1, flat.numel() // 256)].to(torch.bfloat16).cpu()
            digest.update(values.view(torch.int16).numpy().tobytes())
    found = {
        "id": str(getattr(module.config, "_name_or_path", "") or type(module).__name__),
        "revision": str(getattr(module.config, "_commit_hash", None) or ""),
        "class": type(module).__name__,
        "dtype": str(module.dtype).removeprefix("torch."),
        "digest": "" if any(parameter.is_meta for _, parameter in parameters) else digest.hexdigest(),
    }
    module.__dict__["_gatescope_identity"] = (written, module.dtype, mark), found
    return dict(found)


@functools.cache
def versions() -> str:
    """Versions of the packages that decide a result, as JSON."""
    from importlib.metadata import version

    return json.dumps(
        {
            "gatescope": version("gatescope"),
            "nnsight": version("nnsight"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    )
