"""Features must be those of the tokens they claim, in any batch."""

import math

import numpy as np
import pytest
import torch

from offline.extraction.passage_reader import SIGNALS
from offline.extraction.passages import GROUPS, Passage, group_weights, shared_prefix
from probes.neurons import NeuronSet
from probes.reducing_tap import ReducingTap
from probes.spans import AnswerSpan
from probes.tap import HeadTap
from tests.reference.official_cett import official_cett
from tests.reference.tiny_models import shared_tiny
from tests.unit.offline.passages import make_passages, read

torch.set_num_threads(1)


@torch.inference_mode()
def token_cett(model, passage):
    """CETT [tokens, neurons] of one row alone, by the service's tap."""
    widths = ReducingTap(model).widths
    tap = HeadTap(model, NeuronSet.from_flat(widths, np.arange(sum(widths))))
    with tap.attached():
        tap.begin(1, last=None)
        model(input_ids=torch.tensor([passage.prompt_ids + passage.response_ids]), use_cache=False)
        return tap.read().cett[0].numpy()


def slow_features(cett, passage):
    """The groups, token by token, from their description."""
    p, t = len(passage.prompt_ids), len(passage.response_ids)
    answer = sorted({k for span in passage.spans for k in range(span.start, span.end)})
    own, ahead = [p + k for k in answer], [p - 1 + k for k in answer]
    rows = {
        "answer": own,
        "other": [i for i in range(p + t) if i not in own],
        "answer_ahead": ahead,
        "other_ahead": [i for i in range(p + t - 1) if i not in ahead],  # the last token predicts nothing
        "response": range(p, p + t),
        "prompt": range(p),
    }
    return np.stack([cett[list(rows[name])].mean(axis=0) for name in GROUPS])


@torch.inference_mode()
def slow_signals(model, passage):
    """From plain log_softmax, in float64, one token at a time."""
    p = len(passage.prompt_ids)
    logits = model(input_ids=torch.tensor([passage.prompt_ids + passage.response_ids])).logits[0].double()
    logprobs, entropies = [], []
    for k, token in enumerate(passage.response_ids):
        q = logits[p - 1 + k].log_softmax(dim=-1)
        logprobs.append(float(q[token]))
        entropies.append(-sum(math.exp(float(v)) * float(v) for v in q))
    answer = sorted({k for span in passage.spans for k in range(span.start, span.end)})
    found = {}
    for prefix, tokens in (("", answer), ("response_", range(len(logprobs)))):
        p, e = [logprobs[k] for k in tokens], [entropies[k] for k in tokens]
        values = (np.mean(p), min(p), np.mean(e), max(e), len(p))
        found |= {prefix + name: value for name, value in zip(SIGNALS, values, strict=True)}
    return found


@pytest.mark.parametrize("template", [(), (7,), tuple(range(10, 25))], ids=["none", "one", "longer than a window"])
@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Gemma3", "Phi3", "Mistral", "Mixtral", "Qwen3Moe", "DeepseekV3"])
def test_every_group_is_the_mean_over_its_tokens_in_any_batch(name, template):
    model, passages = shared_tiny(name), make_passages(7, template=template)
    assert shared_prefix(passages) == template
    together, signals = read(model, passages)
    for row, passage in enumerate(passages):
        expected = slow_features(token_cett(model, passage), passage)
        np.testing.assert_allclose(together[row].numpy(), expected, rtol=3e-4, atol=3e-6)
        plain = slow_signals(model, passage)
        assert signals[row].keys() == plain.keys()
        for key, value in plain.items():
            assert signals[row][key] == pytest.approx(value, abs=1e-4)


def test_other_is_everything_but_the_answer_tokens_as_in_the_official_code():
    model = shared_tiny("Llama")
    passage = Passage("s/1", (5, 6, 7, 8), (9, 10, 11, 12, 13), (AnswerSpan(1, 3),))
    cett = official_cett(model, list(passage.prompt_ids + passage.response_ids))
    start, end = 4 + 1, 4 + 3
    other = torch.cat([cett[:, :start], cett[:, end:]], dim=1).mean(dim=1).flatten()
    features, _ = read(model, [passage])
    torch.testing.assert_close(features[0, GROUPS.index("other")], other, rtol=2e-4, atol=2e-6)
    answer = cett[:, start:end].mean(dim=1).flatten()
    torch.testing.assert_close(features[0, GROUPS.index("answer")], answer, rtol=2e-4, atol=2e-6)


def test_what_is_shared_leaves_every_prompt_the_row_that_predicts_the_response():
    prompts = [(1, 2, 3), (1, 2, 3, 4), (1, 2)]
    passages = [Passage(str(i), ids, (9,), (AnswerSpan(0, 1),)) for i, ids in enumerate(prompts)]
    assert shared_prefix(passages) == (1,)
    assert shared_prefix(passages[:1]) == (1, 2)
    assert shared_prefix([]) == ()


@pytest.mark.parametrize("name", ["Llama", "Qwen3Moe"])
def test_equal_prompts_of_one_token_and_long_responses_are_read_right(name):
    model = shared_tiny(name)
    spans = (AnswerSpan(2, 4),)
    passages = [Passage("a", (5,), tuple(range(20, 28)), spans), Passage("b", (5,), tuple(range(30, 35)), spans)]
    features, signals = read(model, passages)
    for row, passage in enumerate(passages):
        expected = slow_features(token_cett(model, passage), passage)
        np.testing.assert_allclose(features[row].numpy(), expected, rtol=3e-4, atol=3e-6)
        assert signals[row] == pytest.approx(slow_signals(model, passage), abs=1e-4)


def test_padding_counts_in_no_group_and_groups_with_tokens_sum_to_one():
    passage = Passage("s/1", (5, 6, 7), (8, 9), (AnswerSpan(0, 2),))
    weights = group_weights(passage, 9)
    assert weights[:, 5:].sum() == 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(GROUPS)))


def test_a_group_without_tokens_is_zero_and_not_nan():
    passage = Passage("s/1", (5,), (8, 9), (AnswerSpan(0, 2),))  # all that predicts is answer
    assert group_weights(passage, 3)[GROUPS.index("other_ahead")].tolist() == [0, 0, 0]
