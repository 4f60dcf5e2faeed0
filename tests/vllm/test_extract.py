"""Features that vLLM extracts against those of the transformers path, real default model, float32."""

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm")

from offline.extraction.extract import FeatureStore, extract
from offline.extraction.extract_vllm import VllmExtractor
from offline.extraction.passages import GROUPS, Passage
from probes.checkpoint import Checkpoint
from probes.models import load_model, load_tokenizer
from probes.prompts import encode_prompt
from probes.spans import AnswerSpan
from tests.vllm.runs import TOLERANCE, default_folder, worst

pytestmark = pytest.mark.slow

BUDGET = 96
LONG = "It is said of it, of them and of many others that they were there before anybody had come to see them. "


def make_passages(tokenizer):
    """Passages of 30 to 330 tokens; the longest take several steps, in the prompt and in the response."""
    passages = []
    for at in range(12):
        prompt = encode_prompt(tokenizer, LONG * (at % 3) + f"Name the {at + 2}th of the kings of France.")
        response = tokenizer(f"The {at}th king was Louis. " + LONG * (at * at // 12)).input_ids
        spans = (AnswerSpan(0, 1), AnswerSpan(4, 6)) if at % 2 else (AnswerSpan(at % 5, at % 5 + 2),)
        passages.append(Passage(f"s/{at}", tuple(prompt), tuple(response), spans))
    return passages


def open_store(folder, passages, neurons):
    return FeatureStore(folder, [passage.key for passage in passages], neurons, {})


def note(kind, departure):
    worst[kind] = max(worst.get(kind, 0.0), float(departure))


def test_features_of_passages_in_pieces_are_those_of_the_transformers_path(tmp_path, monkeypatch):
    folder = default_folder()
    passages = make_passages(load_tokenizer(folder))
    lengths = [passage.length for passage in passages]
    assert min(lengths) < BUDGET < max(lengths) / 3
    neurons = sum(Checkpoint(folder).widths)
    plain = open_store(tmp_path / "plain", passages, neurons)
    extract(load_model(folder, dtype="float32", device="cpu"), passages, plain)

    found = open_store(tmp_path / "vllm", passages, neurons)
    extractor = VllmExtractor(
        folder, max_length=max(lengths), dtype="float32", device="cpu", batch_tokens=BUDGET, batch_rows=6
    )
    try:
        step, steps = extractor._llm.llm_engine.step, []

        def killed():
            if found.done.sum() >= 5:
                raise KeyboardInterrupt
            return step()

        monkeypatch.setattr(extractor._llm.llm_engine, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            extractor.extract(passages, found)
        half = found.done
        assert 5 <= half.sum() < 12
        before = found.groups["answer"][half].copy()

        def counted():
            outputs = step()
            steps.extend(int(output.request_id) for output in outputs)
            return outputs

        extractor._llm.llm_engine.abort_request([str(row) for row in np.flatnonzero(~half)])
        monkeypatch.setattr(extractor._llm.llm_engine, "step", counted)
        resumed = open_store(tmp_path / "vllm", passages, neurons)
        assert (resumed.done == half).all()
        extractor.extract(passages, resumed)
        assert sorted(steps) == np.flatnonzero(~half).tolist(), "finished rows are not fed again"
        np.testing.assert_array_equal(resumed.groups["answer"][half], before)

        broken = open_store(tmp_path / "broken", passages[:2], neurons)

        def spoiled():
            (broken.folder / "answer.npy").unlink(missing_ok=True)
            return step()

        monkeypatch.setattr(extractor._llm.llm_engine, "step", spoiled)
        with pytest.raises(ValueError, match=r"No such file.*answer\.npy"):  # what went wrong in vLLM's process
            extractor.extract(passages[:2], broken)
    finally:
        extractor.close()

    assert resumed.done.all()
    for name in GROUPS:
        got, wanted = (np.asarray(store.groups[name], dtype=np.float64) for store in (resumed, plain))
        difference = np.abs(got - wanted)
        note("feature", difference.max())
        note("feature, relative", (difference / np.maximum(wanted, 1e-3)).max())
        np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-5)
    departure = np.abs(resumed.signals - plain.signals).max()
    note("pooled signal", departure)
    assert departure < TOLERANCE
