"""The two formulas of the method: what a neuron contributes (CETT) and how it is scaled (alpha).

    CETT_j = abs(z_j) * norm(W_down[:, j]) / (norm(h) + eps)

z and h are the input and output of the down projection of one layer. Nothing here knows a model, a layer or a probe.

Source: arXiv 2512.01797, and `scripts/extract_activations.py` of thunlp/H-Neurons for eps.
"""

import torch
from torch import Tensor

EPS = 1e-8
"""Added to norm(h), as the official code does."""


def column_norms(w_down: Tensor) -> Tensor:
    """Norm of what one unit of each neuron writes.

    Columns are laid out as rows first: the order in which a row is summed does not depend on how many there are, so a
    subset of the columns has the same norms bit for bit.

    Args:
        w_down: Down-projection weight [..., D, M], or some of its columns.

    Returns:
        Norms [..., M]; float32, or float64 for a float64 weight.
    """
    rows = w_down.mT.contiguous()
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=_at_least_float32(rows))
    return norms


def cett(z: Tensor, h: Tensor, norms: Tensor) -> Tensor:
    """CETT of all neurons of a layer, or of any subset of them.

    A subset is passed as `z[..., j]` and `norms[j]` with the same whole `h`: the arithmetic is per neuron, so the
    result equals those columns of the full one bit for bit.

    Args:
        z: Input of the down projection, or some of its columns [..., K].
        h: Output of the down projection [..., D]; always whole.
        norms: `column_norms` of the same neurons [K].

    Returns:
        CETT [..., K], dimensionless, at least float32.
    """
    return cett_of_norm(z, h_norm(h), norms)


def cett_of_norm(z: Tensor, norm: Tensor, norms: Tensor) -> Tensor:
    """CETT where norm(h) is at hand.

    Args:
        z: Input of the down projection, some of its columns [..., K].
        norm: `h_norm` of the layer [..., 1], or of each neuron's layer [..., K].
        norms: `column_norms` of the same neurons [K].

    Returns:
        CETT [..., K], at least float32.
    """
    return z.to(_at_least_float32(z)).abs() * norms / (norm + EPS)


def h_norm(h: Tensor, *, out: Tensor | None = None) -> Tensor:
    """norm(h) over the last axis, kept as [..., 1]; computed in at least float32, since squares overflow in float16."""
    norm: Tensor = torch.linalg.vector_norm(h, dim=-1, keepdim=True, dtype=_at_least_float32(h), out=out)
    return norm


def suppress(z: Tensor, neurons: Tensor, alpha: Tensor | float) -> Tensor:
    """Scale some neurons of one layer.

    Args:
        z: Input of the down projection [..., M]; not changed.
        neurons: Column indices [H].
        alpha: Multiplier, a number or a tensor that broadcasts against [..., H]; 1 leaves z bit-identical.

    Returns:
        A copy of z with `z[..., neurons] * alpha`.
    """
    scaled = z.clone()
    scaled[..., neurons] = (z[..., neurons] * alpha).to(z.dtype)
    return scaled


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
