"""What an engine must give, from plain passes over whole sequences. An oracle: no cache, no padding, no batch, no taps.

Alpha is applied by scaling columns of W_down, which is another mechanism than scaling z.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.engines.base import HeadBank
from tests.reference.slow_blocks import slow_parts


@dataclass
class SlowEvidence:
    scores: Tensor
    """Head scores of the rows r_0 ... r_T [T + 1, N]."""
    cett: Tensor
    """[T + 1, K]."""
    logprobs: Tensor
    best: Tensor
    """Log-probability of the likeliest token of each row [T]."""
    entropies: Tensor


@contextmanager
def scaled_columns(model: nn.Module, bank: HeadBank, alpha: float) -> Iterator[None]:
    """W_down columns of the H-neurons times alpha."""
    downs = [downs_of(layer.mlp) for layer in model.model.layers]
    kept = [[weight.clone() for weight in layer] for layer in downs]
    with torch.no_grad():
        for at in bank.suppressed.tolist():
            j = int(bank.neurons.index[at])
            for weight in downs[bank.neurons.layer[at]]:
                if 0 <= j < weight.shape[1]:
                    weight[:, j] *= alpha
                j -= weight.shape[1]
    try:
        yield
    finally:
        with torch.no_grad():
            for weights, before in zip(downs, kept, strict=True):
                for weight, old in zip(weights, before, strict=True):
                    weight.copy_(old)


@torch.no_grad()
def slow_evidence(
    model: nn.Module, bank: HeadBank, prompt: list[int], response: list[int], alpha: float = 1.0
) -> SlowEvidence:
    """Rows, log-probabilities and entropies of a response."""
    layers: list[Tensor] = []
    streams: list[Tensor] = []
    handles = [_record(layer.mlp, layers) for layer in model.model.layers]
    handles += [layer.register_forward_hook(lambda _m, _args, x: streams.append(x)) for layer in model.model.layers]
    with scaled_columns(model, bank, alpha):
        logits = model(torch.tensor([prompt + response])).logits[0].double()
    for handle in handles:
        handle.remove()
    first = len(prompt) - 1
    pairs = zip(bank.neurons.layer, bank.neurons.index, strict=True)
    every = torch.stack([layers[layer][first:, j] for layer, j in pairs])
    scores = every.T @ torch.from_numpy(bank.weights).double().T
    if bank.residual is not None:
        x = streams[bank.residual.layer]
        x = (x[0] if isinstance(x, tuple) else x)[0, first:]
        scores += x.double() @ torch.from_numpy(bank.residual.weights).double().T
    p = logits[first : first + len(response)].softmax(-1)
    return SlowEvidence(
        scores=scores,
        cett=every.T,
        logprobs=p[range(len(response)), response].log(),
        best=p.amax(-1).log(),
        entropies=-(p * p.log()).sum(-1),
    )


def downs_of(mlp: nn.Module) -> list[Tensor]:
    """W_down of each part of a layer that holds neurons [D, M], sharing the parameters' memory."""
    if not hasattr(mlp, "experts"):
        return [mlp.down_proj.weight.detach()]
    shared = [mlp.shared_experts.down_proj.weight.detach()] if hasattr(mlp, "shared_experts") else []
    return [*mlp.experts.down_proj.detach(), *shared]


def _record(mlp: nn.Module, layers: list[Tensor]) -> torch.utils.hooks.RemovableHandle:
    """Append the CETT of all neurons of a layer [T, M] when it runs; norms are those of now."""
    norms = torch.cat([weight.double().pow(2).sum(0).sqrt() for weight in downs_of(mlp)])

    def append(z: Tensor, h: Tensor) -> None:
        layers.append(z.double().abs() * norms / (h[0].double().norm(dim=-1, keepdim=True) + 1e-8))

    if not hasattr(mlp, "experts"):
        return mlp.down_proj.register_forward_hook(lambda _m, args, h: append(args[0][0], h))
    return mlp.register_forward_hook(
        lambda _m, args, h: append(torch.stack([torch.cat([z for z, _ in slow_parts(mlp, x)]) for x in args[0][0]]), h)
    )


@torch.no_grad()
def slow_greedy(model: nn.Module, bank: HeadBank, prompt: list[int], n_tokens: int, alpha: float = 1.0) -> list[int]:
    """Greedy tokens, one whole pass for each."""
    ids = list(prompt)
    with scaled_columns(model, bank, alpha):
        for _ in range(n_tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]
