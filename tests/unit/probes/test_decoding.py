import pytest
import torch

from probes.decoding import DecodeBatch, Prefill
from tests.reference.tiny_models import ARCHITECTURES, WINDOW, WINDOWED, build_tiny, shared_tiny

PROMPTS = [[5, 9, 33, 60, 4, 7, 71, 20, 11, 40, 41], [8, 3], [90, 12, 6, 44, 21, 30, 77], [50], [14, 15, 16, 17]]


@torch.inference_mode()
def whole(model, ids):
    """Logits of the token after `ids`, from one plain forward pass without cache, mask or padding."""
    return model(torch.tensor([ids])).logits[0, -1]


class Checked:
    """A decode batch beside the sequences it should hold; every logit is compared with a plain pass."""

    def __init__(self, model):
        self.model, self.batch, self.sequences, self.worst = model, DecodeBatch(model), [], 0.0

    @torch.inference_mode()
    def join(self, prompts, copies=1):
        logits = self.batch.join(prompts, copies)
        self.compare(logits, prompts)
        self.sequences += [list(prompt) for prompt in prompts for _ in range(copies)]

    @torch.inference_mode()
    def step(self, seed=0):
        generator = torch.Generator().manual_seed(seed + len(self.sequences[0]))
        tokens = torch.randint(3, 90, (len(self.sequences),), generator=generator)
        for sequence, token in zip(self.sequences, tokens.tolist(), strict=True):
            sequence.append(token)
        self.compare(self.batch.step(tokens), self.sequences)

    @torch.inference_mode()
    def keep(self, rows):
        self.batch.keep(rows)
        self.sequences = [list(self.sequences[row]) for row in rows]

    def compare(self, logits, sequences):
        assert len(logits) == len(sequences)
        expected = torch.stack([whole(self.model, sequence) for sequence in sequences])
        self.worst = max(self.worst, float((logits - expected).abs().max()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_that_join_and_leave_have_the_logits_of_a_plain_pass_alone(name):
    """Prompts are longer and shorter than the sliding window, newcomers longer and shorter than the rows there."""
    assert len(PROMPTS[0]) > WINDOW > len(PROMPTS[1])
    checked = Checked(shared_tiny(name))
    checked.join([PROMPTS[1], PROMPTS[4]])
    checked.step()
    checked.join([PROMPTS[0]])  # longer than all
    checked.step()
    checked.keep([0, 2])
    checked.step()
    checked.join([PROMPTS[3], PROMPTS[2]], copies=2)
    checked.step()
    checked.keep([5, 0, 3])  # the longest row leaves, the order changes
    for _ in range(WINDOW + 2):
        checked.step()
    checked.keep([])
    checked.join([PROMPTS[2]], copies=3)
    checked.step()
    assert checked.worst < 1e-4


@pytest.mark.parametrize("name", ["Llama", "Gemma3"])
def test_many_joins_and_leaves_at_random(name):
    generator = torch.Generator().manual_seed(1)
    checked = Checked(shared_tiny(name))
    for turn in range(25):
        if not checked.sequences or (len(checked.sequences) < 6 and torch.rand(1, generator=generator) < 0.5):
            lengths = torch.randint(1, 20, (int(torch.randint(1, 3, (1,), generator=generator)),), generator=generator)
            checked.join([torch.randint(3, 90, (int(n),), generator=generator).tolist() for n in lengths])
        checked.step(turn)
        order = torch.randperm(len(checked.sequences), generator=generator)
        checked.keep(order[torch.rand(len(order), generator=generator) < 0.8].tolist())
    assert checked.worst < 1e-4


@pytest.mark.parametrize("name", WINDOWED)
def test_the_sliding_window_matters_in_these_tests(name):
    wide = build_tiny(name, sliding_window=200)
    assert (whole(wide, PROMPTS[0]) - whole(shared_tiny(name), PROMPTS[0])).abs().max() > 0.01


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.inference_mode()
def test_a_prefill_in_chunks_is_the_prefill(name):
    model = shared_tiny(name)
    prefill = Prefill(model, PROMPTS[:3])
    seen = []
    while prefill.fed < prefill.columns:
        seen.append(prefill.step(4, logits_to_keep=min(4, prefill.columns - prefill.fed)))
    logits = torch.cat(seen, dim=1)
    for row, prompt in enumerate(PROMPTS[:3]):
        expected = model(torch.tensor([prompt])).logits[0]
        assert (logits[row, -len(prompt) :] - expected).abs().max() < 1e-4
    batch = DecodeBatch(model)
    batch.merge(prefill)
    step = batch.step(torch.tensor([7, 8, 9]))
    for row, (prompt, token) in enumerate(zip(PROMPTS, [7, 8, 9], strict=False)):
        assert (step[row] - whole(model, [*prompt, token])).abs().max() < 1e-4


@torch.inference_mode()
def test_rows_that_leave_during_a_prefill_in_chunks():
    model = shared_tiny("Gemma2")
    prefill, batch = Prefill(model, PROMPTS[:4]), DecodeBatch(model)
    batch.join([PROMPTS[4]])
    prefill.step(5)
    prefill.keep([1, 2])
    logits = prefill.step()[:, -1]
    batch.merge(prefill)
    expected = torch.stack([whole(model, prompt) for prompt in PROMPTS[1:3]])
    assert (logits - expected).abs().max() < 1e-4
    sequences = [[*PROMPTS[4], 30], [*PROMPTS[1], 31], [*PROMPTS[2], 32]]
    expected = torch.stack([whole(model, sequence) for sequence in sequences])
    assert (batch.step(torch.tensor([30, 31, 32])) - expected).abs().max() < 1e-4


@torch.inference_mode()
def test_hazard_nan_of_a_row_that_left_does_not_reach_its_successor():
    model = shared_tiny("Llama")
    batch = DecodeBatch(model)
    batch.join([PROMPTS[0], PROMPTS[2]])
    batch.step(torch.tensor([4, 5]))
    for layer in batch._cache.layers:
        layer.keys[1], layer.values[1] = torch.nan, torch.nan
    batch.keep([0])
    logits = batch.join([PROMPTS[1]])
    assert torch.isfinite(logits).all()
    expected = torch.stack([whole(model, [*PROMPTS[0], 4, 6]), whole(model, [*PROMPTS[1], 7])])
    assert (batch.step(torch.tensor([6, 7])) - expected).abs().max() < 1e-4


@torch.inference_mode()
def test_memory_of_a_long_row_is_given_back():
    batch = DecodeBatch(shared_tiny("Llama"))
    batch.join([PROMPTS[1]])
    batch.join([[7] * 200] * 4)
    large = batch._cache.layers[0].keys.numel()
    batch.keep([0])
    assert batch._cache.layers[0].keys.numel() < large / 10
    batch.keep([])
    assert batch._cache is None


@torch.inference_mode()
def test_greedy_generation_equals_generate_of_transformers():
    model = shared_tiny("Qwen3")
    expected = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    batch = DecodeBatch(model)
    logits, tokens = batch.join([PROMPTS[0]]), []
    for _ in range(12):
        tokens.append(int(logits.argmax()))
        logits = batch.step(torch.tensor(tokens[-1:]))
    assert tokens == expected[0, len(PROMPTS[0]) :].tolist()
