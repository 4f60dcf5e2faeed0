"""Token offsets from the response's own tokens, and the label-free answer locator."""

import json
import random
import time
from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from probes.claims import find_claims, split_sentences
from probes.models import DEFAULT_MODEL, load_tokenizer, resolve_model
from probes.spans import AnswerSpan, TextStream, char_span_to_tokens, locate_answer, token_offsets

TEXTS = [
    "The capital of France is Paris.",
    "Paris",
    " leading and trailing ",
    "naïve café, Padmé Amidala\u2019s O'Neill",
    "首都は東京です。",
    "A helicopter 🚁 and a family 👨‍👩‍👧‍👦!",
    "e\u0301 combining, tabs\tand\n\nlines",
    "🚁🚁🚁",
    "",
]


@cache
def make_tokenizer(kind):
    """A tiny real tokenizer: byte-level BPE that splits characters, or one with SentencePiece's leading-space marks."""
    special = ["<|endoftext|>", "<|im_end|>"]
    sample = ["The capital of France is Paris. The answer is London in England, Paris in France."] * 4
    if kind == "byte-level":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = []
        special = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(
        sample, trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet)
    )
    if kind != "byte-level":
        # The byte pieces had to be in the vocabulary, but they are text: decoding skips special tokens.
        saved = json.loads(raw.to_str())
        saved["added_tokens"] = [token for token in saved["added_tokens"] if not token["content"].startswith("<0x")]
        raw = Tokenizer.from_str(json.dumps(saved))
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", clean_up_tokenization_spaces=False)


def decode(tokenizer, token_ids):
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def check_cover(text, offsets):
    """Ranges meet, none is reversed, and only broken characters are shared."""
    end = 0
    for start, stop in offsets:
        assert end - 1 <= start <= end
        assert start <= stop
        assert stop >= end
        end = stop
    assert end == len(text)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize("text", TEXTS)
def test_offsets_cover_the_decoded_text_without_gaps(kind, text):
    tokenizer = make_tokenizer(kind)
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    decoded = decode(tokenizer, token_ids)
    check_cover(decoded, token_offsets(tokenizer, token_ids))


def test_pieces_between_offsets_are_the_tokens_own_text():
    tokenizer = make_tokenizer("byte-level")
    token_ids = tokenizer.encode(TEXTS[0], add_special_tokens=False)
    offsets = token_offsets(tokenizer, token_ids)
    assert [TEXTS[0][start:end] for start, end in offsets] == [decode(tokenizer, [token]) for token in token_ids]


def test_character_split_over_tokens_belongs_to_all_of_them():
    tokenizer = make_tokenizer("byte-level")
    token_ids = tokenizer.encode("a🚁b", add_special_tokens=False)
    offsets = token_offsets(tokenizer, token_ids)
    assert len(token_ids) == 6
    assert offsets == [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert char_span_to_tokens(offsets, 1, 2) == AnswerSpan(1, 5)


def test_leading_space_conventions_do_not_shift_later_tokens():
    tokenizer = make_tokenizer("sentencepiece")
    text = "The capital of France is Paris."
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    offsets = token_offsets(tokenizer, token_ids)
    assert decode(tokenizer, token_ids) == text
    span = char_span_to_tokens(offsets, text.index("Paris"), text.index("Paris") + 5)
    assert decode(tokenizer, token_ids[span.start : span.end]).strip(" .") == "Paris"


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_special_tokens_have_empty_ranges(kind):
    tokenizer = make_tokenizer(kind)
    token_ids = tokenizer.encode("The capital", add_special_tokens=False)
    end = tokenizer.eos_token_id
    mixed = [end, *token_ids, end]
    offsets = token_offsets(tokenizer, mixed)
    text = decode(tokenizer, mixed)
    check_cover(text, offsets)
    assert text == "The capital"
    assert offsets[0] == (0, 0)
    assert offsets[-1] == (len(text), len(text))


def test_same_word_in_other_tokens_is_still_found():
    # A model may spell a word in pieces that encoding the text again would never give.
    tokenizer = make_tokenizer("byte-level")
    token_ids = [
        token for letter in "The answer is Paris" for token in tokenizer.encode(letter, add_special_tokens=False)
    ]
    offsets = token_offsets(tokenizer, token_ids)
    assert char_span_to_tokens(offsets, 14, 19) == AnswerSpan(14, 19)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_keep_the_offsets_whole(seed):
    tokenizer = make_tokenizer("byte-level")
    token_ids = random.Random(seed).choices(range(10, len(tokenizer)), k=60)
    check_cover(decode(tokenizer, token_ids), token_offsets(tokenizer, token_ids))


def test_broken_character_at_the_end_is_covered():
    tokenizer = make_tokenizer("byte-level")
    token_ids = tokenizer.encode("a🚁", add_special_tokens=False)[:-1]
    check_cover(decode(tokenizer, token_ids), token_offsets(tokenizer, token_ids))


def test_streamed_text_never_shows_half_a_character():
    tokenizer = make_tokenizer("byte-level")
    token_ids = tokenizer.encode(TEXTS[5], add_special_tokens=False)
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in token_ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + stream.finish() == TEXTS[5] == stream.text
    assert stream.offsets == token_offsets(tokenizer, token_ids)


def test_decoding_is_linear_in_the_number_of_tokens():
    class Counting:
        def __init__(self, tokenizer):
            self.tokenizer, self.decoded = tokenizer, 0

        def decode(self, token_ids, **options):
            self.decoded += len(token_ids)
            return self.tokenizer.decode(token_ids, **options)

    counting = Counting(make_tokenizer("byte-level"))
    token_ids = counting.tokenizer.encode(" ".join(TEXTS) * 20, add_special_tokens=False)
    token_offsets(counting, token_ids)
    assert counting.decoded < 12 * len(token_ids)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_offsets_with_the_tokenizer_of_the_default_model(text):
    tokenizer = load_tokenizer(resolve_model(DEFAULT_MODEL))
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    check_cover(decode(tokenizer, token_ids), token_offsets(tokenizer, token_ids))


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 2), (3, 1)])
def test_span_that_holds_no_token_cannot_be_made(start, end):
    with pytest.raises(ValueError, match="answer span"):
        AnswerSpan(start, end)


def test_char_span_outside_every_token_is_none():
    assert char_span_to_tokens([(0, 3), (3, 3), (3, 5)], 5, 9) is None
    assert char_span_to_tokens([(0, 3), (3, 3), (3, 5)], 3, 4) == AnswerSpan(2, 3)


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


def test_spans_are_tokens_of_this_response_in_order():
    tokenizer = make_tokenizer("byte-level")
    text = "The capital is Paris. The answer is England."
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    spans = locate_answer("What is the capital?", text, token_offsets(tokenizer, token_ids))
    assert [decode(tokenizer, token_ids[span.start : span.end]).strip() for span in spans] == ["Paris", "England"]
    assert spans[0].end <= spans[1].start


def test_one_token_over_two_sentences_gives_disjoint_spans():
    spans = locate_answer("Which?", "It is Rome. It is Bonn.", [(0, 6), (6, 23)])
    assert spans == [AnswerSpan(1, 2)]


def test_locator_is_fast_and_deterministic():
    text = 'The title of the novel is "The Night Circus", which was written by Erin Morgenstern in 2011. ' * 3
    first = claims("Who wrote the novel?", text)
    began = time.process_time()
    assert all(claims("Who wrote the novel?", text) == first for _ in range(20))
    # Budget 1 ms a sentence; the factor allows for slow and busy machines.
    assert (time.process_time() - began) / 20 < 0.003 * 10


@pytest.mark.parametrize("seed", range(3))
def test_any_text_gives_ranges_inside_it(seed):
    chance = random.Random(seed)
    parts = [
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
    ]
    for _ in range(200):
        question, response = ("".join(chance.choices(parts, k=chance.randrange(20))) for _ in range(2))
        end = 0
        for start, stop in find_claims(question, response):
            assert end <= start < stop <= len(response)
            end = stop
