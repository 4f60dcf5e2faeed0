import pytest
import torch

from probes.experts import experts_input, last_columns, read_experts, write_experts
from tests.reference.tiny_models import MIXTURES, build_tiny, shared_tiny

IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")


def experts_of(name):
    return shared_tiny(name, torch.float64).model.layers[2].mlp.experts


def given(tokens=10, n_experts=4, top_k=2, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, size, generator=generator, dtype=torch.float64)
    chosen = torch.rand(tokens, n_experts, generator=generator).topk(top_k).indices
    return x, chosen, torch.rand(tokens, top_k, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", MIXTURES)
def test_all_routed_neurons_together_write_what_the_experts_put_out(name):
    experts = experts_of(name)
    every = torch.arange(experts.down_proj.shape[0] * experts.down_proj.shape[2])
    written = write_experts(experts, every, read_experts(experts, every, *given()))
    assert (written - experts(*given())).abs().max() < 1e-10


def test_z_is_zero_exactly_where_the_token_did_not_choose_the_expert():
    experts = experts_of("Mixtral")
    x, chosen, routing = given()
    z = read_experts(experts, torch.arange(4 * 48), x, chosen, routing).view(len(x), 4, 48)
    for token in range(len(x)):
        for expert in range(4):
            assert bool((z[token, expert] != 0).all()) == (expert in chosen[token].tolist())


def test_a_subset_of_routed_neurons_reads_the_same_z():
    experts = experts_of("DeepseekV3")
    every, some = torch.arange(4 * 24), torch.tensor([0, 23, 24, 95])
    dense = read_experts(experts, every, *given())
    assert torch.allclose(read_experts(experts, some, *given()), dense[:, some], atol=1e-12)


def test_arguments_are_found_by_position_and_by_name():
    x, chosen, routing = given()
    names = {"hidden_states": x, "top_k_index": chosen, "top_k_weights": routing}
    for args, kwargs in (((x, chosen, routing), {}), ((), names), ((x,), {k: names[k] for k in list(names)[1:]})):
        assert all(a is b for a, b in zip(experts_input(args, kwargs), (x, chosen, routing), strict=True))


def test_last_columns_are_those_of_each_row():
    x, chosen, routing = given(tokens=6)
    kept = last_columns((x, chosen, routing), rows=2, columns=1)
    assert torch.equal(kept[0], x[[2, 5]])
    assert torch.equal(kept[1], chosen[[2, 5]])
    assert torch.equal(last_columns((x, chosen, routing), rows=2, columns=0)[2], routing)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", MIXTURES)
def test_every_way_to_run_experts_calls_the_module_that_is_hooked(name, implementation):
    model = build_tiny(name)
    model.set_experts_implementation(implementation)
    seen = []
    experts = model.model.layers[2].mlp.experts
    experts.register_forward_hook(lambda _m, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True)
    with torch.no_grad():
        model(torch.arange(3, 9)[None])
    (args, kwargs, out), *more = seen
    assert not more
    every = torch.arange(experts.down_proj.shape[0] * experts.down_proj.shape[2])
    z = read_experts(experts, every, *experts_input(args, kwargs))
    assert torch.allclose(write_experts(experts, every, z), out, atol=1e-5)
