r"""A base model's answer is its first line: the same tokens as the service keeps with `"stop": ["\n"]`."""

from functools import partial

import pytest

from offline.sampling.line_end import LineEnd
from offline.sampling.sample import GREEDY, PAPER_SAMPLING, Job, Sampler
from service.engines.base import EvidenceStep, TokenEvidence
from service.guard.transcript import Transcript
from tests.reference.tiny_models import build_tiny
from tests.reference.tiny_tokenizer import tiny_tokenizer, with_newlines
from tests.unit.offline.tiny_run import make_questions

QUESTIONS = make_questions(8)


def encode(question):
    return [3 + len(question.question), 3 + int(question.question_id[2:])]


def draw(tokenizer, params, *, samples=(1, 2, 3), max_tokens=16):
    """Responses by (question, sample) of a model that writes newlines often."""
    model = build_tiny("Llama", vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    sampler = Sampler(model, tokenizer, encode, seed=0, max_tokens=max_tokens, max_rows=8)
    jobs = [Job(question, samples) for question in QUESTIONS]
    return {(row.question_id, row.sample): row for rows in sampler.draw(jobs, params) for row in rows}


def first_line(tokenizer, token_ids):
    """The answer that begins these tokens, found in the text from its beginning; None: it has no end."""
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    text = decode(token_ids)
    blank = len(text) - len(text.lstrip())
    end = text.find("\n", blank)
    if end < 0:
        return None
    return [token for at, token in enumerate(token_ids) if len(decode(token_ids[:at])) < end]


@pytest.mark.parametrize(("params", "samples"), [(GREEDY, (0,)), (PAPER_SAMPLING, tuple(range(1, 13)))])
def test_the_response_is_cut_at_the_first_newline_after_some_text_and_is_otherwise_the_same(params, samples):
    found = draw(with_newlines(has_template=False), params, samples=samples)
    whole = draw(with_newlines(), params, samples=samples)
    tokenizer = with_newlines()
    reasons = set()
    for key, row in found.items():
        line = first_line(tokenizer, list(whole[key].token_ids))
        if line is None:
            assert row == whole[key]
        else:
            assert list(row.token_ids) == line
            assert row.finish_reason == "stop"
            assert row.text == tokenizer.decode(line, skip_special_tokens=True)
        reasons.add((line is None, row.text[:1] == "\n"))
    if params is PAPER_SAMPLING:
        assert reasons >= {(True, False), (False, False), (False, True)}, "with and without an end, after newlines too"


def test_a_model_with_a_chat_template_writes_as_many_lines_as_it_likes():
    assert LineEnd(with_newlines()).token_ids == frozenset()
    rows = draw(with_newlines(), PAPER_SAMPLING).values()
    assert any("\n" in row.text.strip() for row in rows)


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        ([" Paris", "\n"], 1),
        ([" Paris", "\n\n\n"], 1),
        ([" Paris", "\n "], 1),
        ([" Paris", " \n"], 2),  # the token begins before the newline
        ([" Paris", ".\n"], 2),
        ([" Paris", "\r\n"], 2),
        ([" ", " Paris", "\n"], 2),
        ([".\n"], 1),
    ],
)
def test_the_tokens_are_those_that_the_service_keeps(pieces, kept):
    tokenizer = with_newlines(has_template=False)
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert LineEnd(tokenizer).cut(ids) == ids[:kept]
    assert kept_by_the_service(tokenizer, ids) == kept


def test_after_half_a_character_too():
    tokenizer = tiny_tokenizer(has_template=False)
    half, newline = tokenizer("é").input_ids[:1], tokenizer("\n").input_ids
    for ids in (half + newline, tokenizer("Peru").input_ids + half * 2 + newline):
        assert len(LineEnd(tokenizer).cut(ids)) == kept_by_the_service(tokenizer, ids)


def kept_by_the_service(tokenizer, ids):
    transcript = Transcript(tokenizer, ["\n"], None)
    for token in ids:
        transcript.add(EvidenceStep(None, TokenEvidence(token, 0.0, 0.0), None))
    return transcript.n_kept


@pytest.mark.parametrize("pieces", [[" Paris"], ["\n"], [" ", "\n"], ["\n\n", "\n"], ["\n\n", " Paris"]])
def test_without_text_and_newline_the_answer_goes_on(pieces):
    tokenizer = with_newlines(has_template=False)
    assert LineEnd(tokenizer).cut(tokenizer.convert_tokens_to_ids(pieces)) is None


def test_a_bytewise_tokenizer_has_its_newline_found():
    tokenizer = tiny_tokenizer(has_template=False)
    ids = tokenizer("Peru\n").input_ids
    assert LineEnd(tokenizer).cut(ids) == ids[:-1]
