"""The alias judge, the consistency filter, and the judge behind an OpenAI-compatible endpoint."""

import json

import pytest

from offline.labels.chat_client import ChatSettings, EndpointError
from offline.labels.judge import AliasJudge, find_consistency, is_echoed, judge_alias, split_judgeable
from offline.labels.judge_openai import OpenAIJudge, parse_verdict
from offline.records import Question, Response


def ask(text, *answers):
    return Question("set/1", text, answers, "set")


def say(text, sample=0):
    return Response("set/1", sample, text, (), "stop")


@pytest.mark.parametrize(
    ("question", "response", "verdict"),
    [
        (ask("Capital of France?", "Paris"), "The capital is Paris.", "right"),
        (ask("Capital of France?", "Paris"), "Parisian", "wrong"),
        (ask("Which toy?", "Rubik's Cube"), "a rubik\u2019s cube", "right"),
        (ask("How many?", "seven"), "There are 7 of them.", "right"),
        (ask("How many?", "1,000"), "1000", "right"),
        (ask("Which actor?", "Robert Taylor (disambiguation)"), "Robert Taylor", "right"),
        (ask("Which aircraft?", "🚁"), "🚁", "right"),
    ],
)
def test_alias_containment(question, response, verdict):
    assert judge_alias(question, response)[0] == verdict


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        "...",
        "I don't know.",
        "I\u2019m sorry, but I cannot answer that.",
        "Unknown",
        "As an AI language model, I have no opinion.",
        "I'm not sure, maybe Paris.",
        "The answer is not available.",
        "There is no information about that.",
    ],
)
def test_refusals_are_refusals_even_if_they_name_the_answer(response):
    assert judge_alias(ask("Capital of France?", "Paris"), response) == ("refusal", None)


def test_refusal_words_inside_the_answer_do_not_refuse():
    question = ask("Which Stones song?", "(I Can't Get No) Satisfaction")
    assert judge_alias(question, "I can't get no satisfaction")[0] == "right"
    assert judge_alias(ask("Which song?", "Crazy"), "Don't Stop Me Now")[0] == "wrong"


def test_made_up_entity_is_wrong_unless_the_model_declines():
    question = ask("Who founded Skuzaz?")
    assert judge_alias(question, "John Smith")[0] == "wrong"
    assert judge_alias(question, "Skuzaz does not exist.")[0] == "refusal"
    assert judge_alias(question, "Skuzaz is a fictional company.")[0] == "refusal"
    assert judge_alias(question, "Skuzaz is a fictional company from the film Brazil.")[0] == "wrong"
    assert judge_alias(ask("Which detective?", "Holmes"), "He is a fictional man.")[0] == "wrong"


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("In Singapore the capital is Kuala Lumpur.", "wrong"),
        ("The capital of Singapore is Singapore.", "right"),
        ("The capital of Singapore is Jakarta.", "wrong"),
        ("Singapore", "right"),
    ],
)
def test_echoing_the_question_is_not_an_answer(response, verdict):
    assert judge_alias(ask("What is the capital of Singapore?", "Singapore"), response)[0] == verdict


def test_alternatives_of_the_question_can_be_answers():
    question = ask("Is it more common in men or women?", "Women")
    assert judge_alias(question, "It is more common in women.")[0] == "right"
    assert judge_alias(question, "men or women")[0] == "wrong"


def test_questions_whose_answers_they_name_themselves_are_split_off():
    plain, echoed = ask("Capital of France?", "Paris"), ask("Is it men or women?", "Women")
    made_up = ask("Who founded Skuzaz?")
    assert is_echoed(echoed)
    assert split_judgeable([plain, echoed, made_up]) == ([plain, made_up], [echoed])


def test_alias_judge_keeps_order_and_samples():
    question = ask("Capital of France?", "Lutetia", "Paris")
    judged = AliasJudge().judge_all([(question, say("Rome", 1)), (question, say("Paris", 2))])
    assert [(row.sample, row.verdict, row.matched) for row in judged] == [(1, "wrong", None), (2, "right", "Paris")]


@pytest.mark.parametrize(
    ("verdicts", "agreement", "label", "reason"),
    [
        (["right"] * 10, 1.0, "faithful", "kept"),
        (["wrong"] * 10, 1.0, "hallucinated", "kept"),
        (["right"] * 9 + ["wrong"], 1.0, None, "mixed"),
        (["right"] * 9 + ["refusal"], 1.0, None, "refusal"),
        (["right"] * 9 + ["unjudged"], 1.0, None, "unjudged"),
        (["right"] * 9 + ["refusal"], 0.9, "faithful", "kept"),
        (["right"] * 5 + ["wrong"] * 5, 0.5, None, "mixed"),
        (["wrong"] * 3 + ["refusal"] * 7, 0.5, None, "refusal"),
        ([], 1.0, None, "no samples"),
    ],
)
def test_only_agreeing_samples_give_a_label(verdicts, agreement, label, reason):
    result = find_consistency(verdicts, agreement)
    assert (result.label, result.reason) == (label, reason)


@pytest.mark.parametrize("agreement", [0.0, 1.1])
def test_agreement_outside_its_range_is_an_error(agreement):
    with pytest.raises(ValueError, match="agreement"):
        find_consistency(["right"], agreement)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("RIGHT", "right"), (" **Wrong**.", "wrong"), ("refusal\n", "refusal"), ("RIGHT or WRONG", None), ("", None)],
)
def test_only_an_exact_verdict_is_read(reply, verdict):
    assert parse_verdict(reply) == verdict


def settings(endpoint, **more):
    return ChatSettings("judge-model", base_url=endpoint.url, backoff_seconds=0.001, timeout_seconds=0.5, **more)


PAIRS = [(ask("Capital of France?", "Paris"), say("The city of light", sample)) for sample in range(4)]


def test_endpoint_that_fails_at_first_is_asked_again(chat_endpoint):
    chat_endpoint.script = [500, 429, "SLOW", "RIGHT"]
    judge = OpenAIJudge(settings(chat_endpoint, concurrency=1))
    assert judge.judge_all(PAIRS[:1])[0].verdict == "right"
    assert len(chat_endpoint.requests) == 4
    assert not judge.unjudged


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        ("It is right, I think", "unparsable reply", 1),
        (500, "HTTP 500", 2),
        (400, "HTTP 400", 1),
        ("NOT JSON", "the endpoint's answer is not a chat completion", 1),
        ("NO CHOICES", "the endpoint's answer is not a chat completion", 1),
    ],
)
def test_what_cannot_be_judged_is_counted_and_never_guessed(chat_endpoint, answer, reason, requests):
    chat_endpoint.script = [answer] * requests
    judge = OpenAIJudge(settings(chat_endpoint, concurrency=1, attempts=2))
    (judged,) = judge.judge_all(PAIRS[:1])
    assert (judged.verdict, judged.reason) == ("unjudged", reason)
    assert judge.unjudged == {reason: 1}
    assert len(chat_endpoint.requests) == requests


def test_wrong_key_stops_the_run_and_names_the_fix(chat_endpoint):
    chat_endpoint.script = [401] * 8
    with pytest.raises(EndpointError, match="OPENAI_API_KEY"):
        OpenAIJudge(settings(chat_endpoint)).judge_all(PAIRS)


def test_missing_key_is_told_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(EndpointError, match="set OPENAI_API_KEY"):
        OpenAIJudge(ChatSettings("judge-model"))


def test_order_is_kept_with_many_requests_at_a_time(chat_endpoint):
    chat_endpoint.reply = lambda request: "RIGHT" if "answer 3" in request["messages"][-1]["content"] else "WRONG"
    pairs = [(ask("Which?", "Paris"), say(f"answer {sample}", sample)) for sample in range(12)]
    judged = OpenAIJudge(settings(chat_endpoint, concurrency=4)).judge_all(pairs)
    assert [row.sample for row in judged if row.verdict == "right"] == [3]


def test_empty_response_is_a_refusal_without_asking(chat_endpoint):
    assert OpenAIJudge(settings(chat_endpoint)).judge_all([(PAIRS[0][0], say(" "))])[0].verdict == "refusal"
    assert chat_endpoint.requests == []


def test_cache_survives_a_kill_in_the_middle_of_a_line(chat_endpoint, tmp_path):
    cache = tmp_path / "verdicts.jsonl"
    chat_endpoint.reply = lambda request: "WRONG"
    OpenAIJudge(settings(chat_endpoint), cache).judge_all([PAIRS[0]])
    with cache.open("a") as file:
        file.write('{"key": "torn')
    OpenAIJudge(settings(chat_endpoint), cache).judge_all([PAIRS[0]])
    assert len(chat_endpoint.requests) == 1
    assert [json.loads(line)["reply"] for line in cache.read_text().splitlines()] == ["WRONG"]


def test_unparsable_reply_is_not_cached(chat_endpoint, tmp_path):
    chat_endpoint.script = ["maybe", "RIGHT"]
    for verdict in ("unjudged", "right"):
        judge = OpenAIJudge(settings(chat_endpoint), tmp_path / "cache.jsonl")
        assert judge.judge_all([PAIRS[0]])[0].verdict == verdict


def test_another_model_does_not_read_the_cache_of_the_first(chat_endpoint, tmp_path):
    chat_endpoint.script = ["RIGHT", "WRONG"]
    for model, verdict in (("one", "right"), ("two", "wrong")):
        judge = OpenAIJudge(ChatSettings(model, base_url=chat_endpoint.url), tmp_path / "cache.jsonl")
        assert judge.judge_all([PAIRS[0]])[0].verdict == verdict
