import numpy as np
import pytest
import torch

from probes.sampling import RowRandom, SamplingParams, choose_tokens

ALMOST_ONE = 1 - 2**-53
"""The largest uniform number; rounds to 1 in float32."""


def logits(rows=1, vocabulary=50, seed=0):
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def slow_distribution(row, params):
    """Temperature, top-k, top-p for one row, as loops over float64."""
    scaled = (row.double() / params.temperature).tolist()
    order = sorted(range(len(scaled)), key=lambda token: -scaled[token])
    order = order[: params.top_k or len(order)]
    weights = [np.exp(scaled[token] - scaled[order[0]]) for token in order]
    shares = [weight / sum(weights) for weight in weights]
    kept, mass = {}, 0.0
    for token, share in zip(order, shares, strict=True):
        if kept and mass >= params.top_p:
            break
        kept[token] = share
        mass += share
    return {token: share / mass for token, share in kept.items()}


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.0),
        SamplingParams(0.5),
        SamplingParams(1.0, top_k=5),
        SamplingParams(1.0, top_p=0.7),
        SamplingParams(1.0, top_p=0.0),
        SamplingParams(2.0, top_p=0.9, top_k=20),
        SamplingParams(1.0, top_k=500),
    ],
    ids=str,
)
def test_shares_of_drawn_tokens_are_the_distribution_of_a_slow_loop(params):
    row = logits(seed=3)
    n = 4000
    uniforms = [(at + 0.5) / n for at in range(n)]
    tokens = choose_tokens(row.expand(n, -1), [params] * n, uniforms)
    expected = slow_distribution(row[0], params)
    found = torch.bincount(tokens, minlength=50) / n
    assert set(tokens.unique().tolist()) <= set(expected)
    for token, share in expected.items():
        assert abs(found[token] - share) < 2 / n


def test_greedy_is_argmax_whatever_else_is_set():
    rows = logits(4)
    params = [SamplingParams(), SamplingParams(0.0, 0.5, 3), SamplingParams(0.0, 1.0, 1), SamplingParams(0.0)]
    assert torch.equal(choose_tokens(rows, params, [0.9] * 4), rows.argmax(-1))


def test_a_row_draws_the_same_token_alone_and_beside_any_others():
    rows = logits(6, vocabulary=3000)
    kinds = [(0.0, 1.0, 0), (1.0, 1.0, 0), (0.7, 0.9, 0), (1.5, 1.0, 50), (1.0, 0.8, 7), (9.0, 0.99, 0)]
    params = [SamplingParams(*kind) for kind in kinds]
    for seed in range(20):
        uniforms = [RowRandom(seed, row).next() for row in range(6)]
        together = choose_tokens(rows, params, uniforms).tolist()
        alone = [int(choose_tokens(rows[at : at + 1], params[at : at + 1], uniforms[at : at + 1])) for at in range(6)]
        assert together == alone


def test_top_p_reaches_beyond_the_first_sorted_tokens():
    flat = torch.zeros(1, 5000)
    tokens = choose_tokens(flat.expand(500, -1), [SamplingParams(1.0, top_p=0.9)] * 500, np.linspace(0, 0.999, 500))
    assert 4000 < len(set(tokens.tolist())) * 9 < 5000


@pytest.mark.parametrize("params", [SamplingParams(1.0), SamplingParams(1.0, top_k=3), SamplingParams(1.0, top_p=0.5)])
@pytest.mark.parametrize("uniform", [0.0, ALMOST_ONE])
def test_a_token_of_probability_zero_is_never_drawn(params, uniform):
    row = torch.tensor([[-torch.inf, 2.0, 1.9, 1.0, -torch.inf, 0.0, -torch.inf]])
    allowed = slow_distribution(row[0], params)
    assert int(choose_tokens(row, [params], [uniform])) in {token for token, share in allowed.items() if share > 0}


def test_half_precision_logits_are_drawn_in_float32():
    row = logits(vocabulary=200).to(torch.bfloat16)
    assert int(choose_tokens(row, [SamplingParams(1.0, top_k=40)], [0.5])) in row[0].topk(40).indices.tolist()


def test_a_seed_gives_the_same_stream_and_another_seed_another():
    first, second = RowRandom(7, 1), RowRandom(7, 1)
    stream = [first.next() for _ in range(5)]
    assert stream == [second.next() for _ in range(5)]
    assert stream != [RowRandom(7, 2).next() for _ in range(5)]
    assert len(set(stream)) == 5
    assert all(0 <= number < 1 for number in stream)
