"""What vLLM's scheduler does to a request: its prompt in chunks, its keys thrown away, its tokens guessed ahead."""

import asyncio

import pytest
import pytest_asyncio

pytest.importorskip("vllm", reason="vLLM is not installed: see README, Engines")

from probes.prompts import encode_prompt
from probes.sampling import SamplingParams
from tests.reference.engine_runs import collect, random_bank, request, tokens_of
from tests.vllm.runs import check, check_scored, collect_all, default_folder, prompts, watched

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ALPHAS = (1.0, 0.0, 0.5, 3.0)
TIGHT = {
    "block_size": 32,
    "max_model_len": 320,
    "max_num_batched_tokens": 24,
    "num_gpu_blocks_override": 13,  # keys of 12 blocks of 32 tokens
}
NGRAM = {
    "block_size": 32,
    "max_model_len": 512,
    "max_num_batched_tokens": 96,
    "speculative_config": {
        "method": "ngram",
        "num_speculative_tokens": 4,
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 1,
    },
}
SONG = "Repeat this text word by word: the cat sat on the mat, the dog sat on the cat, the cat sat on the mat again."


@pytest_asyncio.fixture(loop_scope="session")
async def tight(shelf):
    return await shelf.get(default_folder(), arguments=TIGHT, max_rows=8)


@pytest_asyncio.fixture(loop_scope="session")
async def guessing(shelf):
    return await shelf.get(default_folder(), arguments=NGRAM, max_rows=8)


def long_prompts(engine, *starts):
    """About 90 tokens each, and no two of them begin alike."""
    text = " This sentence is here to fill the prompt with words of no weight at all." * 4
    return [encode_prompt(engine.tokenizer, start + text) for start in starts]


async def test_hazard_chunks_of_a_prompt_lose_or_shift_rows(tight):
    bank = tight._banks.current.bank
    questions = long_prompts(tight, "Why?", "Who is it?", "When was that?", "Where to?")
    wanted = [request(prompt, 8, alpha=alpha) for prompt, alpha in zip(questions, ALPHAS, strict=True)]
    wanted[2] = request(questions[2], 8, alpha=0.5, wants_neurons=True)
    async with watched(tight) as counts:
        streams = await collect_all(tight, wanted)
    assert counts["most_rows"] <= 24
    assert counts["chunks"] >= 4
    for one, steps in zip(wanted, streams, strict=True):
        check(tight, bank, one, steps)


async def test_hazard_a_seed_and_a_prompt_in_chunks_end_the_engine(tight):
    """On a CPU vLLM turns the random generator of a request that is still fed back by an offset that it has not."""
    bank = tight._banks.current.bank
    draws = {"sampling": SamplingParams(temperature=1.0, top_p=0.9, top_k=50)}
    questions = long_prompts(tight, "Why then?", "Who is she?", "When is that?", "Where from?")
    wanted = [request(prompt, 8, seed=at, **draws) for at, prompt in enumerate(questions)]
    alone = [await collect(tight, one) for one in wanted]
    async with watched(tight) as counts:
        streams = await collect_all(tight, wanted)
    assert counts["chunks"] >= 4
    for one, steps, before in zip(wanted, streams, alone, strict=True):
        check(tight, bank, one, steps)
        assert tokens_of(steps) == tokens_of(before)


async def test_hazard_chunks_of_a_teacher_forced_response_lose_or_shift_rows(tight):
    """The border between prompt and response lies in, before and after a chunk's first row."""
    bank = tight._banks.current.bank
    ids = long_prompts(tight, "Score this.")[0]
    for border, alpha in ((1, 1.0), (23, 0.0), (24, 0.5), (25, 3.0), (60, 0.5), (len(ids), 1.0)):
        scored = await tight.score(ids[:border], ids[border:], alpha=alpha, wants_neurons=border == 24)
        check_scored(tight, bank, ids[:border], ids[border:], scored, alpha)


async def test_hazard_a_preempted_request_loses_or_repeats_rows(tight):
    bank = tight._banks.current.bank
    wanted = [
        request(prompt, 70, alpha=ALPHAS[at % 4], wants_neurons=at == 5)
        for at, prompt in enumerate(prompts(tight, "Write a long story. ") + prompts(tight, "Tell a long tale. "))
    ]
    ids = long_prompts(tight, "Between them.", "And after them.")
    async with watched(tight) as counts:
        streams, *scored = await asyncio.gather(
            collect_all(tight, wanted), *(tight.score(one[:40], one[40:], alpha=0.5) for one in ids)
        )
    assert counts["preempted"] > 3
    assert counts["resumed"] > 3
    for one, steps in zip(wanted, streams, strict=True):
        check(tight, bank, one, steps)
    for one, found in zip(ids, scored, strict=True):
        check_scored(tight, bank, one[:40], one[40:], found, 0.5)


async def test_hazard_accepted_and_rejected_drafts_shift_rows(guessing):
    bank = guessing._banks.current.bank
    songs = [encode_prompt(guessing.tokenizer, SONG + " " * at) for at in range(4)]
    wanted = [request(song, 24, alpha=alpha) for song, alpha in zip(songs, ALPHAS, strict=True)]
    wanted += [
        request(prompts(guessing)[5], 30, wants_neurons=True),
        request(prompts(guessing)[0], 30),
        request(songs[0], 24, alpha=0.5, is_scored=False),
    ]
    async with watched(guessing) as counts:
        *streams, scored = await asyncio.gather(
            *(collect(guessing, one) for one in wanted), guessing.score(songs[2], songs[3], alpha=0.0)
        )
    assert counts["drafted"] > counts["accepted"] > 20
    for one, steps in zip(wanted, streams, strict=True):
        check(guessing, bank, one, steps)
    check_scored(guessing, bank, songs[2], songs[3], scored, 0.0)


async def test_hazard_a_sampled_request_heats_its_greedy_neighbours(guessing):
    """vLLM's CPU kernel of the temperatures is replaced, see `cpu_worker`."""
    bank = guessing._banks.current.bank
    song = encode_prompt(guessing.tokenizer, SONG)
    samplings = [SamplingParams(0.7), SamplingParams(0.7, 0.9), SamplingParams(0.7, 1.0, 20), SamplingParams()]
    wanted = [request(song, 24, sampling=one, seed=at) for at, one in enumerate(samplings)]
    streams = await collect_all(guessing, wanted)
    for one, steps in zip(wanted, streams, strict=True):
        check(guessing, bank, one, steps)
        # Tokens of a distribution of temperature 0.7 are likely ones; those of garbage were below -10.
        assert sum(step.token.logprob for step in steps if step.token) > -3 * len(steps)


@pytest.mark.parametrize("position", ["own", "predicting"])
async def test_hazard_a_draft_runs_past_the_end_of_a_response(guessing, position):
    bank = random_bank(guessing.checkpoint.skeleton, n=100, position=position)
    await guessing.load_heads(bank)
    song = encode_prompt(guessing.tokenizer, SONG)
    n = len(tokens_of(await collect(guessing, request(song, 40))))
    wanted = [request(song, n_tokens) for n_tokens in range(n - 5, n + 2)]
    for one, steps in zip(wanted, await collect_all(guessing, wanted), strict=True):
        assert len(tokens_of(steps)) == min(one.max_tokens, n)
        check(guessing, bank, one, steps)
