"""CULNIG's scores from plain PyTorch: forward hooks, one example at a time, float32, one `backward` for each."""

from __future__ import annotations

import torch


def scores(module, blocks: str, where: dict, inputs: dict, answer: list[int], reduce: str = "max"):
    """(P(y|x), {site: [l, n] of P(y|x) * reduced score}); `inputs` unpadded, with all but y's last token appended."""
    captured: dict[tuple[str, int], torch.Tensor] = {}
    handles = [module.get_input_embeddings().register_forward_hook(lambda _m, _i, out: out.requires_grad_(True))]

    def keep(key):
        def forward(_module, args, output=None):
            tensor = args[0] if output is None else output
            tensor.retain_grad()
            captured[key] = tensor

        return forward

    layers = module.get_submodule(blocks)
    for layer, block in enumerate(layers):
        for path, io in {(path, io) for path, io, _ in where.values()}:
            part = block.get_submodule(path)
            register = part.register_forward_pre_hook if io == "in" else part.register_forward_hook
            handles.append(register(keep((path + io, layer))))
    module.requires_grad_(False)
    logits = module(**inputs).logits[0].float()
    steps = [torch.softmax(logits[i - len(answer)], -1)[token] for i, token in enumerate(answer)]
    probability = torch.stack(steps).prod()
    probability.backward()
    for handle in handles:
        handle.remove()
    found = {}
    for site, (path, io, columns) in where.items():
        rows = []
        for layer in range(len(layers)):
            tensor = captured[path + io, layer]
            product = tensor.detach() * tensor.grad
            product = product[0] if product.ndim == 3 else product  # OPT: tokens of all rows as one list
            product = product if columns is None else product[:, columns]
            rows.append(product.max(0).values if reduce == "max" else product.mean(0))
        found[site] = torch.stack(rows) * probability.detach()
    return probability.item(), found
