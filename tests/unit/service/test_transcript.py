"""Text while it grows: characters cut over tokens, stop strings cut over tokens, rows that come a step late."""

import pytest

from service.engines.base import EvidenceStep, RowEvidence, ScoredSequence, TokenEvidence
from service.engines.fake import fake_tokenizer
from service.guard.response import read_scored
from service.guard.transcript import Transcript

TOKENIZER = fake_tokenizer()


def encode(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


def steps_of(ids, *, finish="stop"):
    """As an engine sends them: step k with row r_k and token k, then the last own row."""
    for at, token_id in enumerate(ids):
        yield EvidenceStep(RowEvidence((float(at),)), TokenEvidence(token_id, -0.1, 0.2))
    yield EvidenceStep(RowEvidence((float(len(ids)),)), None, finish)


def run(text: str, *, stop=(), rule="predicting"):
    """The transcript, the texts in the order in which they became ready, and how many steps it took."""
    transcript, shown, n_steps = Transcript(TOKENIZER, stop, rule), [], 0
    for step in steps_of(encode(text)):
        transcript.add(step)
        n_steps += 1
        shown += [transcript.token(at) for at in range(len(shown), transcript.n_ready)]
        if transcript.finish_reason is not None:
            break
    return transcript, shown, n_steps


@pytest.mark.parametrize("text", ["Paris", "naïve", "日本の首都", "ok 👩‍👩‍👧‍👦 done", "\U0001d518", "a\u0301", ""])
def test_shown_text_is_the_text_and_no_character_is_shown_in_halves(text):
    transcript, shown, _ = run(text)
    assert "".join(token.text for token in shown) == text == transcript.response().text
    assert "\ufffd" not in "".join(token.text for token in shown)
    assert len(shown) == len(encode(text))
    for token in shown:
        assert 0 <= token.start < token.end <= len(text)
    assert transcript.response().tokens == tuple(shown)


@pytest.mark.parametrize("rule", ["own", "predicting"])
@pytest.mark.parametrize("stop", [(), ("首",), ("\n\n", "do"), ("👧",), ("ok d",)])
def test_a_response_that_is_read_at_each_step_ends_as_one_that_is_read_once(stop, rule):
    text = "naïve 日本の首都\n\n\nok 👩‍👩‍👧‍👦 \U0001d518 a\u0301 done"
    transcript = Transcript(TOKENIZER, stop, rule)
    read = []
    for step in steps_of(encode(text)):
        transcript.add(step)
        read.append(transcript.response(transcript.n_ready))
        if transcript.finish_reason is not None:
            break
    whole = run(text, stop=stop, rule=rule)[0].response()
    assert read[-1] == whole
    for response in read:
        assert response.tokens == whole.tokens[: len(response.tokens)]
        assert whole.text.startswith(response.text)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_response_that_ends_inside_a_character_has_no_token_past_its_text(at):
    read, fresh = Transcript(TOKENIZER, (), "own"), Transcript(TOKENIZER, (), "own")
    for step in list(steps_of(encode("ab👍 cde")))[:-1]:
        read.add(step)
        fresh.add(step)
    assert read.n_ready >= at
    read.response(at)
    read.stop_after(at)
    fresh.stop_after(at)
    response = read.response()
    assert response == fresh.response()
    assert all(token.end <= len(response.text) for token in response.tokens)


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    transcript = Transcript(TOKENIZER, (), "predicting")
    for step in steps_of(encode("a") + encode("👍")[:2]):
        transcript.add(step)
    response = transcript.response()
    assert response.text == "a\ufffd"
    assert "".join(token.text for token in response.tokens) == response.text
    assert len(response.tokens) == 3


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("ab", ["abc"], "ab"),
        ("日本の首都", ["の首"], "日本"),
        ("hi 👍 there", ["👍"], "hi "),
        ("stop", ["s"], ""),
        ("x\n\ny", ["\n\n"], "x"),
    ],
)
@pytest.mark.parametrize("rule", ["own", "predicting"])
def test_text_is_cut_before_a_stop_string_across_tokens(text, stop, kept, rule):
    transcript, shown, _ = run(text, stop=stop, rule=rule)
    response = transcript.response()
    assert response.text == kept
    assert "".join(token.text for token in shown) == kept
    assert len(response.tokens) == len(encode(kept))
    assert transcript.finish_reason == "stop"


def test_a_stop_string_is_never_shown_and_then_taken_back():
    ids = encode("say STOP")
    transcript, shown = Transcript(TOKENIZER, ["STOP"], "predicting"), ""
    for step in steps_of(ids):
        transcript.add(step)
        text = "".join(transcript.token(at).text for at in range(transcript.n_ready))
        assert text.startswith(shown)
        shown = text
        if transcript.finish_reason:
            break
    assert shown == "say "


def test_a_token_that_straddles_the_cut_keeps_its_first_part():
    class Words:
        words = ("It", " is", " Par", "is.END", " more")

        def decode(self, token_ids, *, skip_special_tokens, clean_up_tokenization_spaces):
            return "".join(self.words[token_id] for token_id in token_ids)

    transcript = Transcript(Words(), ["END"], "predicting")
    for step in steps_of(range(5)):
        transcript.add(step)
        if transcript.finish_reason:
            break
    response = transcript.response()
    assert response.text == "It is Paris."
    assert [token.text for token in response.tokens] == ["It", " is", " Par", "is."]
    assert (response.tokens[-1].start, response.tokens[-1].end) == (9, 12)
    assert [transcript.token(at) for at in range(transcript.n_ready)] == list(response.tokens)
    scored = ScoredSequence(
        tuple(TokenEvidence(at, -0.1, 0.2) for at in range(4)), tuple(RowEvidence((float(at),)) for at in range(5))
    )
    assert read_scored(Words(), scored, "It is Paris.", "predicting") == response


@pytest.mark.parametrize(("rule", "steps"), [("predicting", 6), ("own", 6)])
def test_a_stop_string_ends_generation_at_once(rule, steps):
    """ "ab" + "STOP": the last kept token's own row has long come when the stop string is whole."""
    _, _, n_steps = run("abSTOPcdef", stop=["STOP"], rule=rule)
    assert n_steps == steps


@pytest.mark.parametrize(("rule", "steps"), [("predicting", 1), ("own", 2)])
def test_an_own_row_is_waited_for_when_the_cut_is_inside_the_last_token(rule, steps):
    class Words:
        def decode(self, token_ids, *, skip_special_tokens, clean_up_tokenization_spaces):
            return "".join(("Paris.END", "x", "y")[token_id] for token_id in token_ids)

    transcript, n_steps = Transcript(Words(), ["END"], rule), 0
    for step in steps_of(range(3)):
        transcript.add(step)
        n_steps += 1
        if transcript.finish_reason:
            break
    assert n_steps == steps
    assert transcript.response().text == "Paris."
    assert transcript.row(0) == RowEvidence((float(rule == "own"),))


def test_an_own_probe_shows_a_token_one_step_later():
    ids = encode("abc")
    counts = {}
    for rule in ("own", "predicting"):
        transcript = Transcript(TOKENIZER, (), rule)
        counts[rule] = []
        for step in steps_of(ids):
            transcript.add(step)
            counts[rule].append(transcript.n_ready)
    assert counts == {"own": [0, 1, 2, 3], "predicting": [1, 2, 3, 3]}


def test_rows_go_with_their_tokens():
    transcript, _, _ = run("abc", rule="own")
    assert [transcript.row(at) for at in range(3)] == [RowEvidence((float(at + 1),)) for at in range(3)]
    assert len(transcript.response().rows) == 4


def test_stop_after_drops_what_was_not_shown():
    transcript = Transcript(TOKENIZER, (), "own")
    for step in list(steps_of(encode("abcdef")))[:4]:
        transcript.add(step)
    transcript.stop_after(2)
    response = transcript.response()
    assert (response.text, len(response.tokens), len(response.rows)) == ("ab", 2, 3)
    assert transcript.finish_reason == "stop"
    assert transcript.n_ready == 2


def test_a_prefix_is_a_response_of_its_own():
    transcript, _, _ = run("héllo", rule="own")
    prefix = transcript.response(3)
    assert prefix.text == "hé"
    assert len(prefix.tokens) == 3
    assert len(prefix.rows) == 4


def test_unscored_text_waits_for_no_row():
    transcript = Transcript(TOKENIZER, ["END"], None)
    for token_id in encode("okEND"):
        transcript.add(EvidenceStep(None, TokenEvidence(token_id, -0.1, 0.2)))
    assert transcript.finish_reason == "stop"
    assert transcript.response().text == "ok"
    assert transcript.response().rows == ()
