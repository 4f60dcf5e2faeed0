"""Features on disk must be those of the tokens they claim, whatever the batch, the kill or the half precision."""

import math
import os

import numpy as np
import pytest
import torch

from offline import extract as module
from offline.extract import FeatureStore, extract
from offline.passage_reader import SIGNALS, PassageReader
from offline.passages import GROUPS, Passage, group_weights, shared_prefix
from offline.stages import StageMismatchError
from probes.neurons import NeuronSet
from probes.reducing_tap import ReducingTap
from probes.spans import AnswerSpan
from probes.tap import HeadTap
from tests.reference.official_cett import official_cett
from tests.reference.tiny_models import VOCABULARY, build_tiny, shared_tiny

torch.set_num_threads(1)


def make_passages(n, *, seed=0, template=()):
    """Prompts of 2 to 9 tokens after the template, responses of 1 to 8, one or two spans."""
    draw = np.random.default_rng(seed)
    passages = []
    for i in range(n):
        p, t = int(draw.integers(2, 10)), int(draw.integers(1, 9))
        ids = [*template, *draw.integers(3, VOCABULARY, p + t).tolist()]
        p += len(template)
        start = int(draw.integers(0, t))
        spans = [AnswerSpan(start, int(draw.integers(start, t)) + 1)]
        if spans[0].start > 1:
            spans.insert(0, AnswerSpan(0, 1))
        passages.append(Passage(f"s/{i}", tuple(ids[:p]), tuple(ids[p:]), tuple(spans)))
    return passages


def read(model, passages):
    """One batch of all."""
    with PassageReader(model, passages).attached() as reader:
        return reader.read(passages)


def open_store(folder, passages, model, settings=None):
    return FeatureStore(folder, [p.key for p in passages], sum(ReducingTap(model).widths), settings or {"v": 1})


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


def test_the_model_is_left_as_it_was(tmp_path):
    model, passages = build_tiny("Llama"), make_passages(4, template=(7, 8))
    ids = torch.tensor([passages[0].token_ids])
    with torch.inference_mode():
        before = model(input_ids=ids).logits
    with pytest.raises(ZeroDivisionError), PassageReader(model, passages).attached():
        raise ZeroDivisionError
    extract(model, passages, open_store(tmp_path, passages, model))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, before)


def test_padding_counts_in_no_group_and_groups_with_tokens_sum_to_one():
    passage = Passage("s/1", (5, 6, 7), (8, 9), (AnswerSpan(0, 2),))
    weights = group_weights(passage, 9)
    assert weights[:, 5:].sum() == 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(GROUPS)))


def test_a_group_without_tokens_is_zero_and_not_nan():
    passage = Passage("s/1", (5,), (8, 9), (AnswerSpan(0, 2),))  # all that predicts is answer
    assert group_weights(passage, 3)[GROUPS.index("other_ahead")].tolist() == [0, 0, 0]


def test_half_precision_on_disk_is_the_float32_value_to_a_thousandth(tmp_path):
    model, passages = shared_tiny("Llama"), make_passages(9, template=(7, 8, 9))
    store = open_store(tmp_path, passages, model)
    extract(model, passages, store, batch_tokens=40)
    features, signals = read(model, passages)
    for group, name in enumerate(GROUPS):
        # Below 6e-5 float16 is subnormal: steps of 6e-8.
        np.testing.assert_allclose(store.groups[name], features[:, group].numpy(), rtol=1e-3, atol=6e-8)
    for row, expected in enumerate(signals):
        found = dict(zip(store.signal_names, store.signals[row], strict=True))
        assert found == pytest.approx(expected, abs=1e-4)
    reopened = open_store(tmp_path, passages, model)
    assert reopened.done.all()
    np.testing.assert_array_equal(reopened.groups["answer"], store.groups["answer"])


@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_a_kill_loses_the_batch_in_flight_only(tmp_path, monkeypatch, killed_after):
    model, passages = shared_tiny("Llama"), make_passages(12)
    whole = open_store(tmp_path / "whole", passages, model)
    extract(model, passages, whole, batch_tokens=30)
    batches = []
    real = PassageReader.read

    def counted(reader, batch):
        if len(batches) == killed_after:
            raise KeyboardInterrupt
        batches.append([passage.key for passage in batch])
        return real(reader, batch)

    monkeypatch.setattr(PassageReader, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        extract(model, passages, open_store(tmp_path / "cut", passages, model), batch_tokens=30)
    done = sum(len(keys) for keys in batches)
    killed_after = -1
    resumed = open_store(tmp_path / "cut", passages, model)
    assert resumed.done.sum() == done
    extract(model, passages, resumed, batch_tokens=30)
    asked = [key for keys in batches for key in keys]
    assert sorted(asked) == sorted(p.key for p in passages)  # none twice
    for name in GROUPS:
        np.testing.assert_allclose(resumed.groups[name], whole.groups[name], rtol=2e-3, atol=1e-6)


def test_features_without_their_signals_are_not_done(tmp_path, monkeypatch):
    model, passages = shared_tiny("Llama"), make_passages(3)
    store = open_store(tmp_path, passages, model)
    extract(model, passages[:0], store)
    store.signals[1] = 1.0
    store.signals[2, :4] = 1.0  # torn in the middle of a row
    assert open_store(tmp_path, passages, model).done.tolist() == [False, True, False]


def test_a_store_of_other_rows_or_settings_is_refused_and_left_alone(tmp_path):
    model, passages = shared_tiny("Llama"), make_passages(4)
    extract(model, passages, open_store(tmp_path, passages, model))
    for changed, settings in ((passages[::-1], None), (passages[:3], None), (passages, {"v": 2})):
        with pytest.raises(StageMismatchError, match="another --out, or delete"):
            open_store(tmp_path, changed, model, settings)
    assert open_store(tmp_path, passages, model).done.all()


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path, monkeypatch):
    model, passages = shared_tiny("Llama"), make_passages(4)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path, passages, model)
    monkeypatch.undo()
    store = open_store(tmp_path, passages, model)
    assert not store.done.any()


def test_features_that_are_not_finite_are_named_and_not_kept(tmp_path):
    model, passages = build_tiny("Llama"), make_passages(3)
    with torch.inference_mode():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    store = open_store(tmp_path, passages, model)
    with pytest.raises(ValueError, match=r"s/\d: .*not finite"):
        extract(model, passages, store)
    assert not store.done.any()


def test_batches_hold_the_token_budget(tmp_path, monkeypatch):
    model, passages = shared_tiny("Llama"), make_passages(30)
    real, shapes = PassageReader.read, []

    def seen(reader, batch):
        shapes.append((len(batch), max(passage.length for passage in batch)))
        return real(reader, batch)

    monkeypatch.setattr(PassageReader, "read", seen)
    extract(model, passages, open_store(tmp_path, passages, model), batch_tokens=64)
    assert all(rows * columns <= 64 or rows == 1 for rows, columns in shapes)
    assert len(shapes) < 10


def _peak_bytes(run):
    """Most memory that `run` made resident on top of what was."""

    def status(field):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    model = build_tiny("Llama", intermediate_size=20_000)  # 720 kB a row on disk
    few, many = (
        [Passage(f"s/{i}", (5, 6, 7, 8), (9, 10, 11, 12), (AnswerSpan(0, 2),)) for i in range(n)] for n in (20, 240)
    )
    extract(model, few, open_store(tmp_path / "warm", few, model), batch_tokens=64)
    peaks = [
        _peak_bytes(lambda p=p, name=name: extract(model, p, open_store(tmp_path / name, p, model), batch_tokens=64))
        for p, name in ((few, "few"), (many, "many"))
    ]
    assert (tmp_path / "many/answer.npy").stat().st_size * len(GROUPS) > 170e6
    assert peaks[1] - peaks[0] < 60e6  # it goes up and down by 30 MB with the allocator's mood
