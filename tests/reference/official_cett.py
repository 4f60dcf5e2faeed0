"""The official implementation's definition of the features, expressed anew (`scripts/extract_activations.py`).

What that script does, as read: record input and output of every module whose name has "down_proj" during one forward
pass over one conversation; divide abs(input) times the column norms of the weight by (norm of output + 1e-8); then
average (or take the maximum) over a token range. It works where every layer has one down projection of one width.
"""

import torch
from torch import Tensor, nn


@torch.no_grad()
def official_cett(model: nn.Module, ids: list[int]) -> Tensor:
    """CETT [layers, tokens, M] of one sequence."""
    features: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        magnitude = args[0][0].abs() * (module.weight**2).sum(dim=0).sqrt()
        features.append(magnitude / ((output[0] ** 2).sum(dim=-1, keepdim=True).sqrt() + 1e-8))

    named = [module for name, module in model.named_modules() if "down_proj" in name]
    handles = [module.register_forward_hook(record) for module in named]
    try:
        model(torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(features)


def official_region(cett: Tensor, start: int, end: int, method: str = "mean") -> Tensor:
    """[layers, M] over the tokens [start, end)."""
    region = cett[:, start:end]
    return region.mean(dim=1) if method == "mean" else region.amax(dim=1)
