"""A prompt must be encoded the same way offline and online, special tokens written once."""

import pytest

from probes.prompts import BASE_EXAMPLES, NoChatTemplateError, encode_messages, encode_prompt
from tests.reference.tiny_tokenizer import ASSISTANT, USER, tiny_tokenizer


def text_of(ids):
    return tiny_tokenizer().decode(ids)


def test_a_prompt_is_one_user_turn_ready_for_the_answer():
    ids = encode_prompt(tiny_tokenizer(), "Who?")
    assert text_of(ids) == f"{USER}Who?{ASSISTANT}"
    assert ids == encode_messages(tiny_tokenizer(), [{"role": "user", "content": "Who?"}])
    assert all(isinstance(token, int) for token in ids)


def test_a_conversation_keeps_its_turns():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert text_of(encode_messages(tiny_tokenizer(), messages)) == f"{USER}a{ASSISTANT}b{USER}c{ASSISTANT}"


def test_special_tokens_that_the_template_writes_are_not_added_again():
    tokenizer = _with_bos()
    assert encode_prompt(tokenizer, "x", raw=True).count(0) == 1  # this tokenizer adds one of its own
    assert 0 not in encode_prompt(tokenizer, "x")  # but this template writes none


def test_the_official_way_of_rendering_gives_the_same_ids():
    tokenizer = tiny_tokenizer()
    messages = [{"role": "user", "content": "What is the capital of Peru?"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    assert encode_messages(tokenizer, messages) == list(getattr(rendered, "input_ids", rendered))


def test_a_raw_prompt_is_the_text_itself():
    assert text_of(encode_prompt(tiny_tokenizer(), "It was", raw=True)) == "It was"


def test_a_base_model_is_asked_in_a_form_that_it_continues_with_an_answer():
    tokenizer = tiny_tokenizer(has_template=False)
    asked = text_of(encode_prompt(tokenizer, "Who {was} it?"))
    assert asked.endswith(" The Nile\n\nQuestion: Who {was} it?\nAnswer:")
    assert asked.count("Question: ") == asked.count("Answer:") == len(BASE_EXAMPLES) + 1
    assert text_of(encode_prompt(tokenizer, "It was", raw=True)) == "It was"


def test_a_base_model_that_gets_messages_says_what_to_send():
    with pytest.raises(NoChatTemplateError, match=r'base model .* no "messages": send the question as "prompt"'):
        encode_messages(tiny_tokenizer(has_template=False), [{"role": "user", "content": "Who?"}])


@pytest.mark.parametrize("raw", [False, True])
def test_a_base_model_gets_the_beginning_of_sequence_token_once(raw):
    tokenizer = _with_bos(has_template=False)
    ids = encode_prompt(tokenizer, "Who?", raw=raw)
    assert ids[0] == tokenizer.bos_token_id == 0
    assert ids.count(0) == 1


def test_a_beginning_that_the_text_wrote_itself_is_not_doubled():
    for has_template in (False, True):
        tokenizer = _with_bos(has_template=has_template)
        assert encode_prompt(tokenizer, "<eos>Who?", raw=True) == encode_prompt(tokenizer, "Who?", raw=True)


def test_a_tokenizer_that_adds_no_beginning_is_not_overruled():
    assert 0 not in encode_prompt(tiny_tokenizer(has_template=False), "Who?")


def _with_bos(*, has_template=True):
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = type(tiny_tokenizer().backend_tokenizer).from_str(tiny_tokenizer().backend_tokenizer.to_str())
    core.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 0)])
    template = tiny_tokenizer(has_template=has_template).chat_template
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<eos>", chat_template=template)
