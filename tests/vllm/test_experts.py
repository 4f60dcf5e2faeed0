"""Mixture-of-experts models: experts run in one fused kernel, and z of routed neurons is computed beside it."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from probes.neurons import NeuronSet
from service.engines.base import HeadBank
from tests.reference.engine_runs import collect, request
from tests.vllm.runs import IN_CORE, check, check_scored, collect_all

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PROMPTS = [[5, 9, 33, 60, 4, 7, 71, 20, 11, 40, 41, 8], [8, 3], [90, 12, 6, 44, 21, 30, 77, 7, 8], [50], [14, 15]]
DEEPSEEK = {  # what its published configurations say; vLLM's CPU kernel for other rotary embeddings errs (0.32.0)
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "q_lora_rank": 64,
    "intermediate_size": 160,
}
MIXTURES = {
    "Mixtral": ({}, {}),
    "Qwen3Moe": ({"intermediate_size": 160}, {}),
    "DeepseekV3": (DEEPSEEK, {"attention_backend": "CPU_MLA"}),  # the other one takes bfloat16 only
}


def spread_bank(widths: tuple[int, ...], *, n: int = 150, seed: int = 0) -> HeadBank:
    """As many neurons of every layer; about half of them are H-neurons."""
    random = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(widths)])[:-1]
    flat = [start + random.choice(w, n // len(widths), replace=False) for start, w in zip(starts, widths, strict=True)]
    neurons = NeuronSet.from_flat(widths, np.concatenate(flat))
    weights = random.normal(size=(2, len(neurons))).astype(np.float32)
    return HeadBank(("probe", "shadow"), neurons, weights, np.flatnonzero(weights[0] > 0), "own")


async def run_mixed(engine, bank: HeadBank) -> None:
    wanted = [
        request(prompt, 16, alpha=alpha, wants_neurons=at in (2, 3))
        for at, (prompt, alpha) in enumerate(zip(PROMPTS, (1.0, 0.0, 0.5, 1.0, 2.0), strict=True))
    ]
    streams, scored = await asyncio.gather(
        collect_all(engine, wanted), engine.score(PROMPTS[0][:4], PROMPTS[0][4:], alpha=0.5, wants_neurons=True)
    )
    for one, steps in zip(wanted, streams, strict=True):
        check(engine, bank, one, steps)
    check_scored(engine, bank, PROMPTS[0][:4], PROMPTS[0][4:], scored, 0.5)


@pytest.mark.parametrize("family", MIXTURES)
async def test_hazard_the_fused_kernel_routes_otherwise_than_the_taps_think(shelf, family):
    """And the slots must not keep the weights of an earlier probe."""
    sizes, arguments = MIXTURES[family]
    engine = await shelf.get(shelf.tiny(family, **sizes), slots=128, arguments={**IN_CORE, **arguments})
    bank = spread_bank(engine.checkpoint.widths)
    await engine.load_heads(bank)
    await run_mixed(engine, bank)
    for seed in (1, 2, 3):
        bank = spread_bank(engine.checkpoint.widths, n=80, seed=seed)
        await engine.load_heads(bank)
        wanted = request(PROMPTS[seed], 10, alpha=0.5 * seed, wants_neurons=True)
        check(engine, bank, wanted, await collect(engine, wanted))


async def test_hazard_every_rank_counts_the_same_routed_neuron(shelf):
    """Input and routing are the same on both ranks; parts of each expert are spread over the ranks.

    DeepSeek-V3 has all kinds of neurons: dense, routed and shared.
    """
    sizes, arguments = MIXTURES["DeepseekV3"]
    spread = {**arguments, "tensor_parallel_size": 2}
    engine = await shelf.get(shelf.tiny("DeepseekV3", **sizes), slots=128, arguments=spread)
    bank = spread_bank(engine.checkpoint.widths)
    await engine.load_heads(bank)
    await run_mixed(engine, bank)


async def test_hazard_the_compiled_graph_computes_z_before_the_kernels_input(shelf):
    """Dense, routed and shared neurons; then other heads, for which nothing may be compiled again."""
    sizes, arguments = MIXTURES["DeepseekV3"]
    folder = shelf.tiny("DeepseekV3", **sizes)
    engine = await shelf.get(folder, slots=128, arguments={**IN_CORE, **arguments, "enforce_eager": False})
    compiled = []
    for seed in (0, 1):
        bank = spread_bank(engine.checkpoint.widths, seed=seed)
        await engine.load_heads(bank)
        await run_mixed(engine, bank)
        compiled += await engine._core._vllm.collective_rpc("witness_compiled")
    assert compiled[0]["mode"] != "NONE"
    assert compiled[0]["frames"]
    assert compiled[0] == compiled[1]
