"""The paper's CETT as plain loops over float64 numbers, one neuron at a time. An oracle: shares no code with `probes`.

Written from arXiv 2512.01797: a neuron's contribution to its layer's output is the norm of what it writes, z_j times
its column of W_down, as a share of the norm of the whole output.
"""

import math


def slow_cett(z: list[float], w_down: list[list[float]]) -> list[float]:
    """CETT of every neuron for one token.

    `w_down[d][j]`; h is computed here, from z and W_down, as the sum of what all neurons write.
    """
    h = [sum(row[j] * z[j] for j in range(len(z))) for row in w_down]
    norm_of_h = math.sqrt(sum(value * value for value in h))
    shares = []
    for j in range(len(z)):
        written = [row[j] * z[j] for row in w_down]
        shares.append(math.sqrt(sum(value * value for value in written)) / (norm_of_h + 1e-8))
    return shares


def slow_scaled_output(z: list[float], w_down: list[list[float]], neurons: list[int], alpha: float) -> list[float]:
    """h after the named neurons' z was multiplied by alpha."""
    scaled = [value * alpha if j in neurons else value for j, value in enumerate(z)]
    return [sum(row[j] * scaled[j] for j in range(len(z))) for row in w_down]
