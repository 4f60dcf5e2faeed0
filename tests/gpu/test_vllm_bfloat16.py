"""The guard as a GPU user runs it: bfloat16, vLLM's own choice of attention, CUDA graphs, asynchronous scheduling."""

import pytest
import pytest_asyncio
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("vllm", reason="vLLM is not installed: make vllm")

from tests.reference.engine_runs import collect, random_bank, request, scores_of, tokens_of
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
        plain = reference(default_folder())
        slow = slow_evidence(plain, bank, list(one.prompt_ids), tokens_of(steps), one.alpha)
        found.append(scores_of(steps))
        expected.append(slow.scores[: len(steps)])
    for head in range(2):
        pair = torch.stack([torch.cat(found)[:, head].double(), torch.cat(expected)[:, head].double()])
        assert torch.corrcoef(pair)[0, 1] > 0.999


async def test_hazard_a_teacher_forced_row_of_another_place(engine):
    bank = engine._banks.current.bank
    prompt = prompts(engine)[5]
    steps = await collect(engine, request(prompt, 30, alpha=0.5))
    scored = await engine.score(prompt, tokens_of(steps), alpha=0.5)
    pair = torch.stack(
        [scores_of(steps)[:, 0].double(), torch.tensor([row.scores[0] for row in scored.rows])[: len(steps)]]
    )
    assert torch.corrcoef(pair)[0, 1] > 0.999
    assert len(bank.names) == 2
