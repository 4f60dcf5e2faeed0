"""Span labellers: which occurrence, which tokens, and what is counted as unlabelled."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from offline.labels.chat_client import ChatSettings
from offline.labels.spans import ShortAnswerLabeller, find_alias, find_lexical, label_spans
from offline.labels.spans_openai import OpenAILabeller, find_copy
from offline.records import Question, Response


@pytest.fixture(scope="module")
def tokenizer():
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        ["The capital of Singapore is Singapore."] * 3,
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<|im_end|>"], initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", clean_up_tokenization_spaces=False)


def ask(text, *answers):
    return Question("set/1", text, answers, "set")


def say(text, token_ids=()):
    return Response("set/1", 0, text, tuple(token_ids), "stop")


def cut(response, span):
    return None if span is None else response.text[slice(*span)]


def test_alias_is_not_taken_from_the_echoed_question():
    question = ask("What is the capital of Singapore?", "Singapore")
    response = say("The capital of Singapore is Singapore.")
    assert find_alias(question, response) == (28, 37)


def test_alias_takes_the_claim_and_not_an_earlier_look_alike():
    question = ask("Who founded Ford Motors?", "Henry Ford", "Ford")
    response = say("Ford, I mean the firm of Detroit, was founded by Henry Ford.")
    assert cut(response, find_alias(question, response)) == "Henry Ford"


def test_alias_of_a_wrong_answer_is_none():
    assert find_alias(ask("Capital of France?", "Paris"), say("London")) is None


def test_lexical_labels_right_and_wrong_answers_alike():
    question = ask("What is the capital of France?", "Paris")
    for word in ("Paris", "London"):
        response = say(f"The capital of France is {word}.")
        assert cut(response, find_lexical(question, response)) == word


def test_short_answer_is_found_again_in_the_sentence():
    question = ask("What is the capital of France?", "Paris")
    labeller = ShortAnswerLabeller({"set/1": "The Lyon."})
    response = say("In France, Lyon is the capital.")
    assert cut(response, ShortAnswerLabeller({"set/1": "Lyon."})(question, response)) == "Lyon"
    assert labeller(question, say("It is Paris.")) is None
    assert ShortAnswerLabeller({})(question, response) is None


def test_rows_name_the_responses_own_tokens(tokenizer):
    question = ask("What is the capital of France?")
    letters = [token for letter in "It is Rome." for token in tokenizer.encode(letter, add_special_tokens=False)]
    result = label_spans([(question, say("It is Rome.", letters))], tokenizer, find_lexical, "lexical")
    assert [(row.token_start, row.token_end, row.method) for row in result.rows] == [(6, 10, "lexical")]


def test_responses_without_a_span_are_counted(tokenizer):
    question = ask("What is the capital of France?")
    refusal = say("I don't know.", tokenizer.encode("I don't know.", add_special_tokens=False))
    cleaned = say("It is Rome", tokenizer.encode("It is Rome, Italy", add_special_tokens=False))
    result = label_spans([(question, refusal), (question, cleaned)], tokenizer, find_lexical, "lexical")
    assert result.rows == []
    assert result.unlabelled == {"no span": 1, "text is not the decoded tokens": 1}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("Paris", [(6, 11)]), (' "Paris". ', []), ('"Paris"', [(6, 11)]), ("Paris.", [(6, 11)]), ("Lyon", []), ("", [])],
)
def test_only_a_letter_for_letter_copy_is_a_span(reply, expected):
    assert find_copy("It is Paris!", reply) == expected


def make_labeller(endpoint, tmp_path):
    settings = ChatSettings("span-model", base_url=endpoint.url, concurrency=1, attempts=2, backoff_seconds=0.001)
    return OpenAILabeller(settings, tmp_path / "spans.jsonl")


def test_paraphrase_is_asked_again_until_it_is_a_copy(chat_endpoint, tmp_path):
    chat_endpoint.script = ["the city of Paris", "Paris"]
    labeller = make_labeller(chat_endpoint, tmp_path)
    response = say("The capital is Paris.")
    assert cut(response, labeller(ask("Capital of France?"), response)) == "Paris"
    assert [message["role"] for message in chat_endpoint.requests[1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["NONE"], "no answer in the response"),
        (["a", "b", "c"], "not a part of the response"),
        ([500, 500], "HTTP 500"),
    ],
)
def test_what_the_model_does_not_copy_is_counted_and_never_guessed(chat_endpoint, tmp_path, answers, reason):
    chat_endpoint.script = list(answers)
    labeller = make_labeller(chat_endpoint, tmp_path)
    assert labeller(ask("Why?"), say("17 6 5")) is None
    assert labeller.unlabelled == {reason: 1}
    assert chat_endpoint.script == []


def test_second_run_reads_the_cache(chat_endpoint, tmp_path):
    chat_endpoint.script = ["somewhere", "Paris"]
    response = say("The capital is Paris.")
    for _ in range(2):
        assert make_labeller(chat_endpoint, tmp_path)(ask("Capital of France?"), response) == (15, 20)
    assert len(chat_endpoint.requests) == 2
