"""What an engine must give, from plain passes over whole sequences. An oracle: no cache, no padding, no batch, no taps.

Alpha is applied by scaling columns of W_down, which is another mechanism than scaling z. Dense Llama-like models only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.engines.base import HeadBank


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
    downs = [layer.mlp.down_proj for layer in model.model.layers]
    kept = [down.weight.clone() for down in downs]
    with torch.no_grad():
        for at in bank.suppressed.tolist():
            downs[bank.neurons.layer[at]].weight[:, bank.neurons.index[at]] *= alpha
    try:
        yield
    finally:
        with torch.no_grad():
            for down, weight in zip(downs, kept, strict=True):
                down.weight.copy_(weight)


@torch.no_grad()
def slow_evidence(
    model: nn.Module, bank: HeadBank, prompt: list[int], response: list[int], alpha: float = 1.0
) -> SlowEvidence:
    """Rows, log-probabilities and entropies of a response."""
    norms = [layer.mlp.down_proj.weight.double().pow(2).sum(0).sqrt() for layer in model.model.layers]
    layers: list[Tensor] = []
    handles = [
        layer.mlp.down_proj.register_forward_hook(
            lambda _m, args, h, norm=norm: layers.append(
                args[0][0].double().abs() * norm / (h[0].double().norm(dim=-1, keepdim=True) + 1e-8)
            )
        )
        for layer, norm in zip(model.model.layers, norms, strict=True)
    ]
    with scaled_columns(model, bank, alpha):
        logits = model(torch.tensor([prompt + response])).logits[0].double()
    for handle in handles:
        handle.remove()
    first = len(prompt) - 1
    pairs = zip(bank.neurons.layer, bank.neurons.index, strict=True)
    every = torch.stack([layers[layer][first:, j] for layer, j in pairs])
    p = logits[first : first + len(response)].softmax(-1)
    return SlowEvidence(
        scores=every.T @ torch.from_numpy(bank.weights).double().T,
        cett=every.T,
        logprobs=p[range(len(response)), response].log(),
        best=p.amax(-1).log(),
        entropies=-(p * p.log()).sum(-1),
    )


@torch.no_grad()
def slow_greedy(model: nn.Module, bank: HeadBank, prompt: list[int], n_tokens: int, alpha: float = 1.0) -> list[int]:
    """Greedy tokens, one whole pass for each."""
    ids = list(prompt)
    with scaled_columns(model, bank, alpha):
        for _ in range(n_tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]
