"""Token offsets from the response's own tokens, and the tokens of what the locator finds."""

import random

import pytest

from probes.models import DEFAULT_MODEL, load_tokenizer, resolve_model
from probes.spans import AnswerSpan, TextStream, char_span_to_tokens, locate_answer, token_offsets
from tests.unit.probes.text_tokenizers import TEXTS, decode, make_tokenizer


def check_cover(text, offsets):
    """Ranges meet, none is reversed or goes back, and only broken characters are shared."""
    begin = end = 0
    for start, stop in offsets:
        assert max(begin, end - 1) <= start <= end
        assert start <= stop
        assert stop >= end
        begin, end = start, stop
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
