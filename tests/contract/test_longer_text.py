"""benchmarks/longer_text.py: the numbers that it judges are those of POST /score, and a run that ended goes on."""

import dataclasses

import numpy as np
import pytest

from benchmarks.longer_text import STATEMENT, print_tables, report_sets, score_all, score_text
from offline.longer_text.labelled_text import READERS, LabelledRange
from offline.longer_text.unit_scores import score_units
from probes.probe import ResidualHead
from service.answering.scoring import plan_score, run_score
from service.lifecycle import Lifecycle
from service.observe.metrics import Metrics
from service.probe_roles.served import ServedModel, head_bank
from service.schemas.score import ScoreRequest
from service.settings import Settings
from tests import serving

SENTENCES = ["Paris is in Texas.", "The river Elbe runs through Höchst.", "I do not know."]


def make_texts(n):
    """The same sentences about n passages, each time turned round, the first of them marked."""
    rows = [
        {
            "id": f"t{at}",
            "question": f"What is known of place {at}?",
            "passage_id": str(at),
            "sentences": [{"sentence": SENTENCES[(at + k) % 3], "label": int((at + k) % 3 == 0)} for k in range(3)],
        }
        for at in range(n)
    ]
    return [READERS["helm_sentences"](row) for row in rows]


@pytest.fixture
def make_parts(engine_name, request):
    """Makes parts whose probe has a position rule and a locator."""

    def make(position, *, locator):
        if engine_name == "fake":
            return serving.make_parts(position=position, locator=locator, max_model_len=512)
        from tests.contract.tiny import make_tiny_parts

        parts = make_tiny_parts(request.getfixturevalue("tiny_folder"), position)
        probe = dataclasses.replace(parts.artifact.probe, locator=locator)
        return dataclasses.replace(parts, artifact=dataclasses.replace(parts.artifact, probe=probe))

    return make


async def score(parts, texts, out):
    lifecycle = Lifecycle(Settings(engine="transformers", canary_s=0), Metrics(), parts)
    return await score_all(lifecycle, texts, out, {})


async def post(parts, text):
    async with serving.serve_in_process(parts) as client:
        answer = await client.post("/score", json={"prompt": text.prompt, "response": text.response})
    assert answer.status_code == 200, answer.text
    return answer.json()


def pool(scored, text, kind):
    row = scored.rows[text.source, text.text_id]
    return list(score_units(text, row, kind, scored.probe.risk_model, scored.probe.domain))


async def test_a_sentence_has_the_risk_of_its_span_in_score(make_parts, position, tmp_path):
    texts = make_texts(3)
    scored = await score(make_parts(position, locator="lexical"), texts, tmp_path / "report.json")
    for text in texts:
        spans = (await post(make_parts(position, locator="lexical"), text))["guard"]["spans"]
        claims = [unit for unit in pool(scored, text, "sentence") if unit.has_claim]
        assert len(spans) == len(claims) == 2  # the refusal claims nothing
        found = [unit.scores["risk of located tokens"] for unit in claims]
        assert found == pytest.approx([span["risk"] for span in spans], abs=1e-6)
        assert len({round(risk, 4) for risk in found}) == 2


async def test_a_whole_response_has_the_risk_and_signals_of_score(make_parts, position, tmp_path):
    (text,) = make_texts(1)
    text = dataclasses.replace(text, kind="response", units=(LabelledRange(0, len(text.response), 1),))
    scored = await score(make_parts(position, locator="response"), [text], tmp_path / "report.json")
    (unit,) = pool(scored, text, "response")
    answer = await post(make_parts(position, locator="response"), text)
    signals = answer["guard"]["signals"]
    assert unit.scores["risk"] == pytest.approx(answer["risk"], abs=1e-6)
    assert unit.scores["risk of located tokens"] == pytest.approx(answer["risk"], abs=1e-6)
    assert unit.scores["probe logit"] == pytest.approx(answer["guard"]["logit"], abs=1e-5)
    assert unit.scores["mean log-probability"] == pytest.approx(-signals["mean_logprob"], abs=1e-5)
    assert unit.scores["minimum log-probability"] == pytest.approx(-signals["min_logprob"], abs=1e-5)
    assert unit.scores["mean entropy"] == pytest.approx(signals["mean_entropy"], abs=1e-5)
    assert unit.scores["maximum entropy"] == pytest.approx(signals["max_entropy"], abs=1e-5)
    assert unit.scores["length"] == signals["length"]
    assert unit.is_outside == answer["guard"]["out_of_domain"]


async def test_a_probe_with_a_residual_head_is_pooled_with_it(make_parts):
    (text,) = make_texts(1)
    parts = make_parts("own", locator="lexical")
    probe, engine = parts.artifact.probe, parts.engine
    stream = np.random.default_rng(3).normal(size=parts.artifact.model.hidden_size).astype(np.float32)
    probe = dataclasses.replace(
        probe,
        residual=ResidualHead(1, stream, intercept=0.3),
        risk_model=dataclasses.replace(probe.risk_model, weights={"cett": 0.8, "residual": 0.4}),
    )
    await engine.start(head_bank(probe))
    try:
        heads = await engine.load_heads(head_bank(probe), is_default=False)
        with engine.hold_heads(heads):
            served = ServedModel(engine, dataclasses.replace(parts.artifact, probe=probe), heads)
            row = await score_text(served, text)
            plan = plan_score(served, ScoreRequest(prompt=text.prompt, response=text.response))
            spans = (await run_score(served, plan, Metrics(), "id")).guard.spans
    finally:
        await engine.close()
    units = score_units(text, row, "sentence", probe.risk_model, probe.domain)
    found = [unit.scores["risk of located tokens"] for unit in units if unit.has_claim]
    assert found == pytest.approx([span.risk for span in spans], abs=1e-6)
    without = dataclasses.replace(probe.risk_model, weights={"cett": 0.8})
    others = score_units(text, row, "sentence", without, probe.domain)
    assert [unit.scores["risk of located tokens"] for unit in others if unit.has_claim] != pytest.approx(
        found, abs=1e-3
    )


async def test_a_rerun_scores_only_what_is_missing(make_parts, tmp_path):
    texts, out = make_texts(4), tmp_path / "report.json"
    first = await score(make_parts("own", locator="lexical"), texts[:3], out)
    rows = tmp_path / "report_texts.jsonl"
    rows.write_bytes(rows.read_bytes()[:-20])  # killed within the third row
    kept = rows.read_bytes().splitlines()[:2]
    parts = make_parts("own", locator="lexical")
    passes, original = [], parts.engine.score

    async def count(prompt_ids, *args, **options):
        if prompt_ids not in parts.artifact.golden.prompt_ids:
            passes.append(prompt_ids)
        return await original(prompt_ids, *args, **options)

    parts.engine.score = count
    again = await score(parts, texts, out)
    assert len(passes) == 2
    assert rows.read_bytes().splitlines()[:2] == kept
    assert {key: again.rows[key] for key in first.rows} == first.rows


async def test_a_text_longer_than_the_window_is_left_out_and_counted(make_parts, tmp_path):
    texts = make_texts(12)
    texts.append(dataclasses.replace(texts[0], text_id="long", response=texts[0].response * 10))
    scored = await score(make_parts("own", locator="lexical"), texts, tmp_path / "report.json")
    found = report_sets(texts, scored.rows, scored.probe)["helm_sentences"]
    assert found["left_out"] == {"longer than the model's window": 1}
    assert (found["texts"], found["status"]) == (13, {"scored": 12})
    assert (found["units"]["sentence"]["hallucinated"], found["units"]["sentence"]["faithful"]) == (12, 24)
    assert found["units"]["sentence"]["without_located_tokens"] == 12


async def test_the_table_says_that_other_models_wrote_the_text(make_parts, tmp_path, capsys):
    texts = make_texts(12)
    scored = await score(make_parts("own", locator="lexical"), texts, tmp_path / "report.json")
    sets = report_sets(texts, scored.rows, scored.probe)
    print_tables({"statement": STATEMENT, **scored.made_with, "sets": sets})
    printed = capsys.readouterr().out
    assert printed.startswith("Cross-model scoring: other models wrote these texts")
    low, value, high = (sets["helm_sentences"]["units"]["sentence"]["scores"]["risk"]["auroc"][at] for at in (1, 0, 2))
    assert f"| risk | {value:.3f} [{low:.3f}, {high:.3f}] |" in printed
