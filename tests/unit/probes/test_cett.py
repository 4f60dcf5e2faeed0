import pytest
import torch

from probes.cett import cett, column_norms, h_norm, suppress
from tests.reference.official_cett import official_cett
from tests.reference.slow_cett import slow_cett, slow_scaled_output
from tests.reference.tiny_models import shared_tiny


def layer(size=7, width=19, tokens=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w_down = torch.randn(size, width, generator=generator, dtype=torch.float64).to(dtype)
    z = torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype)
    return z, w_down, z @ w_down.T


@pytest.mark.parametrize("seed", range(5))
def test_cett_equals_the_slow_loop_of_the_paper(seed):
    z, w_down, h = layer(seed=seed)
    expected = torch.tensor([slow_cett(row, w_down.tolist()) for row in z.tolist()], dtype=torch.float64)
    assert (cett(z, h, column_norms(w_down)) - expected).abs().max() < 1e-10


def test_suppressed_output_equals_the_slow_loop():
    z, w_down, _ = layer()
    neurons = [2, 3, 11]
    expected = torch.tensor([slow_scaled_output(row, w_down.tolist(), neurons, 0.25) for row in z.tolist()])
    assert torch.allclose(suppress(z, torch.tensor(neurons), 0.25) @ w_down.T, expected.double(), atol=1e-12)


def test_cett_equals_the_official_definition_on_the_same_tokens():
    model = shared_tiny("Llama", torch.float64)
    ids = [1, 5, 9, 33, 60, 4]
    expected = official_cett(model, ids)
    for number, decoder_layer in enumerate(model.model.layers):
        down, seen = decoder_layer.mlp.down_proj, []
        handle = down.register_forward_hook(lambda _m, args, output, seen=seen: seen.extend([args[0][0], output[0]]))
        with torch.no_grad():
            model(torch.tensor([ids]))
        handle.remove()
        assert (cett(*seen, column_norms(down.weight)) - expected[number]).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("columns", [[0], [18], [3, 4, 5], [1, 7, 8, 16, 18], list(range(19))])
def test_subset_of_neurons_equals_columns_of_the_dense_result_bit_for_bit(dtype, columns):
    z, w_down, h = layer(size=67, dtype=dtype)
    j = torch.tensor(columns)
    dense_norms, dense = column_norms(w_down), cett(z, h, column_norms(w_down))
    assert torch.equal(column_norms(w_down[:, j]), dense_norms[j])
    assert torch.equal(cett(z[:, j], h, column_norms(w_down[:, j])), dense[:, j])


def test_zero_output_gives_finite_cett():
    assert torch.isfinite(cett(torch.zeros(3), torch.zeros(4), torch.ones(3))).all()


def test_norms_do_not_overflow_in_float16():
    big = torch.full((4, 3), 300.0, dtype=torch.float16)
    assert torch.equal(h_norm(big.T), torch.full((3, 1), 600.0))
    assert torch.equal(column_norms(big), torch.full((3,), 600.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_alpha_one_leaves_z_bit_identical_and_never_changes_its_argument(dtype):
    z, _, _ = layer(dtype=dtype)
    before = z.clone()
    assert torch.equal(suppress(z, torch.tensor([0, 5]), 1.0), before)
    suppress(z, torch.tensor([0, 5]), torch.zeros(5, 1))
    assert torch.equal(z, before)


def test_alpha_belongs_to_the_row():
    z = torch.ones(3, 2, 4)
    scaled = suppress(z, torch.tensor([1]), torch.tensor([0.0, 0.5, 3.0])[:, None, None])
    assert scaled[:, :, 1].tolist() == [[0.0, 0.0], [0.5, 0.5], [3.0, 3.0]]
    assert (scaled[:, :, [0, 2, 3]] == 1).all()
