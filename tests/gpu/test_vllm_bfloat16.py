"""The guard as a GPU user runs it: bfloat16, vLLM's own choice of attention, CUDA graphs, asynchronous scheduling."""

import pytest
import pytest_asyncio
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("vllm", reason="vLLM is not installed: make vllm")

from tests.reference.engine_runs import random_bank, request, scores_of, tokens_of
from tests.reference.slow_engine import slow_evidence
from tests.vllm.runs import Shelf, collect_all, default_folder, prompts, reference

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ALPHAS = (1.0, 0.0, 0.5, 3.0)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(tmp_path_factory):
    shelf = Shelf(tmp_path_factory.mktemp("vllm"), device="cuda", dtype="bfloat16", arguments={"enforce_eager": False})
    yield await shelf.get(default_folder())
    await shelf.close()


async def test_the_runner_is_the_tapped_one_and_steps_overlap(engine):
    assert await engine._core._vllm.collective_rpc("witness_runner") == ["TappedGPUModelRunner"]
    assert engine._core._vllm.vllm_config.scheduler_config.async_scheduling


async def test_hazard_rows_of_graphs_and_overlapping_steps_are_mixed_up(engine):
    """Scores follow those of plain float32 passes over the same tokens; a row of another request would not."""
    bank = random_bank(engine.checkpoint.skeleton, n=100)
    await engine.load_heads(bank)
    questions = prompts(engine, "Answer briefly. ")
    wanted = [request(questions[at % 6], 8 + at, alpha=ALPHAS[at % 4]) for at in range(24)]
    found, expected = [], []
    for one, steps in zip(wanted, await collect_all(engine, wanted), strict=True):
        found.append(scores_of(steps))
        expected.append(plain_scores(bank, one.prompt_ids, tokens_of(steps), one.alpha)[: len(steps)])
    check_follows(found, expected)


async def test_hazard_a_teacher_forced_row_of_another_place(engine):
    """The same of responses that are given, each of them another prompt's words."""
    bank = engine._banks.current.bank
    questions = prompts(engine)
    found, expected = [], []
    for at, alpha in enumerate((*ALPHAS, *ALPHAS[:2])):
        prompt, response = questions[at], questions[at - 1]
        scored = await engine.score(prompt, response, alpha=alpha)
        found.append(torch.tensor([row.scores for row in scored.rows]))
        expected.append(plain_scores(bank, prompt, response, alpha))
        assert len(scored.rows) == len(expected[-1])
    check_follows(found, expected)


def plain_scores(bank, prompt, response, alpha):
    return slow_evidence(reference(default_folder()), bank, list(prompt), list(response), alpha).scores


def check_follows(found, expected):
    for head in range(found[0].shape[1]):
        pair = torch.stack([torch.cat(rows)[:, head].double() for rows in (found, expected)])
        assert torch.corrcoef(pair)[0, 1] > 0.999
