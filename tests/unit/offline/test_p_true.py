"""p(True) must be the model's own odds for the answer that it gave, question by question."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offline.features import p_true
from offline.features.p_true import SIGNAL, with_p_true, yes_and_no
from offline.features.table import Table
from offline.records import Response
from probes.prompts import encode_prompt
from tests.reference.tiny_tokenizer import tiny_tokenizer
from tests.unit.offline.tables import make_row
from tests.unit.offline.tiny_run import make_questions, make_run, tiny_llama

torch.set_num_threads(1)

QUESTIONS = make_questions(9)
ANSWERS = [Response(q.question_id, 0, f" {'Lima ' * (at % 3 + 1)}", (50,), "stop") for at, q in enumerate(QUESTIONS)]


@pytest.fixture
def table():
    rows = tuple(make_row(f"s/{at}", at % 2, "test") for at in (4, 0, 7, 4))
    return Table(rows, (), np.zeros(4, dtype=np.int64), {}, {"mean_logprob": np.zeros(4)})


@torch.inference_mode()
def odds(question, answer):
    tokenizer = tiny_tokenizer()
    text = f"Question: {question.question}\nProposed answer: {answer.text.strip()}\nIs the proposed answer true? "
    ids = encode_prompt(tokenizer, text + "Answer with Yes or No only.")
    p = tiny_llama()(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
    yes, no = yes_and_no(tokenizer)
    return float(p[yes].sum().log() - p[no].sum().log())


def test_each_row_has_the_odds_of_its_own_question_and_answer(table, tmp_path, monkeypatch):
    monkeypatch.setattr(p_true, "ROWS", 2)
    found = with_p_true(make_run(tmp_path), table, QUESTIONS, ANSWERS, "upstream")
    expected = [odds(QUESTIONS[at], ANSWERS[at]) for at in (4, 0, 7, 4)]
    np.testing.assert_allclose(found.signals[SIGNAL], expected, atol=1e-4)
    assert len(set(expected)) == 3
    assert list(found.signals) == ["mean_logprob", SIGNAL]


def test_what_was_asked_is_not_asked_again(table, tmp_path):
    first = with_p_true(make_run(tmp_path), table, QUESTIONS, ANSWERS, "upstream")
    silent = SimpleNamespace(out=tmp_path)  # no model
    again = with_p_true(silent, table, QUESTIONS, ANSWERS, "upstream")
    assert (again.signals[SIGNAL] == first.signals[SIGNAL]).all()


def test_hazard_one_token_counts_for_yes_and_for_no():
    yes, no = yes_and_no(tiny_tokenizer())
    assert yes
    assert no
    assert not set(yes) & set(no)
