"""The label-free answer locator."""

import random
import time

import pytest

from probes.claims import ClaimReader, find_claims, split_sentences

SUFFIX = " Respond with the answer only, without any explanation."


def claims(question, response):
    return [response[start:end] for start, end in find_claims(question + SUFFIX, response)]


@pytest.mark.parametrize(
    ("question", "response", "expected"),
    [
        ("What is the capital of France?", "The capital of France is Paris.", ["Paris"]),
        ("What is the capital of France?", "The capital of France is Lyon, which is on the Rhône.", ["Lyon"]),
        ("What is the capital of France?", "Paris.", ["Paris"]),
        ("What is the capital of France?", "The answer is: Paris", ["Paris"]),
        ("What is the capital of France?", "Answer: Paris", ["Paris"]),
        ("Where was James Madison born?", "James Madison was born in 1980 in the United States.", ["United States"]),
        ("When was James Madison born?", "James Madison was born in Ohio in 1980.", ["1980"]),
        ("Which king married Charlotte?", "The king was King Edward III of England.", ["King Edward III of England"]),
        ("Who won the 1966 World Cup?", "England won the 1966 World Cup at Wembley.", ["England"]),
        ("Which river runs through London?", "The River Thames is the longest river.", ["River Thames"]),
        ("Which band did he sing in?", "He was in the band The Fenty.", ["The Fenty"]),
        ("Who wrote it?", 'It was written by J.R.R. Tolkien in the novel "The Hobbit".', ["J.R.R. Tolkien"]),
        ("Which song is it?", 'The song is "Let It Be" by them.', ["Let It Be"]),
        ("Which song is it?", "Let It Be", ["Let It Be"]),
        ("Which plane is it?", "🚁", ["🚁"]),
        ("What is at -40?", "-41", ["-41"]),
        ("Is it common in men or women?", "Women.", ["Women"]),
        ("Which company makes Zune?", "The company that makes Zune is called Zune.", ["Zune"]),
        ("Which states?", "1. Australia\n2. New Zealand", ["Australia", "New Zealand"]),
        ("What is Rome?", "Rome is a city. It has 3 million people.", ["city", "3 million people"]),
    ],
)
def test_locator_takes_what_is_new(question, response, expected):
    assert claims(question, response) == expected


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        "...",
        "The answer is:",
        "I'm sorry, but I cannot help with that.",
        "I don't know who wrote Hamlet.",
        "The author of Hamlet is not known.",
        "As an AI language model, I have no opinion.",
        "Who wrote Hamlet?",
        "The",
    ],
)
def test_locator_finds_nothing_where_nothing_is_claimed(response):
    assert claims("Who wrote Hamlet?", response) == []


def test_locator_skips_the_echoed_instruction():
    assert claims("He plays the sport of", "The sport is Respond with the answer only, without any explanation.") == []


def test_abbreviations_and_initials_do_not_end_a_sentence():
    text = "It was J. K. Rowling of St. Ives. She left. 1. One\n2. Two"
    assert [text[start:end] for start, end in split_sentences(text)][:2] == [
        "It was J. K. Rowling of St. Ives.",
        "She left.",
    ]


def test_long_prompt_does_not_make_every_word_an_echo():
    passage = "Paris is the capital of France and lies on the Seine. " * 20
    assert claims(passage + "What is the capital of France?", "The capital of France is Paris.") == ["Paris"]


def test_locator_is_fast_and_deterministic():
    text = 'The title of the novel is "The Night Circus", which was written by Erin Morgenstern in 2011. ' * 3
    first = claims("Who wrote the novel?", text)
    began = time.process_time()
    assert all(claims("Who wrote the novel?", text) == first for _ in range(20))
    # Budget 1 ms a sentence; the factor allows for slow and busy machines.
    assert (time.process_time() - began) / 20 < 0.003 * 10


PARTS = (
    "Paris",
    "is",
    "the",
    '"',
    "'",
    ".",
    " ",
    "\n",
    "(",
    ")",
    ",",
    "🚁",
    "é",
    "東京",
    "1,000",
    "Who",
    "?",
    ":",
    "-",
)


@pytest.mark.parametrize("seed", range(3))
def test_any_text_gives_ranges_inside_it(seed):
    chance = random.Random(seed)
    for _ in range(200):
        question, response = ("".join(chance.choices(PARTS, k=chance.randrange(20))) for _ in range(2))
        end = 0
        for start, stop in find_claims(question, response):
            assert end <= start < stop <= len(response)
            end = stop


@pytest.mark.parametrize("seed", range(3))
def test_a_response_that_grows_has_the_claims_of_one_that_is_read_at_once(seed):
    chance = random.Random(seed)
    parts = (*PARTS, ". ", ". The ", "? ", ".\n", ' "', "。", "Mr", "J", "1.", " I don't know", " It is Rome")
    n_settled = 0
    for _ in range(400):
        question, response = ("".join(chance.choices(parts, k=chance.randrange(40))) for _ in range(2))
        reader, settled, at = ClaimReader(question), [], 0
        while at < len(response):
            at += chance.randrange(1, 4)
            found = reader.read(response[:at])
            assert found == find_claims(question, response[:at])
            assert reader.settled[: len(settled)] == settled == found[: len(settled)]
            settled = list(reader.settled)
        n_settled += len(settled)
    assert n_settled > 300


def test_a_long_response_is_read_once(monkeypatch):
    read = ClaimReader._read_sentence
    lengths = []

    def count(self, response, start, end, **options):
        lengths.append(end - start)
        return read(self, response, start, end, **options)

    monkeypatch.setattr(ClaimReader, "_read_sentence", count)
    reader, response = ClaimReader("Who wrote the novel?"), "It was written by Erin Morgenstern in 2011. " * 100
    for at in range(1, len(response)):
        reader.read(response[:at])
    assert sum(lengths) < 3 * len(response) * len("It was written by Erin Morgenstern in 2011. ")
    assert len(reader.settled) == 99
