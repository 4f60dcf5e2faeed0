"""Passes of a tiny model with a tap and without."""

import numpy as np
import torch

from probes.architectures import layer_widths
from probes.neurons import NeuronSet

IDS = torch.tensor([[5, 9, 33, 60, 4, 7, 71, 20], [8, 3, 90, 12, 6, 44, 21, 30]])


def pick(model, n=40, seed=0):
    widths = layer_widths(model)
    flat = np.random.default_rng(seed).choice(sum(widths), size=n, replace=False)
    return NeuronSet.from_flat(widths, flat)


def every(model):
    widths = layer_widths(model)
    return NeuronSet.from_flat(widths, np.arange(sum(widths)))


@torch.inference_mode()
def run(model, tap, *, alphas=None, last=None, ids=IDS):
    with tap.attached():
        tap.begin(len(ids), alphas=None if alphas is None else torch.tensor(alphas), last=last)
        logits = model(ids).logits
    return logits, tap.read().cett


@torch.inference_mode()
def plain(model, ids=IDS):
    return model(ids).logits
